//! `linux.resources`: what is wrong with either cgroup interface. What only one of them refuses is `kelson-cgroups`'.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::error::{Error, Result};
use crate::process::ranges;

const AT: &str = "linux.resources";

/// Checks the limits of a container that is created, or of `update`.
///
/// # Errors
/// `Invalid` names the field, the rule and the value.
pub fn resources(r: &LinuxResources) -> Result<()> {
    r.memory().as_ref().map_or(Ok(()), memory)?;
    r.cpu().as_ref().map_or(Ok(()), cpu)?;
    r.block_io().as_ref().map_or(Ok(()), block_io)?;
    for (i, h) in r.hugepage_limits().iter().flatten().enumerate() {
        if !is_page_size(h.page_size()) {
            let why = format!("{:?} is not a number followed by KB, MB or GB", h.page_size());
            return Err(Error::field(format!("{AT}.hugepageLimits[{i}].pageSize"), why));
        }
    }
    let priorities = r.network().as_ref().and_then(|n| n.priorities().as_ref());
    for (i, p) in priorities.into_iter().flatten().enumerate() {
        if p.name().is_empty() || p.name().contains(|c: char| c.is_whitespace() || c == '/') {
            let why = format!("{:?} is not the name of an interface", p.name());
            return Err(Error::field(format!("{AT}.network.priorities[{i}].name"), why));
        }
    }
    for (name, rdma) in r.rdma().iter().flatten() {
        let at = format!("{AT}.rdma[{name:?}]");
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::field(at, "is not the name of a device"));
        }
        if rdma.hca_handles().is_none() && rdma.hca_objects().is_none() {
            return Err(Error::field(
                at,
                "needs at least one of hcaHandles and hcaObjects",
            ));
        }
    }
    for name in r.unified().iter().flat_map(|map| map.keys()) {
        let form = name
            .split_once('.')
            .is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty());
        if !form || name.contains(['/', '\0']) {
            let why = "is not of the form CONTROLLER.PARAMETER";
            return Err(Error::field(format!("{AT}.unified[{name:?}]"), why));
        }
    }
    Ok(())
}

fn memory(m: &LinuxMemory) -> Result<()> {
    let at = format!("{AT}.memory");
    for (name, value) in [
        ("limit", m.limit()),
        ("reservation", m.reservation()),
        ("swap", m.swap()),
    ] {
        if let Some(n) = value.filter(|n| *n < -1) {
            let why = format!("{n} is neither a size nor -1, which means no limit");
            return Err(Error::field(format!("{at}.{name}"), why));
        }
    }
    if let (Some(limit @ 1..), Some(swap @ 1..)) = (m.limit(), m.swap())
        && swap < limit
    {
        let why = format!("memory+swap limit should be >= memory limit: {swap} < {limit}");
        return Err(Error::field(format!("{at}.swap"), why));
    }
    if let Some(n) = m.swappiness().filter(|n| *n > 100) {
        let why = format!("{n} is not between 0 and 100");
        return Err(Error::field(format!("{at}.swappiness"), why));
    }
    Ok(())
}

fn cpu(c: &LinuxCpu) -> Result<()> {
    for (name, list) in [("cpus", c.cpus()), ("mems", c.mems())] {
        if let Some(list) = list.as_deref().filter(|l| !l.is_empty()) {
            ranges::parse(list).map_err(|why| Error::field(format!("{AT}.cpu.{name}"), why))?;
        }
    }
    match c.idle() {
        Some(n) if n != 0 && n != 1 => Err(Error::field(
            format!("{AT}.cpu.idle"),
            format!("{n} is neither 0 nor 1"),
        )),
        _ => Ok(()),
    }
}

fn block_io(b: &LinuxBlockIo) -> Result<()> {
    let at = format!("{AT}.blockIO");
    weight(b.weight(), &format!("{at}.weight"))?;
    weight(b.leaf_weight(), &format!("{at}.leafWeight"))?;
    for (i, d) in b.weight_device().iter().flatten().enumerate() {
        let at = format!("{at}.weightDevice[{i}]");
        numbers(d.major(), d.minor(), &at)?;
        if d.weight().is_none() && d.leaf_weight().is_none() {
            return Err(Error::field(at, "needs at least one of weight and leafWeight"));
        }
        weight(d.weight(), &format!("{at}.weight"))?;
        weight(d.leaf_weight(), &format!("{at}.leafWeight"))?;
    }
    let lists: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", b.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", b.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", b.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", b.throttle_write_iops_device()),
    ];
    for (name, list) in lists {
        for (i, d) in list.iter().flatten().enumerate() {
            numbers(d.major(), d.minor(), &format!("{at}.{name}[{i}]"))?;
        }
    }
    Ok(())
}

/// 0 is what engines write for "not set".
fn weight(weight: Option<u16>, at: &str) -> Result<()> {
    match weight {
        None | Some(0 | 10..=1000) => Ok(()),
        Some(n) => Err(Error::field(at, format!("{n} is not between 10 and 1000"))),
    }
}

fn numbers(major: i64, minor: i64, at: &str) -> Result<()> {
    for (name, n) in [("major", major), ("minor", minor)] {
        if u32::try_from(n).is_err() {
            return Err(Error::field(
                format!("{at}.{name}"),
                format!("{n} is not a device number"),
            ));
        }
    }
    Ok(())
}

fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|n| n.starts_with(|c: char| c != '0') && n.bytes().all(|b| b.is_ascii_digit()))
}
