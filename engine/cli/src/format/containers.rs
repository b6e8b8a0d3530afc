//! The rows of `ps`.

use kelson_api::{ContainerSummary, Port};
use kelson_formats::Reference;
use serde_json::{Value, json};

use super::listing::{Listing, join_labels, row};
use super::units;

/// What `ps --format` can show.
pub const LISTING: Listing = Listing {
    kind: "*formatter.ContainerContext",
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
    ],
};

/// The columns of `ps`; `-s` adds one more.
pub const TABLE: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

const COMMAND_LIMIT: usize = 20;
const MOUNT_LIMIT: usize = 15;

/// The row of one container.
pub fn container_row(container: &ContainerSummary, truncate: bool) -> Value {
    let id = if truncate {
        units::short_id(&container.id)
    } else {
        &container.id
    };
    let command = if truncate {
        units::ellipsis(&container.command, COMMAND_LIMIT)
    } else {
        container.command.clone()
    };
    let names: Vec<&str> = container
        .names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .filter(|name| !truncate || !name.contains('/'))
        .collect();
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            }
        })
        .map(|name| {
            if truncate {
                units::ellipsis(name, MOUNT_LIMIT)
            } else {
                name.clone()
            }
        })
        .collect();
    let local_volumes = container
        .mounts
        .iter()
        .filter(|mount| mount.driver == "local")
        .count();
    let networks: Vec<&str> = container
        .network_settings
        .networks
        .keys()
        .map(String::as_str)
        .collect();
    let mut size = units::size3(bytes(container.size_rw.unwrap_or(0)));
    if let Some(virtual_size) = container.size_root_fs.filter(|size| *size > 0) {
        size += &format!(" (virtual {})", units::size3(bytes(virtual_size)));
    }
    row(
        json!(container.labels),
        [
            ("ID", id.into()),
            ("Image", image(container, truncate).into()),
            ("Command", units::go_quote(&command).into()),
            ("CreatedAt", units::go_time(container.created).into()),
            (
                "RunningFor",
                (units::duration(units::since(container.created)) + " ago").into(),
            ),
            ("Ports", ports(&container.ports).into()),
            ("Names", names.join(",").into()),
            ("State", container.state.clone().into()),
            ("Status", container.status.clone().into()),
            ("Size", size.into()),
            ("Labels", join_labels(&container.labels).into()),
            ("Mounts", mounts.join(",").into()),
            ("LocalVolumes", local_volumes.to_string().into()),
            ("Networks", networks.join(",").into()),
            ("Platform", Value::Null),
        ],
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn bytes(count: i64) -> f64 {
    count as f64
}

/// The image as it was named, without a digest; an id in short.
fn image(container: &ContainerSummary, truncate: bool) -> String {
    if container.image.is_empty() {
        return "<no image>".into();
    }
    if !truncate {
        return container.image.clone();
    }
    let short = units::short_id(&container.image_id);
    if short == units::short_id(&container.image) {
        return short.to_owned();
    }
    match Reference::parse(&container.image) {
        Ok(reference) => match reference.tag() {
            Some(tag) => format!("{}:{tag}", reference.familiar_name()),
            None => reference.familiar_name(),
        },
        Err(_) => container.image.clone(),
    }
}

/// `0.0.0.0:80-82->80-82/tcp, 127.0.0.1:90->91/udp`: neighbours that map to themselves share a range.
pub fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.r#type,
        ))
    });
    let mut groups: Vec<(String, &str, u16, u16)> = Vec::new();
    let mut closed = Vec::new();
    let mut mapped = Vec::new();
    for port in sorted {
        let (ip, private, public, kind) = (
            &port.ip,
            port.private_port,
            port.public_port,
            port.r#type.as_str(),
        );
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}:{public}->{private}/{kind}", host(ip)));
            continue;
        }
        match groups
            .iter_mut()
            .find(|(known, protocol, ..)| known == ip && *protocol == kind)
        {
            None => groups.push((ip.clone(), kind, private, private)),
            Some((_, _, _, last)) if private == *last + 1 => *last = private,
            Some((_, _, first, last)) => {
                closed.push(group(ip, kind, *first, *last));
                (*first, *last) = (private, private);
            }
        }
    }
    let open = groups
        .iter()
        .map(|(ip, kind, first, last)| group(ip, kind, *first, *last));
    closed
        .into_iter()
        .chain(open)
        .chain(mapped)
        .collect::<Vec<_>>()
        .join(", ")
}

fn host(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

fn group(ip: &str, kind: &str, first: u16, last: u16) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    if ip.is_empty() {
        format!("{range}/{kind}")
    } else {
        format!("{}:{range}->{range}/{kind}", host(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private_port: u16, public_port: u16, kind: &str) -> Port {
        Port {
            ip: ip.into(),
            private_port,
            public_port,
            r#type: kind.into(),
        }
    }

    #[test]
    fn ports_read_as_dockers() {
        assert_eq!(
            ports(&[
                port("0.0.0.0", 80, 8080, "tcp"),
                port("::", 80, 8080, "tcp"),
                port("127.0.0.1", 91, 90, "udp"),
                port("", 99, 0, "tcp"),
            ]),
            "99/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:90->91/udp"
        );
        assert_eq!(
            ports(&[
                port("0.0.0.0", 80, 80, "tcp"),
                port("0.0.0.0", 81, 81, "tcp"),
                port("0.0.0.0", 83, 83, "tcp")
            ]),
            "0.0.0.0:80-81->80-81/tcp, 0.0.0.0:83->83/tcp"
        );
        assert_eq!(
            ports(&[
                port("", 5, 0, "tcp"),
                port("", 6, 0, "tcp"),
                port("", 6, 0, "udp")
            ]),
            "5-6/tcp, 6/udp"
        );
        assert_eq!(ports(&[]), "");
    }

    #[test]
    fn the_table_is_byte_identical() {
        let id = "94231e33166f46c0ff90361e99565af2a9fa9157a2ec5678a088ff3f933bab8a";
        let now = jiff::Timestamp::now().as_second();
        let summary = |name: &str, command: &str, status: &str, ports: Vec<Port>| ContainerSummary {
            id: id.into(),
            names: vec![format!("/{name}")],
            image: "busybox".into(),
            image_id: "sha256:b86c2b0422c6".into(),
            command: command.into(),
            created: now,
            status: status.into(),
            ports,
            ..ContainerSummary::default()
        };
        let rows = [
            container_row(&summary("cr", "true", "Created", vec![]), true),
            container_row(
                &summary(
                    "ex",
                    "sh -c 'exit 3'",
                    "Exited (3) Less than a second ago",
                    vec![],
                ),
                true,
            ),
            container_row(
                &summary(
                    "web",
                    "sleep 1000",
                    "Up Less than a second (Paused)",
                    vec![port("0.0.0.0", 80, 8080, "tcp")],
                ),
                true,
            ),
        ];
        // Captured from docker 28.2.2, ports shortened.
        let expected = "\
CONTAINER ID   IMAGE     COMMAND            CREATED                  STATUS                              PORTS                  NAMES
94231e33166f   busybox   \"true\"             Less than a second ago   Created                                                    cr
94231e33166f   busybox   \"sh -c 'exit 3'\"   Less than a second ago   Exited (3) Less than a second ago                          ex
94231e33166f   busybox   \"sleep 1000\"       Less than a second ago   Up Less than a second (Paused)      0.0.0.0:8080->80/tcp   web
";
        assert_eq!(LISTING.show(TABLE, &rows).unwrap(), expected);
    }
}
