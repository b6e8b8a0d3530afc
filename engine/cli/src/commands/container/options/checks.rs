//! Flag values that docker refuses while it reads the command line.

use std::net::IpAddr;

use super::{limits, mounts};
use crate::format::units;

/// `512m`.
pub fn bytes(text: &str) -> Result<(), String> {
    units::parse_size(text).map(drop)
}

/// A size, or -1 for no limit.
pub fn swap(text: &str) -> Result<(), String> {
    limits::swap(text).map(drop)
}

/// `1m30s`.
pub fn duration(text: &str) -> Result<(), String> {
    units::parse_duration(text).map(drop)
}

/// A number of 16 bits.
pub fn uint16(text: &str) -> Result<(), String> {
    text.parse::<u16>()
        .map(drop)
        .map_err(|_| format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
}

/// `1.5`.
pub fn cpus(text: &str) -> Result<(), String> {
    limits::nano_cpus(text).map(drop)
}

/// `nofile=1024:2048`.
pub fn ulimit(text: &str) -> Result<(), String> {
    limits::ulimit(text).map(drop)
}

/// `type=bind,src=/a,dst=/b`.
pub fn mount(text: &str) -> Result<(), String> {
    mounts::parse_mount(text).map(drop)
}

/// `K=V` or `K`.
pub fn env(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') {
        Err(format!("invalid environment variable: {text}"))
    } else {
        Ok(())
    }
}

/// `stdin`, `stdout` or `stderr`.
pub fn attach(text: &str) -> Result<(), String> {
    match text.to_ascii_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
    }
}

/// `name:address`, or `name=address`.
pub fn add_host(text: &str) -> Result<(), String> {
    let (name, address) = text.split_once(['=', ':']).unwrap_or((text, ""));
    if name.is_empty() || address.is_empty() {
        return Err(format!("bad format for add-host: {text:?}"));
    }
    if address != "host-gateway" {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        address
            .parse::<IpAddr>()
            .map_err(|_| format!("invalid IP address in add-host: {address:?}"))?;
    }
    Ok(())
}

/// An IP address.
pub fn ip(text: &str) -> Result<(), String> {
    text.trim()
        .parse::<IpAddr>()
        .map(drop)
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// `container` or `container:alias`.
pub fn link(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty string specified for links".into());
    }
    if text.split(':').count() > 2 {
        Err(format!("bad format for links: {text}"))
    } else {
        Ok(())
    }
}

/// `c 1:3 mr`.
pub fn device_rule(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split(' ').collect();
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let valid = match parts[..] {
        ["a" | "b" | "c", numbers, access] => {
            numbers
                .split_once(':')
                .is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.chars().all(|c| "rwm".contains(c))
        }
        _ => false,
    };
    if valid {
        Ok(())
    } else {
        Err(format!("invalid device cgroup format '{text}'"))
    }
}

/// `/dev/sda:1mb`.
pub fn rate_bytes(text: &str) -> Result<(), String> {
    limits::throttle(text, true).map(drop)
}

/// `/dev/sda:1000`.
pub fn rate_count(text: &str) -> Result<(), String> {
    limits::throttle(text, false).map(drop)
}

/// `/dev/sda:200`.
pub fn weight(text: &str) -> Result<(), String> {
    limits::weight(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["a:1.2.3.4", "a=::1", "a=[::1]", "a:::1", "a:host-gateway"] {
            assert_eq!(add_host(good), Ok(()), "{good}");
        }
        for bad in ["a", ":1.2.3.4", "a:x", ""] {
            assert!(add_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_rules() {
        assert!(device_rule("c 1:3 mr").is_ok() && device_rule("a *:* rwm").is_ok());
        assert!(
            device_rule("c 1:3").is_err()
                && device_rule("x 1:3 r").is_err()
                && device_rule("c 1:3 rx").is_err()
        );
    }
}
