//! After a crash, a restart, or somebody else's hand: who lives is taken over, what is missing is made again, what
//! belongs to nobody goes.

use ipnet::Ipv4Net;

use super::{Claim, Network, Setup, lock};
use crate::bridge::{self, Bridge};
use crate::error::{Error, Kind, Result};
use crate::firewall::Element;
use crate::model::{LiveEndpoint, ReconcileReport};
use crate::netlink::route::Rtnl;
use crate::record::Record;
use crate::{plan, veth};

impl Network {
    /// Called once at kelsond's start, before any other call, with all running containers: takes their addresses and
    /// ports over, repairs bridge and firewall, removes what belongs to nobody.
    ///
    /// `stay`: the bridge is to be there also when nothing runs.
    pub fn reconcile(&self, live: &[LiveEndpoint], stay: bool) -> Result<ReconcileReport> {
        let mut report = ReconcileReport::default();
        let mut setup = lock(&self.inner.setup);
        if live.is_empty() && !stay {
            // What a crash left behind; the bridge comes back when somebody needs it.
            if let Some(record) = setup.record.clone() {
                report.removed_links = self.remove_orphans(&record)?;
                bridge::tear_down(&self.inner.file, &record)?;
                setup.record = None;
            }
            return Ok(report);
        }
        self.take_over(live);
        let intact = self.set_up(&mut setup, live)?;
        report.firewall_rebuilt = !intact;
        if let Some(record) = &setup.record {
            report.removed_links = self.remove_orphans(record)?;
        }
        if let Some(bridge) = self.state().bridge.clone() {
            report.without_link = veth::reattach(&bridge, live.iter().map(|l| &l.endpoint), self.isolated())?;
        }
        Ok(report)
    }

    /// `reconcile`'s part of it; returns whether the firewall was still whole.
    fn set_up(&self, setup: &mut Setup, live: &[LiveEndpoint]) -> Result<bool> {
        if setup.record.is_none()
            && let Some(LiveEndpoint { endpoint, .. }) = live.first()
        {
            // The record is lost, the containers are not: their subnet is the one to keep.
            let address = Ipv4Net::new(endpoint.gateway, endpoint.prefix_len)
                .map_err(|e| Error::because(Kind::Invalid, "read an endpoint's record", e))?;
            let (bridge, table) = (endpoint.bridge.clone(), plan::table_name(&endpoint.bridge));
            let own = self.inner.config.bridge.is_none();
            setup.record = Some(Record::new(crate::record::boot_id(), bridge, own, address, table));
        }
        let intact = self.firewall_is_intact(setup, live);
        self.make_bridge(setup, live)?;
        Ok(intact)
    }

    fn firewall_is_intact(&self, setup: &Setup, live: &[LiveEndpoint]) -> bool {
        let Some(record) = setup.record.as_ref().filter(|_| self.inner.config.firewall) else {
            return true;
        };
        let elements = live.iter().flat_map(|LiveEndpoint { endpoint, ports }| {
            ports
                .iter()
                .filter_map(|p| Element::of(p, endpoint.ip, &endpoint.container_id))
        });
        // It is written anew in any case; this only feeds the report, so an error counts as "no".
        crate::firewall::holds(&record.table, elements).unwrap_or(false)
    }

    fn take_over(&self, live: &[LiveEndpoint]) {
        let mut state = self.state();
        for LiveEndpoint { endpoint, ports } in live {
            self.inner.shared.hold(&endpoint.host_link);
            self.inner.shared.publish(ports);
            let claim = Claim {
                endpoint: Some(endpoint.clone()),
                ports: ports.clone(),
            };
            state.claims.insert(endpoint.container_id.clone(), claim);
        }
    }

    fn remove_orphans(&self, record: &Record) -> Result<Vec<String>> {
        let mut rtnl = Rtnl::open().map_err(|e| Error::os("open a netlink socket", e))?;
        let links = rtnl.links().map_err(|e| Error::os("list links", e))?;
        let bridge = links.iter().find(|l| l.name == record.bridge).map(|l| l.index);
        let orphans = links
            .iter()
            .filter(|l| plan::is_orphan(l, bridge, |name| self.inner.shared.has(name)));
        let removed: Vec<String> = orphans.map(|l| l.name.clone()).collect();
        let doomed: Vec<&str> = removed.iter().map(String::as_str).collect();
        let deleted = rtnl.delete_links(&doomed);
        deleted.map_err(|e| Error::os(format!("delete links {}", doomed.join(" ")), e))?;
        Ok(removed)
    }

    pub(super) fn bridge_is_there(&self, bridge: &Bridge) -> bool {
        let found = Rtnl::open().and_then(|mut rtnl| rtnl.link(&bridge.name));
        // Unknown counts as there: the first error is the one to report.
        found.map_or(true, |link| link.is_some_and(|l| l.index == bridge.index))
    }

    pub(super) fn remake_bridge(&self, gone: &Bridge) -> Result<Bridge> {
        let mut setup = lock(&self.inner.setup);
        let live: Vec<LiveEndpoint> = {
            let state = self.state();
            match &state.bridge {
                Some(now) if now != gone => return Ok(now.clone()),
                _ => {}
            }
            let live = |c: &Claim| {
                Some(LiveEndpoint {
                    endpoint: c.endpoint.clone()?,
                    ports: c.ports.clone(),
                })
            };
            state.claims.values().filter_map(live).collect()
        };
        let bridge = self.make_bridge(&mut setup, &live)?;
        veth::reattach(&bridge, live.iter().map(|l| &l.endpoint), self.isolated())?;
        Ok(bridge)
    }
}
