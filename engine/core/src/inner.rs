//! What all operations share: the stores, the settings, and how an event of each kind of object looks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kelson_api::Map;
use kelson_images::{ImageId, Images, ImagesConfig, InUse, Removed};

use crate::clock;
use crate::config::{EngineConfig, NetworkSettings};
use crate::containers::container::{Container, Registry};
use crate::containers::exec::Execs;
use crate::containers::reconcile;
use crate::containers::record::{MountKind, MountRecord, Place, Record};
use crate::error::{Doing, Error, Kind, Result};
use crate::events::Events;
use crate::networks::Networks;
use crate::seccomp::Seccomp;
use crate::spec::caps;
use crate::spec::users;
use crate::store::Roots;
use crate::types::Nanos;
use crate::volumes::{Volumes, copy};

/// Images whose passwd and group files are remembered.
const CACHED_USERS: usize = 64;

/// passwd and group of images, for containers that have not changed theirs yet.
#[derive(Debug, Default)]
pub(crate) struct UserFiles(Mutex<HashMap<String, users::Files>>);

impl UserFiles {
    pub fn get(&self, image: &str) -> Option<users::Files> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(image)
            .cloned()
    }

    pub fn put(&self, image: &str, files: users::Files) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= CACHED_USERS {
            map.clear();
        }
        map.insert(image.to_owned(), files);
    }
}

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub config: EngineConfig,
    pub roots: Roots,
    pub images: Images,
    pub volumes: Volumes,
    pub networks: Networks,
    pub containers: Registry,
    pub execs: Execs,
    pub events: Arc<Events>,
    pub seccomp: Seccomp,
    pub users: UserFiles,
    /// Capabilities this process may hand on.
    pub held_caps: BTreeSet<String>,
    /// The host has cgroup v2 only.
    pub unified_cgroup: bool,
    network: Option<kelson_network::Network>,
    shutting_down: AtomicBool,
    /// Some container has links, or had.
    links: AtomicBool,
    /// Containers whose record cannot be read: what is theirs is not removed.
    unreadable: Mutex<HashSet<String>>,
}

/// Runs something that blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|e| Err(Error::internal(format!("{what}: {e}"))))
}

impl Inner {
    /// The bridge network.
    ///
    /// # Errors
    /// `Unsupported` when it is switched off.
    pub fn network(&self) -> Result<&kelson_network::Network> {
        self.network
            .as_ref()
            .ok_or_else(|| Error::unsupported("the bridge network is switched off (--bridge none)"))
    }

    pub fn has_links(&self) -> bool {
        self.links.load(Ordering::Relaxed)
    }

    /// Remembers that there are links, if this record has some.
    pub fn note_links(&self, record: &Record) {
        if record.host.links.as_ref().is_some_and(|links| !links.is_empty()) {
            self.links.store(true, Ordering::Relaxed);
        }
    }

    pub fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::Relaxed);
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Relaxed)
    }

    /// Emits an event of a container, with docker's attributes: image, name, labels, and the action's own.
    pub fn emit(&self, container: &Container, action: &str, extra: &[(&str, String)]) {
        self.emit_at(container, action, extra, None);
    }

    pub fn emit_at(&self, container: &Container, action: &str, extra: &[(&str, String)], at: Option<Nanos>) {
        let record = container.record();
        let mut attributes: Map<String> = record.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), record.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        let at = at.unwrap_or_else(clock::now_nanos);
        self.events
            .emit_at("container", action, &container.id, attributes, at);
    }

    pub fn network_event(&self, action: &str, place: &Place, container: &str) {
        let attributes = [
            ("container", container),
            ("name", &place.name),
            ("type", "bridge"),
        ];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        self.events.emit("network", action, &place.network, attributes);
    }

    pub fn volume_event(&self, action: &str, container: &Container, mount: &MountRecord) {
        let mut attributes: Map<String> = [
            ("container".to_owned(), container.id.clone()),
            ("driver".to_owned(), "local".to_owned()),
        ]
        .into();
        if action == "mount" {
            attributes.insert("destination".into(), mount.destination.display().to_string());
            attributes.insert("propagation".into(), mount.propagation.clone());
            attributes.insert("read/write".into(), mount.rw.to_string());
        }
        self.events.emit("volume", action, &mount.name, attributes);
    }

    /// Ids of containers that mention a volume.
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let mentions = |c: &Arc<Container>| {
            c.record()
                .mounts
                .iter()
                .any(|m| m.kind == MountKind::Volume && m.name == name)
        };
        self.containers
            .all()
            .iter()
            .filter(|c| mentions(c))
            .map(|c| c.id.clone())
            .collect()
    }

    /// Bytes of a container's writable layer.
    pub async fn snapshot_size(&self, id: &str) -> Result<u64> {
        let own = self.images.own_directory(id)?;
        blocking("measure a container", move || Ok(copy::size(&own))).await
    }

    pub fn keep_snapshot(&self, dir: &Path) {
        if let Some(id) = dir.file_name().and_then(|n| n.to_str()) {
            self.unreadable
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id.to_owned());
        }
    }

    pub fn kept_snapshots(&self) -> HashSet<String> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Who uses an image; one that runs counts most.
    pub fn image_user(&self, id: &ImageId) -> Option<InUse> {
        let id = id.to_string();
        let mut found = None;
        for container in self.containers.all().iter().filter(|c| c.record().image_id == id) {
            let running = container.status().has_process();
            if running || found.is_none() {
                found = Some(InUse {
                    container: container.id.clone(),
                    running,
                });
            }
            if running {
                break;
            }
        }
        found
    }

    pub fn removed_events(&self, removed: &[Removed], name: &str) {
        for item in removed {
            match item {
                Removed::Untagged(reference) => {
                    self.events.emit(
                        "image",
                        "untag",
                        name,
                        [("name".to_owned(), reference.clone())].into(),
                    );
                }
                Removed::DeletedLayer(_) => {}
                Removed::Deleted(digest) => {
                    let id = digest.to_string();
                    self.events
                        .emit("image", "delete", &id, [("name".to_owned(), id.clone())].into());
                }
            }
        }
    }
}

fn network_config(settings: &NetworkSettings) -> Result<kelson_network::NetworkConfig> {
    let net = |text: &str| {
        text.parse::<kelson_network::Ipv4Net>()
            .map_err(|e| Error::with_source(Kind::Invalid, format!("read the network address {text}"), e))
    };
    let mut config = kelson_network::NetworkConfig {
        bridge: (!settings.bridge.is_empty()).then(|| settings.bridge.clone()),
        bip: settings.bip.as_deref().map(net).transpose()?,
        mtu: settings.mtu,
        default_host_ip: settings.default_host_ip,
        ip_forward: settings.ip_forward,
        firewall: settings.firewall,
        masquerade: settings.masquerade,
        inter_container: settings.icc,
        ..kelson_network::NetworkConfig::default()
    };
    // The default name lets a second daemon on the host take the next one.
    if settings.bridge == NetworkSettings::default().bridge {
        config.bridge = None;
    }
    if !settings.pools.is_empty() {
        config.pools = Vec::new();
        for (base, size) in &settings.pools {
            let base = net(base)?;
            let subnets = base.subnets(*size).map_err(|e| {
                Error::with_source(
                    Kind::Invalid,
                    format!("cut the address pool {base} into networks of /{size}"),
                    e,
                )
            })?;
            // A handful is enough for one bridge.
            config.pools.extend(subnets.take(16));
        }
    }
    Ok(config)
}

/// Opens both roots and reads all records.
pub(crate) fn open_blocking(config: EngineConfig) -> Result<Inner> {
    let roots = Roots::open(&config.data_root, &config.exec_root)?;
    let images = Images::open(
        &config.data_root,
        ImagesConfig {
            insecure_registries: config.insecure_registries.clone(),
            registry_mirrors: config.registry_mirrors.clone(),
            max_concurrent_downloads: config.max_concurrent_downloads,
            max_concurrent_uploads: config.max_concurrent_uploads,
            storage_driver: config.storage_driver,
            proxies: config.proxies.clone(),
            ..ImagesConfig::default()
        },
    )?;
    let networks = Networks::open(&roots, &config)?;
    let network = if config.network.enabled {
        Some(kelson_network::Network::open_beside(
            &roots.networks(),
            network_config(&config.network)?,
            &networks.shared,
        )?)
    } else {
        None
    };
    let events = Arc::new(Events::new());
    let profile = match &config.seccomp_profile {
        Some(path) if path.as_os_str() == "unconfined" => {
            Some(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_owned())
        }
        Some(path) => Some(
            std::fs::read_to_string(path).doing(|| format!("read the seccomp profile {}", path.display()))?,
        ),
        None => None,
    };
    let inner = Inner {
        volumes: Volumes::open(roots.volumes(), events.clone())?,
        networks,
        containers: Registry::default(),
        execs: Execs::default(),
        seccomp: Seccomp::new(profile)?,
        users: UserFiles::default(),
        held_caps: caps::held(),
        unified_cgroup: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        shutting_down: AtomicBool::new(false),
        links: AtomicBool::new(false),
        unreadable: Mutex::default(),
        config,
        roots,
        images,
        network,
        events,
    };
    reconcile::load(&inner)?;
    Ok(inner)
}
