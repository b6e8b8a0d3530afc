//! A container as the API shows it: from a snapshot, without waiting for anything but sizes, when they are asked for.

use std::sync::Arc;

use kelson_api::{
    ContainerInspect, ContainerState, EndpointSettings, GraphDriver, Map, MountPoint, NetworkSettings, Port,
    PortBinding,
};

use super::container::{Container, Snapshot};
use super::modes::NetworkMode;
use super::record::{MountKind, Place, Record, State, Status};
use super::{links, logging, network};
use crate::error::Result;
use crate::inner::Inner;
use crate::networks::Found;

pub(crate) async fn run(inner: &Arc<Inner>, name: &str, size: bool) -> Result<ContainerInspect> {
    let container = inner.containers.find(name)?;
    let mut out = describe(inner, &container);
    if size {
        (out.size_rw, out.size_root_fs) = sizes(inner, &container).await;
    }
    Ok(out)
}

/// Bytes of the writable layer, and of everything.
pub(crate) async fn sizes(inner: &Arc<Inner>, container: &Container) -> (Option<i64>, Option<i64>) {
    let own = inner.snapshot_size(&container.id).await.unwrap_or(0);
    let image = inner
        .images
        .resolve(&container.record().image_id)
        .map_or(0, |i| i.size());
    let number = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    (number(own), number(own + image))
}

fn describe(inner: &Inner, container: &Container) -> ContainerInspect {
    let Snapshot { record, state } = container.snapshot();
    let file = |name: &str| container.dir.join(name).display().to_string();
    let etc = |name: &str| {
        if state.started_at == kelson_api::ZERO_TIME {
            String::new()
        } else {
            file(name)
        }
    };
    let execs = container.execs();
    ContainerInspect {
        id: record.id.clone(),
        created: record.created.clone(),
        path: record.path.clone(),
        args: record.args.clone(),
        state: api_state(&state),
        image: record.image_id.clone(),
        resolv_conf_path: etc("resolv.conf"),
        hostname_path: etc("hostname"),
        hosts_path: etc("hosts"),
        log_path: logging::shown_path(&record, &container.dir)
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        name: format!("/{}", record.name),
        restart_count: state.restart_count,
        driver: inner.config.storage_driver.name().into(),
        platform: "linux".into(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: String::new(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: kelson_api::HostConfig {
            links: links::shown(&record),
            ..record.host.clone()
        },
        graph_driver: graph_driver(inner, &record),
        size_rw: None,
        size_root_fs: None,
        mounts: mount_points(&record),
        config: record.config.clone(),
        network_settings: network_settings(inner, &record, &state),
    }
}

fn api_state(state: &State) -> ContainerState {
    ContainerState {
        status: state.status.as_str().into(),
        // docker's Running covers the pause and the time between two runs, too.
        running: state.status.has_process() || state.status == Status::Restarting,
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: state.pid.into(),
        exit_code: state.exit_code,
        error: state.error.clone(),
        started_at: state.started_at.clone(),
        finished_at: state.finished_at.clone(),
        health: state.health.as_ref().map(|h| kelson_api::Health {
            status: h.status.as_str().into(),
            failing_streak: h.failing_streak,
            log: Some(h.log.clone()),
        }),
    }
}

fn graph_driver(inner: &Inner, record: &Record) -> GraphDriver {
    let option = |mount: &kelson_images::RootMount, key: &str| {
        mount
            .options
            .iter()
            .find_map(|o| o.strip_prefix(key).map(str::to_owned))
            .unwrap_or_default()
    };
    let data = inner.images.root_mount(&record.id).ok().map(|mount| {
        Map::from([
            ("LowerDir".to_owned(), option(&mount, "lowerdir=")),
            (
                "MergedDir".to_owned(),
                inner
                    .roots
                    .bundle(&record.id)
                    .join("rootfs")
                    .display()
                    .to_string(),
            ),
            ("UpperDir".to_owned(), option(&mount, "upperdir=")),
            ("WorkDir".to_owned(), option(&mount, "workdir=")),
        ])
    });
    GraphDriver {
        data,
        name: inner.config.storage_driver.name().into(),
    }
}

pub(crate) fn mount_points(record: &Record) -> Vec<MountPoint> {
    record
        .mounts
        .iter()
        .map(|m| MountPoint {
            r#type: m.kind.as_str().into(),
            name: m.name.clone(),
            source: m.source.display().to_string(),
            destination: m.destination.display().to_string(),
            driver: if m.kind == MountKind::Volume {
                "local".into()
            } else {
                String::new()
            },
            mode: m.mode.clone(),
            rw: m.rw,
            propagation: m.propagation.clone(),
        })
        .collect()
}

/// Its place on each network.
pub(crate) fn endpoints(inner: &Inner, record: &Record, state: &State) -> Map<EndpointSettings> {
    let mode = match NetworkMode::of(record) {
        Ok(NetworkMode::Container(_)) | Err(_) => return Map::new(),
        Ok(mode) => mode,
    };
    let mut all = record.networks.clone();
    let without_places = match mode {
        NetworkMode::Host => Some("host"),
        NetworkMode::None => Some("none"),
        _ => None,
    };
    if let Some(name) = without_places {
        all = Map::from([(name.to_owned(), EndpointSettings::default())]);
    } else if all.is_empty() && !state.status.has_process() {
        all.insert(network::primary(inner, &mode), EndpointSettings::default());
    }
    for place in &state.places {
        all.entry(place.name.clone()).or_default();
    }
    for (name, settings) in &mut all {
        describe_endpoint(inner, record, state, name, settings);
    }
    all
}

fn describe_endpoint(
    inner: &Inner,
    record: &Record,
    state: &State,
    name: &str,
    settings: &mut EndpointSettings,
) {
    let found = inner.networks.find(name);
    if let Ok(Found::User(_)) = &found {
        let mut names = network::dns_names(record, settings);
        names.push(record.id[..12].to_owned());
        settings.dns_names = Some(names);
    }
    settings.network_id = match found {
        Ok(Found::User(network)) => network.record.id.clone(),
        Ok(Found::Predefined(name)) => inner.networks.predefined_id(name),
        Err(_) => String::new(),
    };
    if let Some(Place { id, endpoint, .. }) = state.places.iter().find(|p| p.name == name) {
        settings.endpoint_id.clone_from(id);
        // An internal network leads nowhere.
        if !matches!(inner.networks.find(name), Ok(Found::User(n)) if n.record.internal) {
            settings.gateway = endpoint.gateway.to_string();
        }
        settings.ip_address = endpoint.ip.to_string();
        settings.ip_prefix_len = endpoint.prefix_len.into();
        settings.mac_address = endpoint.mac.to_string();
    }
}

fn network_settings(inner: &Inner, record: &Record, state: &State) -> NetworkSettings {
    let networks = endpoints(inner, record, state);
    let on_bridge = networks.get("bridge").cloned().unwrap_or_default();
    let mut ports: kelson_api::PortMap = Map::new();
    if state.status.has_process() {
        let exposed = record.config.exposed_ports.iter().flatten().map(|(p, _)| p);
        for port in exposed.chain(record.host.port_bindings.iter().flatten().map(|(p, _)| p)) {
            ports.entry(port.clone()).or_insert(None);
        }
        for m in &state.ports {
            let binding = PortBinding {
                host_ip: m.host_ip.to_string(),
                host_port: m.host_port.to_string(),
            };
            let entry = ports
                .entry(format!("{}/{}", m.container_port, m.proto))
                .or_insert(None);
            entry.get_or_insert_default().push(binding);
        }
    }
    NetworkSettings {
        sandbox_id: state.places.first().map(|p| p.id.clone()).unwrap_or_default(),
        sandbox_key: if state.pid > 0 {
            format!("/proc/{}/ns/net", state.pid)
        } else {
            String::new()
        },
        ports: Some(ports),
        endpoint_id: on_bridge.endpoint_id.clone(),
        gateway: on_bridge.gateway.clone(),
        ip_address: on_bridge.ip_address.clone(),
        ip_prefix_len: on_bridge.ip_prefix_len,
        mac_address: on_bridge.mac_address.clone(),
        networks: Some(networks),
        ..NetworkSettings::default()
    }
}

/// The ports of the list: published ones with their host's side, exposed ones without.
pub(crate) fn ports(record: &Record, state: &State) -> Vec<Port> {
    let mut out: Vec<Port> = state
        .ports
        .iter()
        .map(|m| Port {
            ip: m.host_ip.to_string(),
            private_port: m.container_port,
            public_port: m.host_port,
            r#type: m.proto.as_str().into(),
        })
        .collect();
    if state.status.has_process() {
        for port in record.config.exposed_ports.iter().flatten().map(|(p, _)| p) {
            let Ok((proto, number)) = super::modes::container_port(port) else {
                continue;
            };
            if !out
                .iter()
                .any(|p| p.private_port == number && p.r#type == proto.as_str())
            {
                let r#type = proto.as_str().to_owned();
                out.push(Port {
                    ip: String::new(),
                    private_port: number,
                    public_port: 0,
                    r#type,
                });
            }
        }
    }
    out
}
