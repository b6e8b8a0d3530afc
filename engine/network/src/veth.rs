//! A container's cable: the veth pair between the bridge and its network namespace.

use std::os::fd::BorrowedFd;

use crate::bridge::Bridge;
use crate::error::{Error, Kind, Result};
use crate::model::Endpoint;
use crate::netlink::route::{Rtnl, VethPlan};
use crate::netns;

/// The veth pair and what is inside. Nothing is left when a step fails.
pub(crate) fn connect(
    bridge: &Bridge,
    endpoint: &Endpoint,
    netns: BorrowedFd<'_>,
    isolated: bool,
) -> Result<()> {
    let Endpoint {
        host_link,
        container_link,
        ip,
        prefix_len,
        gateway,
        mac,
        mtu,
        default_route,
        link_local,
        ..
    } = endpoint;
    let gateway = default_route.then_some(*gateway);
    let mut inside = netns::rtnl_inside(netns).map_err(|e| Error::os("enter the network namespace", e))?;
    let mut host = Rtnl::open().map_err(|e| Error::os("open a netlink socket", e))?;
    let veth = VethPlan {
        host_name: host_link,
        bridge_index: bridge.index,
        peer_name: container_link,
        peer_mac: *mac,
        mtu: *mtu,
        isolated,
    };
    let mut make = || -> Result<()> {
        let mut made = host.add_veth(&veth, netns);
        if made
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(nix::libc::EEXIST))
        {
            // The name is this container's alone (`allocate`), so the link is left from a life that was cut short.
            made = host
                .delete_link(host_link)
                .and_then(|_| host.add_veth(&veth, netns));
        }
        made.map_err(|e| Error::os(format!("make link {host_link}"), e))?;
        let doing = || format!("configure {container_link}");
        let link = inside.link(container_link).map_err(|e| Error::os(doing(), e))?;
        let index = link.ok_or_else(|| Error::new(Kind::NotFound, doing()))?.index;
        inside
            .configure_container_link(index, (*ip, *prefix_len), link_local, gateway)
            .map_err(|e| Error::os(doing(), e))
    };
    make().inspect_err(|_| {
        if let Err(e) = host.delete_link(host_link) {
            tracing::warn!(error = %e, "undo of a connection that could not be made");
        }
    })
}

/// Makes the default route of a running container leave by this endpoint, or by none.
///
/// Errors: what the kernel says.
pub fn set_default_route(netns: BorrowedFd<'_>, endpoint: Option<&Endpoint>) -> Result<()> {
    let doing = || "change the default route".to_owned();
    let mut inside = netns::rtnl_inside(netns).map_err(|e| Error::os("enter the network namespace", e))?;
    let via = match endpoint {
        Some(endpoint) => {
            let link = inside
                .link(&endpoint.container_link)
                .map_err(|e| Error::os(doing(), e))?;
            let link = link.ok_or_else(|| Error::new(Kind::NotFound, doing()))?;
            Some((link.index, endpoint.gateway))
        }
        None => None,
    };
    inside.set_default_route(via).map_err(|e| Error::os(doing(), e))
}

/// Puts the links of running containers that hang on no bridge any more (theirs was deleted) on this one. Returns
/// the ids of containers that have no link at all.
pub(crate) fn reattach<'a>(
    bridge: &Bridge,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    isolated: bool,
) -> Result<Vec<String>> {
    let mut rtnl = Rtnl::open().map_err(|e| Error::os("open a netlink socket", e))?;
    let mut missing = Vec::new();
    for Endpoint {
        host_link,
        container_id,
        ..
    } in endpoints
    {
        let doing = || format!("attach {host_link} to {}", bridge.name);
        match rtnl.link(host_link).map_err(|e| Error::os(doing(), e))? {
            Some(link) if link.master.is_none() => {
                rtnl.attach(host_link, bridge.index, isolated)
                    .map_err(|e| Error::os(doing(), e))?;
            }
            Some(_) => {}
            None => missing.push(container_id.clone()),
        }
    }
    Ok(missing)
}
