//! The three networks every engine has: bridge, host, none. Their ids are made once and kept.

use std::path::Path;

use kelson_api::{EndpointResource, Filters, Ipam, IpamConfig, Map, Network};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::containers::inspect::network_name;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::names;
use crate::store::{self, Durability, FORMAT};

const RECORD: &str = "predefined.json";

const NAMES: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// Ids and age of the predefined networks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Networks {
    format: u32,
    created: String,
    ids: Map<String>,
}

impl Networks {
    pub fn open(dir: &Path) -> Result<Self> {
        match store::load::<Self>(&dir.join(RECORD)) {
            Ok(Some(have)) => return Ok(have),
            Ok(None) => {}
            Err(e) => tracing::error!(error = %e, "the networks' record is of no use and is made again"),
        }
        let mut ids = Map::new();
        for (name, _) in NAMES {
            ids.insert(name.to_owned(), names::new_id()?);
        }
        let new = Self {
            format: FORMAT,
            created: clock::now(),
            ids,
        };
        store::save(dir, RECORD, &new, Durability::Volatile)?;
        Ok(new)
    }

    pub fn id(&self, name: &str) -> String {
        self.ids.get(name).cloned().unwrap_or_default()
    }
}

pub(crate) fn list(inner: &Inner, filters: &Filters) -> Result<Vec<Network>> {
    filters
        .only(&["dangling", "driver", "id", "label", "name", "scope", "type"])
        .map_err(|e| Error::invalid(e.to_string()))?;
    let dangling = filters
        .boolean("dangling")
        .map_err(|e| Error::invalid(e.to_string()))?;
    let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(test);
    let mut out = Vec::new();
    for (name, driver) in NAMES {
        let id = inner.networks.id(name);
        let wanted = any("name", &|w| name.contains(w))
            && any("id", &|w| id.starts_with(w))
            && any("driver", &|w| driver == w)
            && any("scope", &|w| w == "local")
            && any("type", &|w| w == "builtin")
            // They have no labels, and are never dangling.
            && !filters.has("label")
            && dangling != Some(true);
        if wanted && (name != "bridge" || inner.config.network.enabled) {
            out.push(Network {
                containers: Some(Map::new()),
                ..describe(inner, name, driver)?
            });
        }
    }
    Ok(out)
}

pub(crate) fn inspect(inner: &Inner, word: &str) -> Result<Network> {
    let found = NAMES
        .iter()
        .find(|(name, _)| *name == word || (word.len() >= 3 && inner.networks.id(name).starts_with(word)));
    match found {
        Some((name, driver)) if *name != "bridge" || inner.config.network.enabled => {
            describe(inner, name, driver)
        }
        _ => Err(Error::not_found(format!("network {word} not found"))),
    }
}

fn describe(inner: &Inner, name: &str, driver: &str) -> Result<Network> {
    let mut containers = Map::new();
    for container in inner.containers.all() {
        let snapshot = container.snapshot();
        if !snapshot.state.status.has_process() || network_name(&snapshot.record) != Some(name) {
            continue;
        }
        let (record, state) = (&snapshot.record, &snapshot.state);
        let address = state
            .endpoint
            .as_ref()
            .map(|e| format!("{}/{}", e.ip, e.prefix_len));
        let resource = EndpointResource {
            name: record.name.clone(),
            endpoint_id: state.endpoint_id.clone(),
            mac_address: state
                .endpoint
                .as_ref()
                .map(|e| e.mac.to_string())
                .unwrap_or_default(),
            ipv4_address: address.unwrap_or_default(),
            ipv6_address: String::new(),
        };
        containers.insert(record.id.clone(), resource);
    }
    let (config, options) = if name == "bridge" {
        bridge(inner)?
    } else {
        (None, Map::new())
    };
    Ok(Network {
        name: name.into(),
        id: inner.networks.id(name),
        created: inner.networks.created.clone(),
        scope: "local".into(),
        driver: driver.into(),
        enable_ipv4: true,
        ipam: Ipam {
            driver: "default".into(),
            options: None,
            config,
        },
        containers: Some(containers),
        options: Some(options),
        labels: Some(Map::new()),
        ..Network::default()
    })
}

fn bridge(inner: &Inner) -> Result<(Option<Vec<IpamConfig>>, Map<String>)> {
    let info = inner.network()?.info()?;
    let settings = &inner.config.network;
    let pool = IpamConfig {
        subnet: info.subnet.to_string(),
        gateway: info.gateway.to_string(),
        ..IpamConfig::default()
    };
    let option = |key: &str, value: String| (format!("com.docker.network.{key}"), value);
    let any_address = settings
        .default_host_ip
        .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
    let options = Map::from([
        option("bridge.default_bridge", "true".into()),
        option("bridge.enable_icc", settings.icc.to_string()),
        option("bridge.enable_ip_masquerade", settings.masquerade.to_string()),
        option("bridge.host_binding_ipv4", any_address),
        option("bridge.name", info.bridge),
        option("driver.mtu", info.mtu.to_string()),
    ]);
    Ok((Some(vec![pool]), options))
}
