//! Block I/O limits: weights and throttles by device, as blkio (v1) and io (v2) take them.

use oci_spec::runtime::LinuxBlockIo;

use crate::host::Version;
use crate::limits::Limit;

const BLKIO: (Version, &str) = (Version::V1, "blkio");
const IO: (Version, &str) = (Version::V2, "io");

/// As blkio takes them.
pub(crate) fn v1(io: &LinuxBlockIo) -> Vec<Limit> {
    let mut out = Vec::new();
    // Kernels with the BFQ scheduler only have its files.
    if let Some(weight) = io.weight().filter(|&n| n != 0) {
        let limit = Limit::new(BLKIO, "linux.resources.blockIO.weight", "blkio.weight", weight);
        out.push(limit.or_other("blkio.bfq.weight", weight));
    }
    if let Some(weight) = io.leaf_weight().filter(|&n| n != 0) {
        out.push(Limit::new(
            BLKIO,
            "linux.resources.blockIO.leafWeight",
            "blkio.leaf_weight",
            weight,
        ));
    }
    for d in io.weight_device().iter().flatten() {
        const FIELD: &str = "linux.resources.blockIO.weightDevice";
        let line = |weight: u16| format!("{}:{} {weight}", d.major(), d.minor());
        if let Some(weight) = d.weight().filter(|&n| n != 0) {
            let limit = Limit::new(BLKIO, FIELD, "blkio.weight_device", line(weight));
            out.push(limit.or_other("blkio.bfq.weight_device", line(weight)));
        }
        if let Some(weight) = d.leaf_weight().filter(|&n| n != 0) {
            out.push(Limit::new(BLKIO, FIELD, "blkio.leaf_weight_device", line(weight)));
        }
    }
    let throttles = [
        (
            io.throttle_read_bps_device(),
            "blkio.throttle.read_bps_device",
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
        (
            io.throttle_write_bps_device(),
            "blkio.throttle.write_bps_device",
            "linux.resources.blockIO.throttleWriteBpsDevice",
        ),
        (
            io.throttle_read_iops_device(),
            "blkio.throttle.read_iops_device",
            "linux.resources.blockIO.throttleReadIOPSDevice",
        ),
        (
            io.throttle_write_iops_device(),
            "blkio.throttle.write_iops_device",
            "linux.resources.blockIO.throttleWriteIOPSDevice",
        ),
    ];
    for (devices, file, field) in throttles {
        for d in devices.iter().flatten() {
            let line = format!("{}:{} {}", d.major(), d.minor(), d.rate());
            out.push(Limit::new(BLKIO, field, file, line));
        }
    }
    out
}

/// `blkio.weight` (10 to 1000) as `io.weight` (1 to 10000), linearly.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

/// As io takes them.
pub(crate) fn v2(io: &LinuxBlockIo) -> Vec<Limit> {
    let mut out = Vec::new();
    // BFQ has a file and a range of its own; without it, io.weight is the cost model's.
    if let Some(weight) = io.weight().filter(|&n| n != 0) {
        let limit = Limit::new(IO, "linux.resources.blockIO.weight", "io.bfq.weight", weight);
        out.push(limit.or_other("io.weight", io_weight(weight)));
    }
    for d in io.weight_device().iter().flatten() {
        if let Some(weight) = d.weight().filter(|&n| n != 0) {
            let device = format!("{}:{}", d.major(), d.minor());
            let limit = Limit::new(
                IO,
                "linux.resources.blockIO.weightDevice",
                "io.bfq.weight",
                format!("{device} {weight}"),
            );
            out.push(limit.or_other("io.weight", format!("{device} {}", io_weight(weight))));
        }
    }
    let throttles = [
        (
            io.throttle_read_bps_device(),
            "rbps",
            "linux.resources.blockIO.throttleReadBpsDevice",
        ),
        (
            io.throttle_write_bps_device(),
            "wbps",
            "linux.resources.blockIO.throttleWriteBpsDevice",
        ),
        (
            io.throttle_read_iops_device(),
            "riops",
            "linux.resources.blockIO.throttleReadIOPSDevice",
        ),
        (
            io.throttle_write_iops_device(),
            "wiops",
            "linux.resources.blockIO.throttleWriteIOPSDevice",
        ),
    ];
    for (devices, key, field) in throttles {
        for d in devices.iter().flatten() {
            // v1 lifts a limit by 0, v2 by max.
            let rate = match d.rate() {
                0 => "max".to_owned(),
                n => n.to_string(),
            };
            out.push(Limit::new(
                IO,
                field,
                "io.max",
                format!("{}:{} {key}={rate}", d.major(), d.minor()),
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Absent;
    use oci_spec::runtime::LinuxResources;

    #[test]
    fn io_weight_spans_its_range() {
        assert_eq!(
            (io_weight(10), io_weight(750), io_weight(1000)),
            (1, 7475, 10_000)
        );
    }

    #[test]
    fn throttles_and_weights_by_device() {
        let text = r#"{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":500}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
        let r: LinuxResources = serde_json::from_str(text).unwrap();
        let limits = v2(r.block_io().as_ref().unwrap());
        assert_eq!(limits[0].absent, Absent::Other("io.weight", "1".to_owned()));
        assert_eq!(
            limits[1].absent,
            Absent::Other("io.weight", "8:0 4950".to_owned())
        );
        assert_eq!(limits[2].value, "8:0 rbps=5");
        assert_eq!(limits[3].value, "8:0 wiops=max");
    }

    #[test]
    fn v1_has_a_file_for_each_throttle_and_two_names_for_weights() {
        let text = r#"{"blockIO":{"weight":333,"leafWeight":20,
            "weightDevice":[{"major":7,"minor":1,"weight":444,"leafWeight":30}],
            "throttleWriteBpsDevice":[{"major":7,"minor":1,"rate":9}]}}"#;
        let r: LinuxResources = serde_json::from_str(text).unwrap();
        let all = v1(r.block_io().as_ref().unwrap());
        let pairs: Vec<_> = all.iter().map(|l| (l.file.as_ref(), l.value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("blkio.weight", "333"),
                ("blkio.leaf_weight", "20"),
                ("blkio.weight_device", "7:1 444"),
                ("blkio.leaf_weight_device", "7:1 30"),
                ("blkio.throttle.write_bps_device", "7:1 9"),
            ]
        );
        assert_eq!(all[0].absent, Absent::Other("blkio.bfq.weight", "333".to_owned()));
    }
}
