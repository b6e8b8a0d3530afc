//! Subnets for networks of the user's own that name none.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::{Error, Kind, Result};
use crate::netlink::route::Rtnl;
use crate::plan::overlap;
pub use crate::plan::valid_subnet;

/// Where the subnets of networks come from when the administrator says nothing (`--default-address-pool`): a range, and the
/// prefix length of one network.
pub fn default_pools() -> Vec<(Ipv4Net, u8)> {
    let net = |a, b, c, prefix| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix);
    // Docker begins at 172.17 and goes upwards: from the far end the two meet last.
    let mut pools: Vec<(Ipv4Net, u8)> = [29, 28, 27, 26, 25, 24, 31]
        .into_iter()
        .map(|b| (net(172, b, 0, 16), 16))
        .collect();
    pools.extend([(net(192, 168, 128, 17), 20), (net(10, 232, 0, 13), 20)]);
    pools
}

/// The first subnet of the pools that meets none of `taken` and no route of the host.
///
/// Errors: `Unavailable` in docker's words when there is none.
pub fn free_subnet(pools: &[(Ipv4Net, u8)], taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    let routes = Rtnl::open().and_then(|mut rtnl| rtnl.routes());
    let routes = routes.map_err(|e| Error::os("list routes", e))?;
    // The default route meets everything and says nothing about what is in use.
    let routed = routes
        .iter()
        .map(|r| r.destination)
        .filter(|r| r.prefix_len() > 0);
    let in_use: Vec<Ipv4Net> = taken.iter().copied().chain(routed).collect();
    first_free(pools, &in_use).ok_or_else(|| {
        Error::new(
            Kind::Unavailable,
            "all predefined address pools have been fully subnetted. hint: give one with --subnet",
        )
    })
}

fn first_free(pools: &[(Ipv4Net, u8)], in_use: &[Ipv4Net]) -> Option<Ipv4Net> {
    pools
        .iter()
        .filter_map(|(base, size)| base.subnets(*size).ok())
        .flatten()
        .find(|candidate| {
            valid_subnet(*candidate).is_ok() && !in_use.iter().any(|net| overlap(net, candidate))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_cut_in_order_around_what_is_there() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let pools = [(net("10.1.0.0/22"), 24), (net("10.2.0.0/24"), 24)];
        let mut taken = vec![net("10.1.1.128/25")];
        let mut given = Vec::new();
        while let Some(next) = first_free(&pools, &taken) {
            taken.push(next);
            given.push(next.to_string());
        }
        assert_eq!(
            given,
            ["10.1.0.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.2.0.0/24"]
        );
        assert!(
            default_pools()
                .iter()
                .all(|(base, size)| base.subnets(*size).is_ok() && base.trunc() == *base)
        );
    }
}
