//! The networks at the daemon's start: who is alive keeps address, ports and names, and what belongs to nobody goes.

use std::collections::HashMap;
use std::sync::Arc;

use kelson_network::LiveEndpoint;

use super::container::Container;
use super::network::{BRIDGE, members, netns_of};
use crate::error::Error;
use crate::inner::{Inner, blocking};
use crate::networks::UserNetwork;

/// At the daemon's start: tells every network who is alive, before anybody starts.
pub(crate) async fn take_over(inner: &Arc<Inner>, live: Vec<(Arc<Container>, u32)>) {
    let inner = inner.clone();
    let done = blocking("reconcile the network", move || {
        reconcile(&inner, &live);
        Ok(())
    });
    // The host's network may be broken; containers can still be listed, stopped and removed.
    if let Err(e) = done.await {
        tracing::error!(error = %e, "reconcile the network");
    }
}

fn reconcile(inner: &Arc<Inner>, live: &[(Arc<Container>, u32)]) {
    let mut by_network: HashMap<String, Vec<LiveEndpoint>> = HashMap::new();
    for (container, _) in live {
        let state = container.state();
        for place in &state.places {
            // A link without a bridge is nobody's only if no network of ours has it.
            inner.networks.shared.hold(&place.endpoint.host_link);
            let key = if place.name == BRIDGE { "" } else { &place.network };
            let ports = if place.endpoint.default_route {
                state.ports.clone()
            } else {
                Vec::new()
            };
            by_network.entry(key.to_owned()).or_default().push(LiveEndpoint {
                endpoint: place.endpoint.clone(),
                ports,
            });
        }
    }
    let mut take = |id: &str| by_network.remove(id).unwrap_or_default();
    let users = inner.networks.users();
    let mut reports = Vec::new();
    if let Ok(network) = inner.network() {
        // It keeps the switch of forwarding for the others.
        reports.push((
            BRIDGE.to_owned(),
            network
                .reconcile(&take(""), !users.is_empty())
                .map_err(Error::from),
        ));
    }
    for network in &users {
        let report = network.reconcile(&take(&network.record.id));
        reports.push((network.record.name.clone(), report));
    }
    for (name, report) in reports {
        match report {
            Ok(report) => {
                for id in report.without_link {
                    tracing::warn!(container = %id, network = %name, "a running container has lost its network link");
                }
            }
            Err(e) => tracing::error!(network = %name, error = %e, "reconcile the network"),
        }
    }
    reconcile_names(inner, live, users);
}

/// Resolvers live on by themselves: who is in which network is known at once, and told to them in the background.
fn reconcile_names(inner: &Arc<Inner>, live: &[(Arc<Container>, u32)], users: Vec<Arc<UserNetwork>>) {
    for (container, shim_pid) in live {
        let (record, places) = (container.record(), container.state().places.clone());
        match members(inner, &record, &places, &netns_of(*shim_pid), *shim_pid) {
            Ok(found) => {
                for (network, member) in found {
                    network.names.adopt(&container.id, member);
                }
            }
            Err(e) => tracing::warn!(container = %container.id, error = %e, "take its names over"),
        }
    }
    tokio::task::spawn_blocking(move || {
        for network in users {
            if let Err(e) = network.names.settle() {
                tracing::error!(network = %network.record.name, error = %e, "take the names over");
            }
        }
    });
}
