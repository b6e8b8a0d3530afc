//! Where messages go, one file for each driver.

mod fluentd;
mod gelf;
mod journald;
mod syslog;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::details::Details;
use crate::input::Message;
use crate::net::{Address, Connection};

/// All drivers.
pub const NAMES: [&str; 4] = ["syslog", "journald", "fluentd", "gelf"];

/// A destination. It may be slow; what it cannot take at all is an error, and that message is lost.
pub trait Sink {
    /// Delivers one message.
    fn send(&mut self, message: &Message) -> Result<()>;

    /// There will be no more.
    fn finish(&mut self) {}
}

/// The driver `name`, connected.
pub fn open(name: &str, details: Details) -> Result<Box<dyn Sink>> {
    Ok(match name {
        "syslog" => Box::new(syslog::Syslog::open(&details)?),
        "journald" => Box::new(journald::Journald::open(&details)?),
        "fluentd" => Box::new(fluentd::Fluentd::open(details)?),
        "gelf" => Box::new(gelf::Gelf::open(&details)?),
        _ => bail!("no driver named {name}"),
    })
}

/// A connection that is made again when it breaks.
#[derive(Debug)]
struct Lasting {
    address: Address,
    connection: Option<Connection>,
    retry: Retry,
}

/// How often, and how soon, a broken connection is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// Tries after the first.
    times: u32,
    /// Before the first of them.
    wait: Duration,
    /// By how much each wait is longer than the one before, in percent.
    growth: u32,
}

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Lasting {
    fn new(address: Address, retry: Retry) -> Self {
        Self {
            address,
            connection: None,
            retry,
        }
    }

    fn connect(&mut self) -> Result<()> {
        self.connection = Some(self.address.connect()?);
        Ok(())
    }

    /// Sends, through a new connection if the old one is broken.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let mut wait = self.retry.wait;
        let mut left = self.retry.times;
        loop {
            let sent = match &mut self.connection {
                Some(connection) => connection.send(bytes).map_err(Into::into),
                None => self.connect().and_then(|()| match &mut self.connection {
                    Some(connection) => connection.send(bytes).map_err(Into::into),
                    None => bail!("{} is not connected", self.address),
                }),
            };
            let Err(error) = sent else { return Ok(()) };
            // A message that was sent in part is sent again as a whole: twice is better than torn.
            self.connection = None;
            if left == 0 {
                return Err(error.context(format!("send to {}", self.address)));
            }
            left -= 1;
            pause(wait);
            wait = (wait * self.retry.growth / 100).min(LONGEST_WAIT);
        }
    }
}

/// Waits out the time between two tries.
fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::sleep(left);
    }
}
