//! Limits: processors, swap, ulimits, block I/O.

use kelson_api::{ThrottleDevice, Ulimit, WeightDevice};

use crate::format::units;

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--memory-swap`: bytes, or -1 for no limit.
pub fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        Ok(-1)
    } else {
        units::parse_size(text)
    }
}

/// `--cpus`: billionths of a processor, exactly.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    const DIGITS: usize = 9;
    let bad = || format!("failed to parse {text} as a rational number");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !digits(whole.trim_start_matches('-')) || !digits(part) {
        return Err(bad());
    }
    let part = part.trim_end_matches('0');
    if part.len() > DIGITS {
        return Err("value is too precise".into());
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    format!("{whole}{part:0<DIGITS$}").parse().map_err(|_| bad())
}

/// `--ulimit name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let mut parts = values.split(':');
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let soft = number(parts.next().unwrap_or_default())?;
    let hard = parts.next().map_or(Ok(soft), number)?;
    if parts.next().is_some() {
        return Err(format!(
            "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
        ));
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.into(),
        hard,
        soft,
    })
}

fn device<'a>(text: &'a str, form: &str) -> Result<(&'a str, &'a str), String> {
    let (path, value) = text
        .split_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    if value.is_empty() {
        Err(format!("invalid {form} for device: {text}"))
    } else {
        Ok((path, value))
    }
}

/// `--device-read-bps` (bytes) and `--device-read-iops` (a count), and those for writing.
pub fn throttle(text: &str, bytes: bool) -> Result<ThrottleDevice, String> {
    let (path, value) = device(text, "rate")?;
    let bad = |form: &str| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>{form}. Number must be a positive integer"
        )
    };
    let rate = if bytes {
        units::parse_size(value)
            .ok()
            .and_then(|rate| u64::try_from(rate).ok())
            .ok_or_else(|| bad("[<unit>]"))?
    } else {
        value.parse().map_err(|_| bad(""))?
    };
    Ok(ThrottleDevice {
        path: path.into(),
        rate,
    })
}

/// `--blkio-weight-device`.
pub fn weight(text: &str) -> Result<WeightDevice, String> {
    let (path, value) = device(text, "weight")?;
    let weight: u16 = value
        .parse()
        .map_err(|_| format!("invalid weight for device: {text}"))?;
    if weight > 0 && !(10..=1000).contains(&weight) {
        return Err(format!("invalid weight for device: {text}"));
    }
    Ok(WeightDevice {
        path: path.into(),
        weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_exact() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("0.000000001"), Ok(1));
        assert_eq!(nano_cpus("1.0000000000000"), Ok(1_000_000_000));
        assert_eq!(nano_cpus("0.0000000001"), Err("value is too precise".into()));
        assert_eq!(
            nano_cpus("x"),
            Err("failed to parse x as a rational number".into())
        );
        assert!(nano_cpus("").is_err() && nano_cpus("1.2.3").is_err());
    }

    #[test]
    fn ulimits() {
        assert_eq!(
            ulimit("nofile=1:2"),
            Ok(Ulimit {
                name: "nofile".into(),
                soft: 1,
                hard: 2
            })
        );
        assert_eq!(ulimit("core=-1").map(|limit| limit.hard), Ok(-1));
        for bad in [
            "nofile",
            "foo=1",
            "nofile=2:1",
            "nofile=x",
            "nofile=1:2:3",
            "nofile=-1:1",
        ] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn block_devices() {
        assert_eq!(
            throttle("/dev/sda:1mb", true),
            Ok(ThrottleDevice {
                path: "/dev/sda".into(),
                rate: 1 << 20
            })
        );
        assert!(throttle("/dev/sda:1mb", false).is_err() && throttle("sda:1", true).is_err());
        assert!(
            weight("/dev/sda:200").is_ok() && weight("/dev/sda:5").is_err() && weight("/dev/sda").is_err()
        );
    }
}
