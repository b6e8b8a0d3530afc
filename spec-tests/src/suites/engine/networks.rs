//! Networks of the user's own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{contains, refused};
use crate::case::{Case, engine_case as case};
use crate::engine::{Dock, query};
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/networks/life",
            "a network is made, inspected by name and id, listed by its label, and deleted",
            &[
                "engine#A5/95",
                "engine#api/NetworkCreate",
                "engine#api/NetworkInspect",
                "engine#api/NetworkList",
                "engine#api/NetworkDelete",
            ],
            life,
        ),
        case(
            "engine/networks/names-and-drivers",
            "a name that is taken, a predefined network and an unknown driver are refused, and change nothing",
            &["engine#api/NetworkCreate", "engine#api/NetworkDelete"],
            |dock| {
                let (name, _) = network(dock, json!({}))?;
                let filters = json!({"label": dock.own()}).to_string();
                let own = query("/networks", &[("filters", &filters)]);
                let create = |body: Value| dock.post_json("/networks/create", &body);
                contains(
                    "the message",
                    &refused(
                        create(json!({"Name": name, "CheckDuplicate": true, "Labels": dock.labels()}))?,
                        409,
                    )?,
                    &name,
                )?;
                refused(create(json!({"Name": "bridge"}))?, 403)?;
                let unknown = json!({"Name": dock.fresh(), "Driver": "no-such-driver"});
                contains("the message", &refused(create(unknown)?, 404)?, "no-such-driver")?;
                refused(dock.delete("/networks/host")?, 403)?;
                refused(dock.delete(&format!("/networks/{}", dock.fresh()))?, 404)?;
                let count = dock.list(&own)?.len();
                ensure!(count == 1, "{count} networks");
                Ok(())
            },
        ),
        case(
            "engine/networks/subnet",
            "a container gets the address it asks for in a subnet of the user's choice, and others one of the range",
            &["engine#A5/95", "engine#api/NetworkCreate"],
            subnet,
        ),
        case(
            "engine/networks/overlap",
            "a subnet that another network has is refused",
            &["engine#api/NetworkCreate"],
            |dock| {
                let ipam = json!({"Config": [{"Subnet": "10.211.64.0/20"}]});
                network(dock, json!({"IPAM": ipam}))?;
                let inside = json!({"Config": [{"Subnet": "10.211.65.0/24"}]});
                let second = json!({"Name": dock.fresh(), "Labels": dock.labels(), "IPAM": inside});
                refused(dock.post_json("/networks/create", &second)?, 403).map(drop)
            },
        ),
        case(
            "engine/networks/in-use",
            "a network is not deleted while a container runs in it, which inspect names",
            &["engine#api/NetworkDelete", "engine#api/NetworkInspect"],
            |dock| {
                let (name, id) = network(dock, json!({}))?;
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"NetworkMode": name});
                let container = dock.run(&spec)?;
                let message = refused(dock.delete(&format!("/networks/{id}"))?, 403)?;
                contains("the message", &message, "active endpoints")?;
                let inside = dock.json(&format!("/networks/{id}"))?["Containers"].clone();
                check("Name", &inside[&container.id]["Name"], container.name.as_str())?;
                container.remove()?;
                dock.delete(&format!("/networks/{id}"))?.expect(204).map(drop)
            },
        ),
        case(
            "engine/networks/apart",
            "a container reaches those of its own network, and none of another",
            &["engine#A5/96", "engine#A1/12"],
            apart,
        ),
        case(
            "engine/networks/connect",
            "a running container is connected to a second network and disconnected again, as its own routes show",
            &["engine#api/NetworkConnect", "engine#api/NetworkDisconnect"],
            connect,
        ),
        case(
            "engine/networks/connect-refuses",
            "what has no network of its own is not connected, and what is connected not twice",
            &["engine#api/NetworkConnect", "engine#api/NetworkDisconnect"],
            |dock| {
                let (name, id) = network(dock, json!({}))?;
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"NetworkMode": "host"});
                let on_host = dock.run(&spec)?;
                spec["HostConfig"] = json!({"NetworkMode": name});
                let inside = dock.run(&spec)?;
                let connect = |container: &str| {
                    let body = json!({"Container": container});
                    dock.post_json(&format!("/networks/{id}/connect"), &body)
                };
                for (container, what) in [
                    (&on_host.id, "on the host's network"),
                    (&inside.id, "a second time"),
                ] {
                    let answer = connect(container)?;
                    ensure!(matches!(answer.status, 400 | 403), "{what}: {}", answer.status);
                }
                refused(connect(&dock.fresh())?, 404).map(drop)
            },
        ),
        case(
            "engine/networks/prune",
            "prune removes the networks of a label that nobody uses",
            &["engine#api/NetworkPrune"],
            |dock| {
                let (used, _) = network(dock, json!({}))?;
                let (unused, _) = network(dock, json!({}))?;
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"NetworkMode": used});
                dock.run(&spec)?;
                let filters = json!({"label": dock.own()}).to_string();
                let report = dock
                    .post(&query("/networks/prune", &[("filters", &filters)]))?
                    .expect(200)?
                    .json()?;
                check("NetworksDeleted", &report["NetworksDeleted"], json!([unused]))
            },
        ),
    ]
}

/// A network of the case's own: its name and id.
fn network(dock: &Dock<'_>, more: Value) -> Result<(String, String)> {
    let name = dock.fresh();
    let mut body = json!({"Name": name, "CheckDuplicate": true, "Labels": dock.labels()});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    let made = dock.post_json("/networks/create", &body)?.expect(201)?.json()?;
    let id = made["Id"].as_str().context("create gives no Id")?;
    Ok((name, id.to_owned()))
}

fn life(dock: &Dock<'_>) -> Result<()> {
    let (name, id) = network(dock, json!({"Internal": true}))?;
    for word in [&name, &id, &id[..12].to_owned()] {
        let whole = dock.json(&format!("/networks/{word}"))?;
        check("Id", &whole["Id"], id.as_str())?;
        check("Driver", &whole["Driver"], "bridge")?;
        check("Internal", &whole["Internal"], true)?;
        check("Labels", &whole["Labels"], dock.labels())?;
        let subnet = whole["IPAM"]["Config"][0]["Subnet"].as_str().unwrap_or_default();
        ensure!(subnet.contains('/'), "Subnet is {subnet:?}");
    }
    let filters = json!({"label": dock.own(), "type": ["custom"]}).to_string();
    let listed = dock.list(&query("/networks", &[("filters", &filters)]))?;
    ensure!(
        listed.len() == 1 && listed[0]["Name"] == name.as_str(),
        "listed are {listed:?}"
    );
    dock.delete(&format!("/networks/{name}"))?.expect(204)?;
    refused(dock.get(&format!("/networks/{id}"))?, 404).map(drop)
}

/// Containers' own view of their addresses.
fn routes(container: &crate::engine::Container<'_>) -> Result<String> {
    Ok(container.exec_probe(&["show", "/proc/net/fib_trie"])?.0.stdout)
}

fn subnet(dock: &Dock<'_>) -> Result<()> {
    let config = json!({"Subnet": "10.212.0.0/20", "IPRange": "10.212.5.0/24", "Gateway": "10.212.1.1"});
    let (name, _) = network(dock, json!({"IPAM": {"Config": [config]}}))?;
    let on = |settings: Value| {
        let mut spec = dock.spec(&["stay"]);
        spec["HostConfig"] = json!({"NetworkMode": name});
        spec["NetworkingConfig"] = json!({"EndpointsConfig": {&name: settings}});
        dock.run(&spec)
    };
    let chosen = on(json!({"IPAMConfig": {"IPv4Address": "10.212.9.9"}}))?;
    contains("its routes", &routes(&chosen)?, "10.212.9.9")?;
    let settings = chosen.inspect()?["NetworkSettings"]["Networks"][&name].clone();
    check("IPAddress", &settings["IPAddress"], "10.212.9.9")?;
    check("Gateway", &settings["Gateway"], "10.212.1.1")?;
    check("IPPrefixLen", &settings["IPPrefixLen"], 20)?;
    contains("the other's routes", &routes(&on(json!({}))?)?, "10.212.5.")
}

fn apart(dock: &Dock<'_>) -> Result<()> {
    let ((one, _), (other, _)) = (network(dock, json!({}))?, network(dock, json!({}))?);
    let mut spec = dock.spec(&["serve", "8080", "from one to another"]);
    spec["HostConfig"] = json!({"NetworkMode": one});
    let server = dock.run(&spec)?;
    server.says("listening")?;
    let address = server.inspect()?["NetworkSettings"]["Networks"][&one]["IPAddress"].clone();
    let address = address.as_str().context("no address")?;
    let mut spec = dock.spec(&["fetch", &format!("{address}:8080")]);
    spec["HostConfig"] = json!({"NetworkMode": one});
    contains("the page", &dock.output(&spec)?, "from one to another")?;
    // It would wait for minutes: what has not come when a neighbour had it at once does not come.
    for network in [other.as_str(), "bridge"] {
        spec["HostConfig"] = json!({"NetworkMode": network});
        let stranger = dock.run(&spec)?;
        spec["HostConfig"] = json!({"NetworkMode": one});
        contains("the page", &dock.output(&spec)?, "from one to another")?;
        let seen = stranger.output()?.stdout;
        ensure!(!seen.contains("from one to another"), "{network} sees {seen:?}");
    }
    Ok(())
}

fn connect(dock: &Dock<'_>) -> Result<()> {
    let config = json!({"Subnet": "10.213.0.0/24"});
    let (name, id) = network(dock, json!({"IPAM": {"Config": [config]}}))?;
    let container = dock.probe(&["stay"])?;
    let body = json!({
        "Container": container.id,
        "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.213.0.77"}, "Aliases": ["alias"]},
    });
    dock.post_json(&format!("/networks/{id}/connect"), &body)?
        .expect(200)?;
    contains("its routes", &routes(&container)?, "10.213.0.77")?;
    let networks = container.inspect()?["NetworkSettings"]["Networks"].clone();
    check("IPAddress", &networks[&name]["IPAddress"], "10.213.0.77")?;
    ensure!(
        networks["bridge"]["IPAddress"] != "",
        "the first network is gone: {networks}"
    );
    let body = json!({"Container": container.name});
    dock.post_json(&format!("/networks/{name}/disconnect"), &body)?
        .expect(200)?;
    let networks = container.inspect()?["NetworkSettings"]["Networks"].clone();
    ensure!(networks.get(&name).is_none(), "it is still on {networks}");
    // The link itself may take a moment to go.
    crate::eventually::eventually(
        "routes without the network",
        crate::engine::container::SOON,
        || {
            let left = routes(&container)?;
            ensure!(!left.contains("10.213.0.77"), "{left}");
            Ok(Some(()))
        },
    )
}
