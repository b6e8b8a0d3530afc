//! Networks as the API lists and inspects them.

use kelson_api::{EndpointResource, Filters, Ipam, IpamConfig, Map, Network};

use super::{Found, NAMES};
use crate::containers::container::Snapshot;
use crate::containers::modes::NetworkMode;
use crate::error::{Error, Result};
use crate::inner::Inner;

const FILTERS: [&str; 8] = [
    "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
];

/// All that match, without their containers, which only inspect shows.
pub(crate) fn list(inner: &Inner, filters: &Filters) -> Result<Vec<Network>> {
    filters
        .only(&FILTERS)
        .map_err(|e| Error::invalid(e.to_string()))?;
    let dangling = filters
        .boolean("dangling")
        .map_err(|e| Error::invalid(e.to_string()))?;
    if let Some(kind) = filters.get("type").find(|t| !matches!(*t, "builtin" | "custom")) {
        return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
    }
    let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(test);
    let mut out = Vec::new();
    for found in all(inner) {
        let network = properties(inner, &found)?;
        let builtin = matches!(found, Found::Predefined(_));
        let no_labels = Map::new();
        let labels = network.labels.as_ref().unwrap_or(&no_labels);
        let wanted = any("name", &|w| network.name.contains(w))
            && any("id", &|w| network.id.starts_with(w))
            && any("driver", &|w| network.driver == w)
            && any("scope", &|w| network.scope == w)
            && any("type", &|w| builtin == (w == "builtin"))
            && filters.labels_match("label", labels)
            && !(filters.has("label!") && filters.labels_match("label!", labels))
            // The predefined ones are never dangling.
            && dangling.is_none_or(|d| {
                d == (!builtin && containers(inner, &network.id, &network.name).is_empty())
            });
        if wanted {
            out.push(network);
        }
    }
    Ok(out)
}

fn all(inner: &Inner) -> impl Iterator<Item = Found> {
    let bridge = inner.config.network.enabled;
    let predefined = NAMES
        .iter()
        .filter(move |(name, _)| *name != "bridge" || bridge)
        .map(|(name, _)| Found::Predefined(name));
    predefined.chain(inner.networks.users().into_iter().map(Found::User))
}

pub(crate) fn inspect(inner: &Inner, word: &str) -> Result<Network> {
    match inner.networks.find(word)? {
        Found::Predefined("bridge") if !inner.config.network.enabled => {
            Err(Error::not_found(format!("network {word} not found")))
        }
        found => describe(inner, &found),
    }
}

/// Without its containers.
fn properties(inner: &Inner, found: &Found) -> Result<Network> {
    match found {
        Found::Predefined(name) => predefined(inner, name),
        Found::User(network) => Ok(network.record.describe()),
    }
}

fn describe(inner: &Inner, found: &Found) -> Result<Network> {
    let mut network = properties(inner, found)?;
    network.containers = Some(containers(inner, &network.id, &network.name));
    Ok(network)
}

/// Who is in it now.
fn containers(inner: &Inner, id: &str, name: &str) -> Map<EndpointResource> {
    let mut out = Map::new();
    for container in inner.containers.all() {
        let Snapshot { record, state } = container.snapshot();
        if !state.status.has_process() {
            continue;
        }
        let place = state.places.iter().find(|p| p.network == id);
        let without_place = match NetworkMode::of(&record) {
            Ok(NetworkMode::Host) => name == "host",
            Ok(NetworkMode::None) => name == "none",
            _ => false,
        };
        if place.is_none() && !without_place {
            continue;
        }
        let text =
            |of: &dyn Fn(&crate::containers::record::Place) -> String| place.map(of).unwrap_or_default();
        let resource = EndpointResource {
            name: record.name.clone(),
            endpoint_id: text(&|p| p.id.clone()),
            mac_address: text(&|p| p.endpoint.mac.to_string()),
            ipv4_address: text(&|p| format!("{}/{}", p.endpoint.ip, p.endpoint.prefix_len)),
            ipv6_address: String::new(),
        };
        out.insert(record.id.clone(), resource);
    }
    out
}

fn predefined(inner: &Inner, name: &str) -> Result<Network> {
    let driver = NAMES
        .iter()
        .find(|(n, _)| *n == name)
        .map_or("", |(_, driver)| driver);
    let (config, options) = if name == "bridge" {
        bridge(inner)?
    } else {
        (None, Map::new())
    };
    Ok(Network {
        name: name.into(),
        id: inner.networks.predefined_id(name),
        created: inner.networks.predefined.created.clone(),
        scope: "local".into(),
        driver: driver.into(),
        enable_ipv4: true,
        ipam: Ipam {
            driver: "default".into(),
            options: None,
            config,
        },
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
