//! Published ports: what arrives at the sockets that the engine bound goes to the container, and lives on when
//! the engine does not.
mod tcp;
mod udp;

use std::os::fd::OwnedFd;

use kelson_shim_proto::serve::{PortParams, Proto};
use tokio::task::JoinHandle;

use crate::diagnostics;

/// The published ports of one container.
#[derive(Debug, Default)]
pub struct Forwarders {
    ports: Vec<(PortParams, OwnedFd)>,
    running: Vec<JoinHandle<()>>,
}

impl Forwarders {
    /// Forwarders that do not forward yet; what comes in meanwhile waits in the sockets.
    pub fn new(ports: Vec<(PortParams, OwnedFd)>) -> Self {
        Self {
            ports,
            running: Vec::new(),
        }
    }

    /// Begins to forward.
    pub fn start(&mut self) {
        for (port, socket) in self.ports.drain(..) {
            let started = match port.proto {
                Proto::Tcp => tcp::start(socket.into(), port.target),
                Proto::Udp => udp::start(socket.into(), port.target),
            };
            match started {
                Ok(task) => self.running.push(task),
                Err(error) => diagnostics::report(&format!("forward to {}: {error}", port.target)),
            }
        }
    }

    /// Closes the published sockets. TCP connections under way end by themselves: the container is gone.
    pub fn stop(&mut self) {
        self.ports.clear();
        for task in self.running.drain(..) {
            task.abort();
        }
    }
}
