//! What the networks of one kelsond have in common: the names of the host's links, and the host's ports.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::model::PortMapping;
use crate::{plan, ports};

/// Who has which name and port. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Names of host links given away, and of those on their way out.
    links: HashSet<String>,
    ports: HashSet<PortMapping>,
}

impl Shared {
    /// Takes a name that is in use already.
    pub fn hold(&self, name: &str) {
        self.lock().links.insert(name.to_owned());
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.lock().links.contains(name)
    }

    /// A name for one more link of a container.
    pub(crate) fn claim(&self, container_id: &str) -> Result<String> {
        let names = &mut self.lock().links;
        let name = plan::host_link_name(container_id, |name| names.contains(name))?;
        names.insert(name.clone());
        Ok(name)
    }

    pub(crate) fn free(&self, name: &str) {
        self.lock().links.remove(name);
    }

    pub(crate) fn publish(&self, ports: &[PortMapping]) {
        self.lock().ports.extend(ports);
    }

    pub(crate) fn withdraw(&self, ports: &[PortMapping]) {
        let held = &mut self.lock().ports;
        for port in ports {
            held.remove(port);
        }
    }

    pub(crate) fn is_published(&self, wanted: &PortMapping) -> bool {
        self.lock().ports.iter().any(|held| ports::overlap(held, wanted))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
