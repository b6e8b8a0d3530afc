//! Other people's FORWARD chain. An accept in our table does not undo a drop in another's, and docker and ufw set
//! the policy of iptables' FORWARD to drop; so where that is the case our bridge gets an accept there too.
//! This sees what iptables-nft keeps in nf_tables; tables of iptables-legacy are not reached.

use crate::error::{Error, Result};
use crate::firewall::nft;
use crate::netlink::nf_tables::{Family, NfTables};

const TABLE: &str = "filter";
/// Docker never touches the rules in it, so ours survive its restarts.
const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// The chain that needs rules of ours, if any.
pub(crate) fn chain_in_the_way() -> Result<Option<&'static str>> {
    let look = || -> std::io::Result<Option<&'static str>> {
        let mut tables = NfTables::open()?;
        if tables.chain_drops(Family::Ip, TABLE, FORWARD)? != Some(true) {
            return Ok(None);
        }
        let docker = tables.chain_drops(Family::Ip, TABLE, DOCKER_USER)?.is_some();
        Ok(Some(if docker { DOCKER_USER } else { FORWARD }))
    };
    look().map_err(|e| Error::os("look at the policy of ip filter FORWARD", e))
}

/// Puts our accepts first in `chain`. Removes earlier ones of ours before.
pub(crate) fn let_through(chain: &str, bridge: &str) -> Result<()> {
    remove(chain, bridge)?;
    nft::apply(&rules(chain, bridge)).map_err(|e| e.doing(format!("let {bridge} through ip filter {chain}")))
}

/// Removes our accepts from `chain`; a chain that has gone is fine.
pub(crate) fn remove(chain: &str, bridge: &str) -> Result<()> {
    let doing = || format!("remove the rules for {bridge} from ip filter {chain}");
    let there = NfTables::open().and_then(|mut t| t.chain_drops(Family::Ip, TABLE, chain));
    if there.map_err(|e| Error::os(doing(), e))?.is_none() {
        return Ok(());
    }
    let listing = nft::list_chain("ip", TABLE, chain).map_err(|e| e.doing(doing()))?;
    let script: String = handles(&listing, bridge)
        .into_iter()
        .map(|handle| format!("delete rule ip {TABLE} {chain} handle {handle}\n"))
        .collect();
    if script.is_empty() {
        Ok(())
    } else {
        nft::apply(&script).map_err(|e| e.doing(doing()))
    }
}

fn mark(bridge: &str) -> String {
    format!("comment \"kelson {bridge}\"")
}

fn rules(chain: &str, bridge: &str) -> String {
    ["iifname", "oifname"]
        .iter()
        .map(|side| {
            format!(
                "insert rule ip {TABLE} {chain} {side} \"{bridge}\" counter accept {}\n",
                mark(bridge)
            )
        })
        .collect()
}

/// The handles of our rules in what `nft -a list chain` prints.
fn handles(listing: &str, bridge: &str) -> Vec<u64> {
    let mark = mark(bridge);
    listing
        .lines()
        .filter(|line| line.contains(&mark))
        .filter_map(|line| line.rsplit_once("# handle ")?.1.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_rules_only() {
        let listing = "table ip filter {\n\tchain FORWARD { # handle 2\n\
            \t\tiifname \"kls0\" counter packets 0 bytes 0 accept comment \"kelson kls0\" # handle 7\n\
            \t\tiifname \"kls1\" counter packets 0 bytes 0 accept comment \"kelson kls1\" # handle 8\n\
            \t\tcounter packets 0 bytes 0 jump DOCKER-USER # handle 9\n\t}\n}\n";
        assert_eq!(handles(listing, "kls0"), [7]);
        assert!(handles(listing, "kls").is_empty());
    }
}
