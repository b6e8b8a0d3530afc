//! A second host, one cable away: what reaches a published port from there came through the firewall and not
//! the loopback.

use std::process::Command;

use super::command::{LIMIT, run};
use super::programs::peer;

/// Our end of the cable.
pub const HERE: &str = "192.0.2.1";
const THERE: &str = "192.0.2.2";
const NAME: &str = "outside";

/// The other host. It ends with the enclosure.
#[derive(Debug)]
pub struct Outside;

impl Outside {
    #[track_caller]
    pub fn connect() -> Self {
        let steps = [
            format!("netns add {NAME}"),
            format!("link add cable0 type veth peer name cable1 netns {NAME}"),
            format!("address add {HERE}/24 dev cable0"),
            "link set cable0 up".to_owned(),
            format!("-n {NAME} address add {THERE}/24 dev cable1"),
            format!("-n {NAME} link set cable1 up"),
            format!("-n {NAME} link set lo up"),
        ];
        for step in steps {
            run(Command::new(peer("ip")).args(step.split(' ')), LIMIT).ok();
        }
        Self
    }

    /// A page of ours, as that host sees it.
    pub fn get(&self, port: u16, path: &str) -> super::command::Outcome {
        let mut command = Command::new(peer("nsenter"));
        command.arg(format!("--net=/run/netns/{NAME}")).arg(peer("curl"));
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            &format!("http://{HERE}:{port}{path}"),
        ]);
        run(&mut command, LIMIT)
    }

    /// Takes the cable out, so that the links are as they were.
    #[track_caller]
    pub fn disconnect(self) {
        run(Command::new(peer("ip")).args(["link", "del", "cable0"]), LIMIT).ok();
        run(Command::new(peer("ip")).args(["netns", "del", NAME]), LIMIT).ok();
        // Its first use made this a mount point of its own.
        nix::mount::umount2("/run/netns", nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}
