//! Other people's FORWARD chain. An accept in our table does not undo a drop in another's, and docker and ufw set
//! the policy of iptables' FORWARD to drop; so where that is the case our bridge gets an accept there too.
//! This sees what iptables-nft keeps in nf_tables; tables of iptables-legacy are not reached.

use crate::error::{Error, Result};
use crate::netlink::nf_tables::{Family, NfTables};
use crate::netlink::nft_rule::{Is, Rule};

const TABLE: &str = "filter";
/// Docker never touches the rules in it, so ours survive its restarts.
const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// The chain that needs rules of ours, if any.
pub(crate) fn chain_in_the_way() -> Result<Option<&'static str>> {
    let look = || -> std::io::Result<Option<&'static str>> {
        let mut tables = NfTables::open()?;
        if tables.chain_drops(place(FORWARD))? != Some(true) {
            return Ok(None);
        }
        let docker = tables.chain_drops(place(DOCKER_USER))?.is_some();
        Ok(Some(if docker { DOCKER_USER } else { FORWARD }))
    };
    look().map_err(|e| Error::os("look at the policy of ip filter FORWARD", e))
}

/// Puts our accepts first in `chain`, in place of earlier ones of ours.
pub(crate) fn let_through(chain: &str, bridge: &str) -> Result<()> {
    remove(chain, bridge)?;
    let rules = [
        Rule::new().iifname(Is::Equal, bridge).counter().accept(),
        Rule::new().oifname(Is::Equal, bridge).counter().accept(),
    ];
    let inserted = NfTables::open().and_then(|mut t| t.insert_rules(place(chain), &rules, &mark(bridge)));
    inserted.map_err(|e| Error::os(format!("let {bridge} through ip filter {chain}"), e))
}

/// Removes our accepts from `chain`; a chain that has gone is fine.
pub(crate) fn remove(chain: &str, bridge: &str) -> Result<()> {
    let removed = NfTables::open().and_then(|mut t| t.delete_rules(place(chain), &mark(bridge)));
    removed.map_err(|e| Error::os(format!("remove the rules for {bridge} from ip filter {chain}"), e))
}

fn place(chain: &str) -> (Family, &'static str, &str) {
    (Family::Ip, TABLE, chain)
}

/// The comment that says whose rules these are.
fn mark(bridge: &str) -> String {
    format!("kelson {bridge}")
}
