//! Sockets of published ports. The bind is the conflict check and the reservation at once.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind,
    getsockname, listen, setsockopt, socket, sockopt,
};

use crate::error::{Error, Kind, Result};
use crate::model::{BoundPort, NetworkConfig, PortMapping, PortSpec, Proto};
use crate::plan;

/// How often the kernel is asked for another port when the one it chose for IPv4 is taken for IPv6.
const FREE_PORT_ATTEMPTS: usize = 16;
/// Most ports of one container. A shim holds a socket for each (two without a host address), below its limit of open
/// files.
pub(crate) const MAX_PORTS: usize = 4096;

/// Binds every port wished for, or none. `ours` tells whether a port is held for a container of this kelsond.
pub(crate) fn bind_all(
    specs: &[PortSpec],
    config: &NetworkConfig,
    ours: impl Fn(&PortMapping) -> bool,
) -> Result<Vec<BoundPort>> {
    if specs.len() > MAX_PORTS {
        let what = format!(
            "{} published ports; a container can have {MAX_PORTS}",
            specs.len()
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    specs.iter().try_for_each(plan::check_port)?;
    // Fixed ports go first, so that a range or the kernel does not take one of them.
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|i| {
        specs
            .get(*i)
            .map(|s| (s.host_port == 0, s.host_port_end - s.host_port))
    });
    let mut bound: Vec<(usize, Vec<BoundPort>)> = Vec::with_capacity(specs.len());
    for index in order {
        if let Some(spec) = specs.get(index) {
            // Wished for twice in one request is ours, too.
            let taken = |wanted: &PortMapping| {
                ours(wanted)
                    || bound
                        .iter()
                        .flat_map(|(_, ports)| ports)
                        .any(|b| overlap(&b.mapping, wanted))
            };
            let ports = bind_one_of(spec, config, &taken)?;
            bound.push((index, ports));
        }
    }
    bound.sort_by_key(|(index, _)| *index);
    Ok(bound.into_iter().flat_map(|(_, ports)| ports).collect())
}

/// Tries the ports a wish allows until one is free on all its addresses.
fn bind_one_of(
    spec: &PortSpec,
    config: &NetworkConfig,
    ours: &impl Fn(&PortMapping) -> bool,
) -> Result<Vec<BoundPort>> {
    let candidates: Vec<u16> = match spec.host_port {
        0 => vec![0; FREE_PORT_ATTEMPTS],
        first => (first..=spec.host_port_end).collect(),
    };
    let mut last = None;
    for port in candidates {
        match bind_pair(spec, port, config) {
            Ok(ports) => return Ok(ports),
            Err((mapping, errno)) => {
                let error = describe(&mapping, errno, ours(&mapping));
                if errno != Errno::EADDRINUSE {
                    return Err(error);
                }
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Internal, "no port to bind")))
}

/// Binds one port on the address or the two addresses a wish means.
fn bind_pair(
    spec: &PortSpec,
    port: u16,
    config: &NetworkConfig,
) -> std::result::Result<Vec<BoundPort>, (PortMapping, Errno)> {
    let (first, second) = plan::socket_addresses(spec, config);
    let mapping = |host_ip, host_port| PortMapping {
        proto: spec.proto,
        host_ip,
        host_port,
        container_port: spec.container_port,
    };
    let (listener, port) = bind_socket(spec.proto, first, port).map_err(|e| (mapping(first, port), e))?;
    let mut bound = vec![BoundPort {
        mapping: mapping(first, port),
        listener,
    }];
    if let Some(second) = second {
        match bind_socket(spec.proto, second, port) {
            Ok((listener, port)) => bound.push(BoundPort {
                mapping: mapping(second, port),
                listener,
            }),
            // This host has no IPv6: nobody can ask for the port there.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {}
            Err(errno) => return Err((mapping(second, port), errno)),
        }
    }
    Ok(bound)
}

fn bind_socket(proto: Proto, ip: IpAddr, port: u16) -> std::result::Result<(OwnedFd, u16), Errno> {
    let family = if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = match proto {
        Proto::Tcp => SockType::Stream,
        Proto::Udp => SockType::Datagram,
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if ip.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if proto == Proto::Tcp {
        // Connections of the last holder still in TIME_WAIT do not matter, a listener does. For UDP the option would
        // let two sockets share the port.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    let address = SockaddrStorage::from(SocketAddr::new(ip, port));
    bind(fd.as_raw_fd(), &address)?;
    if proto == Proto::Tcp {
        // Only listening makes it exclusive: two bound sockets with SO_REUSEADDR may share a port. The kernel cuts
        // the backlog to net.core.somaxconn.
        listen(&fd, Backlog::MAXALLOWABLE)?;
    }
    let port = match port {
        0 => chosen_port(&fd)?,
        port => port,
    };
    Ok((fd, port))
}

fn chosen_port(fd: &OwnedFd) -> std::result::Result<u16, Errno> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let port = match name.family() {
        Some(AddressFamily::Inet) => name.as_sockaddr_in().map(SockaddrIn::port),
        _ => name.as_sockaddr_in6().map(SockaddrIn6::port),
    };
    port.ok_or(Errno::EAFNOSUPPORT)
}

/// Docker's two sentences: one for ports it gave away itself, one for anybody else's.
fn describe(mapping: &PortMapping, errno: Errno, ours: bool) -> Error {
    let PortMapping {
        proto,
        host_ip,
        host_port,
        ..
    } = *mapping;
    let address = SocketAddr::new(host_ip, host_port);
    if errno == Errno::EADDRINUSE && ours {
        return Error::new(
            Kind::Conflict,
            format!("Bind for {address} failed: port is already allocated"),
        );
    }
    let kind = match errno {
        Errno::EADDRINUSE => Kind::Conflict,
        Errno::EADDRNOTAVAIL => Kind::Invalid,
        Errno::EACCES | Errno::EPERM => Kind::Denied,
        Errno::EMFILE | Errno::ENFILE => Kind::Unavailable,
        _ => Kind::Internal,
    };
    let version = if host_ip.is_ipv4() { 4 } else { 6 };
    let reason = errno.desc().to_lowercase();
    Error::new(kind, format!("listen {proto}{version} {address}: bind: {reason}"))
}

/// Whether two mappings cannot both be held.
pub(crate) fn overlap(a: &PortMapping, b: &PortMapping) -> bool {
    let same_address = a.host_ip == b.host_ip
        || (a.host_ip.is_ipv4() == b.host_ip.is_ipv4()
            && (a.host_ip.is_unspecified() || b.host_ip.is_unspecified()));
    a.proto == b.proto && a.host_port == b.host_port && same_address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(ip: &str, port: u16) -> PortMapping {
        PortMapping {
            proto: Proto::Tcp,
            host_ip: ip.parse().unwrap(),
            host_port: port,
            container_port: 80,
        }
    }

    #[test]
    fn all_addresses_overlap_with_each_of_the_family() {
        assert!(overlap(&mapping("0.0.0.0", 80), &mapping("10.0.0.1", 80)));
        assert!(!overlap(&mapping("10.0.0.2", 80), &mapping("10.0.0.1", 80)));
        assert!(!overlap(&mapping("::", 80), &mapping("10.0.0.1", 80)));
        assert!(!overlap(&mapping("0.0.0.0", 81), &mapping("10.0.0.1", 80)));
        let udp = PortMapping {
            proto: Proto::Udp,
            ..mapping("0.0.0.0", 80)
        };
        assert!(!overlap(&udp, &mapping("0.0.0.0", 80)));
    }

    #[test]
    fn conflicts_speak_dockers_language() {
        let say = |ip, errno, ours| describe(&mapping(ip, 8080), errno, ours).to_string();
        assert_eq!(
            say("0.0.0.0", Errno::EADDRINUSE, true),
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        );
        assert_eq!(
            say("0.0.0.0", Errno::EADDRINUSE, false),
            "listen tcp4 0.0.0.0:8080: bind: address already in use"
        );
        assert_eq!(
            say("::", Errno::EADDRINUSE, false),
            "listen tcp6 [::]:8080: bind: address already in use"
        );
        assert_eq!(
            say("9.9.9.9", Errno::EADDRNOTAVAIL, false),
            "listen tcp4 9.9.9.9:8080: bind: cannot assign requested address"
        );
    }
}
