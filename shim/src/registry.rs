//! The containers of this shim: one that was there from the beginning, or those of a pod, which come and go.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kelson_shim_proto::task::CreateTaskRequest;

use crate::container::Container;
use crate::containerd::maker::Maker;
use crate::error::{Error, Kind, Result, lock};
use crate::lifetime::Lifetime;

/// Containers by their ids.
#[derive(Debug)]
pub struct Registry {
    containers: Mutex<HashMap<String, Arc<Container>>>,
    maker: Option<Maker>,
    lifetime: Arc<Lifetime>,
}

impl Registry {
    /// With one container, for good.
    pub fn of_one(container: Arc<Container>, lifetime: Arc<Lifetime>) -> Arc<Self> {
        Arc::new(Self {
            containers: Mutex::new(HashMap::from([(container.id.clone(), container)])),
            maker: None,
            lifetime,
        })
    }

    /// With containers that `maker` makes, until each is deleted.
    pub fn of_many(maker: Maker, lifetime: Arc<Lifetime>) -> Arc<Self> {
        Arc::new(Self {
            containers: Mutex::default(),
            maker: Some(maker),
            lifetime,
        })
    }

    /// A container by its id.
    pub fn find(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::new(Kind::NotFound, format!("no container {id:?} in this shim")))
    }

    /// The container that a `Create` is about.
    pub fn to_create(&self, request: &CreateTaskRequest) -> Result<Arc<Container>> {
        let Some(maker) = &self.maker else {
            return self.find(&request.id);
        };
        let mut containers = lock(&self.containers);
        if containers.contains_key(&request.id) {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("container {} was created before", request.id),
            ));
        }
        let container = maker.make(request)?;
        containers.insert(request.id.clone(), Arc::clone(&container));
        self.lifetime.update(|facts| facts.kept += 1);
        Ok(container)
    }

    /// Forgets a container that could not be created, or was deleted. One that was there from the beginning stays.
    pub fn forget(&self, container: &Arc<Container>) {
        if self.maker.is_none() {
            return;
        }
        let mut containers = lock(&self.containers);
        let known = containers.get(&container.id);
        if known.is_some_and(|known| Arc::ptr_eq(known, container)) {
            containers.remove(&container.id);
            self.lifetime.update(|facts| facts.kept -= 1);
        }
    }

    /// Whether a client that asks for the shim's end gets it. Containerd asks after every `Delete`, and the last one
    /// counts; our engine may insist (`now`).
    pub fn may_end(&self, now: bool) -> bool {
        let containers = lock(&self.containers);
        match &self.maker {
            Some(_) => containers.is_empty(),
            None => now || !containers.values().any(|container| container.is_alive()),
        }
    }
}
