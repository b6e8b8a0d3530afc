//! Links (`--link`): other containers by a name of this one's own. On the default bridge they become lines of /etc/hosts
//! and environment variables, as they were before networks had names; on a network of the user's they are names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kelson_api::ports::{ContainerPort, Proto};

use super::container::Container;
use super::modes::NetworkMode;
use super::record::Record;
use super::{etc_files, network};
use crate::error::{Doing, Error, Result};
use crate::inner::Inner;

/// A link of the default bridge, both ends of which run.
#[derive(Debug, Clone)]
struct Link {
    alias: String,
    /// As docker names it: `/web/db`.
    name: String,
    ip: Ipv4Addr,
    target: Arc<Record>,
}

/// `NAME`, `NAME:ALIAS`, and what inspect shows: `/NAME:/SELF/ALIAS`.
fn parse(text: &str) -> Result<(String, String)> {
    let bad = || Error::invalid(format!("bad format for links: {text}"));
    let last = |part: &str| part.rsplit('/').next().unwrap_or_default().to_owned();
    let mut parts = text.split(':');
    let (name, alias) = (parts.next().unwrap_or_default(), parts.next());
    let (target, alias) = (last(name), last(alias.unwrap_or(name)));
    if target.is_empty() || alias.is_empty() || parts.next().is_some() {
        return Err(bad());
    }
    Ok((target, alias))
}

/// Refuses links that cannot be.
///
/// # Errors
/// `Invalid` in docker's words.
pub(crate) fn check(inner: &Inner, record: &Record, mode: &NetworkMode) -> Result<()> {
    let of_networks = record.networks.values().flat_map(|s| s.links.iter().flatten());
    // The other may come later, or never: it is only a name.
    for text in of_networks {
        parse(text)?;
    }
    for text in record.host.links.iter().flatten() {
        let kind = match mode {
            NetworkMode::Host => Some("host"),
            NetworkMode::Container(_) => Some("container"),
            _ => None,
        };
        if let Some(kind) = kind {
            return Err(Error::invalid(format!(
                "conflicting options: {kind} type networking can't be used with links. This would result in undefined \
                 behavior"
            )));
        }
        let (target, _) = parse(text)?;
        if let Err(e) = inner.containers.find(&target) {
            return Err(Error::invalid(format!(
                "could not get container for {target}: {e}"
            )));
        }
    }
    Ok(())
}

/// A container of the default bridge has started: the hosts lines of those that are linked to it follow. Blocking, and nothing
/// to do where no container has links.
pub(crate) fn follow(inner: &Inner, started: &Container) {
    if !inner.has_links() {
        return;
    }
    for container in inner.containers.all() {
        let record = container.record();
        let linked = |text: &String| {
            let (target, _) = parse(text).ok()?;
            inner
                .containers
                .find(&target)
                .ok()
                .filter(|found| found.id == started.id)
        };
        let wanted = record
            .host
            .links
            .iter()
            .flatten()
            .any(|text| linked(text).is_some());
        if container.id == started.id || !wanted || !container.status().has_process() {
            continue;
        }
        if let Err(e) = rewrite(inner, &container, &record) {
            tracing::warn!(container = %container.id, error = %e, "rewrite the hosts lines of links");
        }
    }
}

/// Puts the lines of links that can be made in the place of those that are there.
fn rewrite(inner: &Inner, container: &Container, record: &Record) -> Result<()> {
    let path = container.dir.join("hosts");
    let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let aliases: Vec<String> = record
        .host
        .links
        .iter()
        .flatten()
        .filter_map(|text| Some(parse(text).ok()?.1))
        .collect();
    let ours = |line: &&str| {
        let alias = line.split_whitespace().nth(1);
        alias.is_some_and(|alias| aliases.iter().any(|a| a == alias))
    };
    let rest: String = text.split_inclusive('\n').filter(|line| !ours(line)).collect();
    etc_files::write(&container.dir, "hosts", &(rest + &hosts(inner, record)?))
}

/// `docker rm --link CONTAINER/ALIAS`.
pub(crate) async fn remove(inner: &Arc<Inner>, word: &str) -> Result<()> {
    let missing = || Error::not_found(format!("No such link: {word}"));
    let (name, alias) = word
        .trim_start_matches('/')
        .rsplit_once('/')
        .ok_or_else(missing)?;
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    let mut record = Record::clone(&container.record());
    let links = record.host.links.get_or_insert_default();
    let before = links.len();
    links.retain(|text| parse(text).is_ok_and(|(_, a)| a != alias));
    if links.len() == before {
        return Err(missing());
    }
    network::keep(&container, record)?;
    if !container.status().has_process() {
        return Ok(());
    }
    let path = container.dir.join("hosts");
    let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let ours = |line: &&str| line.split_whitespace().nth(1) == Some(alias);
    let text: String = text.split_inclusive('\n').filter(|line| !ours(line)).collect();
    etc_files::write(&container.dir, "hosts", &text)
}

/// On networks of the user's: alias to the other's name.
pub(crate) fn by_alias(inner: &Inner, record: &Record) -> BTreeMap<String, String> {
    let of_networks = record.networks.values().flat_map(|s| s.links.iter().flatten());
    let all = record.host.links.iter().flatten().chain(of_networks);
    let known = all.filter_map(|text| parse(text).ok());
    known
        .map(|(target, alias)| {
            let name = inner.containers.find(&target).map(|c| c.record().name.clone());
            (alias, name.unwrap_or(target))
        })
        .collect()
}

/// As inspect shows them.
pub(crate) fn shown(record: &Record) -> Option<Vec<String>> {
    let links = record.host.links.as_ref()?;
    let on_bridge = matches!(NetworkMode::of(record), Ok(NetworkMode::Bridge));
    let show = |text: &String| match parse(text) {
        Ok((target, alias)) if on_bridge => format!("/{target}:/{}/{alias}", record.name),
        _ => text.clone(),
    };
    Some(links.iter().map(show).collect())
}

/// The links of a container on the default bridge.
///
/// # Errors
/// `Conflict` when the other does not run.
fn links(inner: &Inner, record: &Record) -> Result<Vec<Link>> {
    let mut out = Vec::new();
    if !matches!(NetworkMode::of(record)?, NetworkMode::Bridge) {
        return Ok(out);
    }
    for text in record.host.links.iter().flatten() {
        let (target, alias) = parse(text)?;
        let other: Arc<Container> = inner.containers.find(&target)?;
        let (state, target) = (other.state(), other.record());
        let name = format!("/{}/{alias}", record.name);
        let place = state.places.iter().find(|p| p.name == "bridge");
        let Some(place) = place.filter(|_| state.status.has_process()) else {
            return Err(Error::conflict(format!(
                "Cannot link to a non running container: /{} AS {name}",
                target.name
            )));
        };
        out.push(Link {
            alias,
            name,
            ip: place.endpoint.ip,
            target,
        });
    }
    Ok(out)
}

/// Lines of /etc/hosts.
///
/// # Errors
/// `Conflict` when the other does not run.
pub(crate) fn hosts(inner: &Inner, record: &Record) -> Result<String> {
    let line = |link: &Link| {
        let (alias, target) = (&link.alias, &link.target);
        let mut names = format!("{alias} {}", target.config.hostname);
        if *alias != target.name {
            names = format!("{names} {}", target.name);
        }
        format!("{}\t{names}\n", link.ip)
    };
    Ok(links(inner, record)?.iter().map(line).collect())
}

/// Environment variables, which the container's own precede.
///
/// # Errors
/// `Conflict` when the other does not run.
pub(crate) fn environment(inner: &Inner, record: &Record) -> Result<Vec<String>> {
    Ok(links(inner, record)?.iter().flat_map(variables).collect())
}

fn variables(link: &Link) -> Vec<String> {
    let prefix = link.alias.to_uppercase().replace('-', "_");
    let config = &link.target.config;
    let mut ports: Vec<ContainerPort> = config
        .exposed_ports
        .iter()
        .flatten()
        .filter_map(|(port, _)| port.parse().ok())
        .collect();
    // Ports of TCP first, then by number.
    ports.sort_by_key(|p| (p.proto != Proto::Tcp, p.port));
    let mut out = Vec::new();
    for (at, ContainerPort { port, proto }) in ports.into_iter().enumerate() {
        let (proto, ip) = (proto.to_string(), link.ip);
        let url = format!("{proto}://{ip}:{port}");
        if at == 0 {
            out.push(format!("{prefix}_PORT={url}"));
        }
        let name = format!("{prefix}_PORT_{port}_{}", proto.to_uppercase());
        out.extend([
            format!("{name}={url}"),
            format!("{name}_ADDR={ip}"),
            format!("{name}_PORT={port}"),
            format!("{name}_PROTO={proto}"),
        ]);
    }
    out.push(format!("{prefix}_NAME={}", link.name));
    let theirs = config.env.iter().flatten().filter_map(|e| e.split_once('='));
    let passed = theirs.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    out.extend(passed.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_link() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(parse("db").unwrap(), pair("db", "db"));
        assert_eq!(parse("db:store").unwrap(), pair("db", "store"));
        assert_eq!(parse("/db:/web/store").unwrap(), pair("db", "store"));
        for bad in ["", ":", "a:b:c", "a:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
