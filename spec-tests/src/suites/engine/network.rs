//! Addresses and published ports.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::contains;
use crate::case::{Case, engine_case as case};
use crate::engine::Dock;
use crate::engine::container::SOON;
use crate::engine::setup::{fetch, published_port};
use crate::eventually::eventually;
use crate::lab::check;
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/network/own-address",
            "two containers have addresses of their own on the default network, and inspect names them",
            &["engine#A1/30", "engine#A1/12"],
            |dock| {
                let (one, other) = (dock.probe(&["stay"])?, dock.probe(&["stay"])?);
                let mut seen = Vec::new();
                for container in [&one, &other] {
                    let address = address(&container.inspect()?)?;
                    let (output, _) = container.exec_probe(&["show", "/proc/net/fib_trie"])?;
                    contains("its routes", &output.stdout, &address)?;
                    seen.push(address);
                }
                ensure!(seen[0] != seen[1], "both have {}", seen[0]);
                Ok(())
            },
        ),
        case(
            "engine/network/reaches-another",
            "a container reaches another on the default network by its address",
            &["engine#A1/12"],
            |dock| {
                let server = dock.probe(&["serve", "8080", "from one to another"])?;
                server.says("listening")?;
                let target = format!("{}:8080", address(&server.inspect()?)?);
                contains(
                    "the page",
                    &dock.output(&dock.spec(&["fetch", &target]))?,
                    "from one to another",
                )
            },
        ),
        case(
            "engine/network/none",
            "without a network there is a loopback and nothing else",
            &["engine#A1/30"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["HostConfig"] = json!({"NetworkMode": "none"});
                let interfaces = dock.observe(spec)?["interfaces"].clone();
                let names: Vec<&str> = interfaces
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                // Tunnel modules put a device of theirs into every namespace.
                ensure!(
                    names.contains(&"lo") && !names.iter().any(|name| name.starts_with("eth")),
                    "interfaces are {names:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/network/of-another-container",
            "a container can share the network of another",
            &["engine#A1/12"],
            |dock| {
                let server = dock.probe(&["serve", "8080", "over the loopback"])?;
                server.says("listening")?;
                let mut spec = dock.spec(&["fetch", "127.0.0.1:8080"]);
                spec["HostConfig"] = json!({"NetworkMode": format!("container:{}", server.name)});
                contains("the page", &dock.output(&spec)?, "over the loopback")
            },
        ),
        case(
            "engine/ports/published",
            "a published port of the engine's choice is reached, and inspect and list name it",
            &["engine#A1/2", "engine#A1/10", "engine#A2/52"],
            |dock| {
                let container = dock.run(&published(dock, &[8080], "")?)?;
                let port = published_port(&container.inspect()?, "8080/tcp")?;
                contains(
                    "the page",
                    &fetch(dock.subject.address.host(), port)?,
                    "port 8080",
                )?;
                let listed = container.listed(false)?.context("it is not listed")?;
                let entry = listed["Ports"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|one| one["PublicPort"] == port);
                let entry = entry.with_context(|| format!("{port} is not in {}", listed["Ports"]))?;
                check("PrivatePort", &entry["PrivatePort"], 8080)?;
                check("Type", &entry["Type"], "tcp")
            },
        )
        .needs(&[Need::PublishedPorts]),
        case(
            "engine/ports/several",
            "three published ports are three",
            &["engine#A1/32"],
            |dock| {
                let mut spec = published(dock, &[8081, 8082, 8083], "")?;
                spec["Cmd"] = json!(["serve", "8082", "the second"]);
                let whole = dock.run(&spec)?.inspect()?;
                let ports: Result<Vec<u16>> = [8081, 8082, 8083]
                    .iter()
                    .map(|port| published_port(&whole, &format!("{port}/tcp")))
                    .collect();
                let ports = ports?;
                ensure!(
                    ports[0] != ports[1] && ports[1] != ports[2],
                    "ports are {ports:?}"
                );
                contains(
                    "the page",
                    &fetch(dock.subject.address.host(), ports[1])?,
                    "the second",
                )
            },
        )
        .needs(&[Need::PublishedPorts]),
        case(
            "engine/ports/of-one-address",
            "a port published on one address stands so in inspect",
            &["engine#A1/3"],
            |dock| {
                let container = dock.run(&published(dock, &[8080], "127.0.0.1")?)?;
                let bindings = container.inspect()?["NetworkSettings"]["Ports"]["8080/tcp"].clone();
                check("HostIp", &bindings[0]["HostIp"], "127.0.0.1")?;
                ensure!(
                    bindings.as_array().is_some_and(|all| all.len() == 1),
                    "bindings are {bindings}"
                );
                Ok(())
            },
        ),
        case(
            "engine/ports/taken",
            "a port that another container has is an error of start that names it, and it is free once that one has ended",
            &["engine#A1/2", "engine#api/ContainerStart"],
            taken,
        ),
        case(
            "engine/ports/all-exposed",
            "PublishAllPorts publishes what the image and the container expose",
            &["engine#A1/10"],
            |dock| {
                let recipe = dock.recipe().with("ExposedPorts", json!({"7001/tcp": {}}));
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["stay"]);
                spec["Image"] = json!(recipe.tags[0]);
                spec["ExposedPorts"] = json!({"7002/tcp": {}});
                spec["HostConfig"] = json!({"PublishAllPorts": true});
                let whole = dock.run(&spec)?.inspect()?;
                for port in ["7001/tcp", "7002/tcp"] {
                    published_port(&whole, port)?;
                }
                Ok(())
            },
        ),
    ]
}

fn address(inspect: &Value) -> Result<String> {
    let text = inspect["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        !text.is_empty(),
        "no address: {}",
        inspect["NetworkSettings"]["Networks"]
    );
    Ok(text.to_owned())
}

/// A server on the first port that says so.
fn published(dock: &Dock<'_>, ports: &[u16], host: &str) -> Result<Value> {
    let first = ports.first().context("no port")?.to_string();
    let mut spec = dock.spec(&["serve", &first, &format!("port {first}")]);
    let mut bindings = json!({});
    for port in ports {
        spec["ExposedPorts"][format!("{port}/tcp")] = json!({});
        bindings[format!("{port}/tcp")] = json!([{"HostIp": host, "HostPort": ""}]);
    }
    spec["HostConfig"] = json!({"PortBindings": bindings});
    Ok(spec)
}

fn taken(dock: &Dock<'_>) -> Result<()> {
    let first = dock.run(&published(dock, &[8080], "")?)?;
    let port = published_port(&first.inspect()?, "8080/tcp")?.to_string();
    let mut spec = published(dock, &[8080], "")?;
    spec["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"] = json!(port);
    let second = dock.create(&spec)?;
    let answer = second.post("/start")?;
    ensure!(answer.status >= 400, "it starts");
    contains("the message", &answer.text(), &port)?;
    check("Running", &second.state()?["Running"], false)?;
    first.kill("KILL")?;
    first.wait()?;
    // The socket may be held for a moment after the answer of wait.
    eventually("a start with the port that is free now", SOON, || {
        let answer = second.post("/start")?;
        ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
        Ok(Some(()))
    })
}
