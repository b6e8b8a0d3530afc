//! Tells containerd what happened, each event once and in order, as long as it takes.
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::containerd::events::{Event, FORWARD};
use kelson_shim_proto::time::Time;
use ttrpc::r#async::Client;
use ttrpc::proto::Request;

use super::argv::Argv;
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Queue;
use crate::reaper::Reaper;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Pauses after failed attempts double from the first to the second. While containerd is away that is all a shim does.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long a shim that ends still tries.
pub const FAREWELL: Duration = Duration::from_secs(3);

/// Where events go.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Containerd's event service.
    Socket(String),
    /// `BINARY --address ADDRESS publish`.
    Program {
        binary: String,
        address: String,
        reaper: Arc<Reaper>,
    },
}

impl Publisher {
    /// By the socket if there is one, else by the program.
    pub fn new(argv: &Argv, reaper: Arc<Reaper>) -> Self {
        let way = if argv.ttrpc_address.is_empty() {
            Way::Program {
                binary: argv.publish_binary.clone(),
                address: argv.address.clone(),
                reaper,
            }
        } else if argv.ttrpc_address.contains("://") {
            Way::Socket(argv.ttrpc_address.clone())
        } else {
            Way::Socket(format!("unix://{}", argv.ttrpc_address))
        };
        Self {
            namespace: argv.namespace.clone(),
            way,
        }
    }
}

/// Takes events out of `queue` until the shim ends.
pub async fn run(publisher: Publisher, queue: Arc<Queue>) {
    let mut pause = PAUSES.0;
    loop {
        let next = queue.front().await;
        // One connection for all that wait; between events there is none, and it costs nothing.
        match publisher.send_all(&next, &queue).await {
            Ok(()) => pause = PAUSES.0,
            Err(error) => {
                if pause == PAUSES.0 {
                    diagnostics::report(&format!("{error}; trying again"));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

impl Publisher {
    async fn send_all(&self, first: &(Event, Time), queue: &Queue) -> Result<()> {
        let mut event = first.clone();
        match &self.way {
            Way::Program {
                binary,
                address,
                reaper,
            } => {
                self.run_program(binary, address, reaper, &event.0).await?;
                queue.taken(&event);
                Ok(())
            }
            Way::Socket(address) => {
                let lost = |error: ttrpc::Error| {
                    Error::new(Kind::Internal, format!("publish to {address}: {error}"))
                };
                let client = Client::connect(address).await.map_err(lost)?;
                loop {
                    self.forward(&client, &event).await.map_err(lost)?;
                    queue.taken(&event);
                    if queue.is_empty() {
                        return Ok(());
                    }
                    event = queue.front().await;
                }
            }
        }
    }

    async fn forward(&self, client: &Client, (event, at): &(Event, Time)) -> ttrpc::Result<()> {
        let request = Request {
            service: FORWARD.0.to_owned(),
            method: FORWARD.1.to_owned(),
            timeout_nano: i64::try_from(ATTEMPT.as_nanos()).unwrap_or(i64::MAX),
            payload: event.forward_request(&self.namespace, *at),
            ..Default::default()
        };
        client.request(request).await.map(drop)
    }

    async fn run_program(
        &self,
        binary: &str,
        address: &str,
        reaper: &Arc<Reaper>,
        event: &Event,
    ) -> Result<()> {
        let doing = || format!("publish by {binary}");
        let file = rustix::fs::memfd_create(c"event", rustix::fs::MemfdFlags::CLOEXEC).doing(doing)?;
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, &event.any()).doing(doing)?;
        std::io::Seek::rewind(&mut file).doing(doing)?;
        let _expecting = reaper.expecting();
        let child = Command::new(binary)
            .args([
                "--address",
                address,
                "publish",
                "--topic",
                event.topic_and_type().0,
            ])
            .args(["--namespace", &self.namespace])
            .stdin(Stdio::from(file))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing(doing)?;
        let ended = reaper.exit_of(i32::try_from(child.id()).unwrap_or(0));
        match tokio::time::timeout(ATTEMPT, ended).await {
            Ok(Ok(exit)) if exit.status == 0 => Ok(()),
            Ok(Ok(exit)) => Err(Error::new(
                Kind::Internal,
                format!("{}: exit status {}", doing(), exit.status),
            )),
            Ok(Err(_)) | Err(_) => Err(Error::new(Kind::Deadline, format!("{}: no end in time", doing()))),
        }
    }
}
