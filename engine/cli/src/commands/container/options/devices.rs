//! `--device` and `--gpus`.

use std::collections::BTreeMap;

use kelson_api::{DeviceMapping, DeviceRequest};

/// What a `--device` value names.
#[derive(Debug, PartialEq)]
pub enum Device {
    /// A device node.
    Node(DeviceMapping),
    /// A name of the Container Device Interface, `vendor.com/class=name`.
    Cdi(String),
}

/// Reads `/dev/x[:/dev/y][:rwm]`.
pub fn parse(text: &str) -> Result<Device, String> {
    if is_cdi(text) {
        return Ok(Device::Cdi(text.into()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, container] => (host, container, "rwm"),
        [host, container, access] => (host, container, access),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !is_access(access) {
        return Err(format!("bad mode specified: {access}"));
    }
    if !container.starts_with('/') {
        return Err(format!("{container} is not an absolute path"));
    }
    Ok(Device::Node(DeviceMapping {
        path_on_host: host.into(),
        path_in_container: container.into(),
        cgroup_permissions: access.into(),
    }))
}

fn is_access(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .enumerate()
            .all(|(n, byte)| b"rwm".contains(&byte) && !text.as_bytes()[..n].contains(&byte))
}

fn is_cdi(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, name)| {
        !kind.starts_with('/') && kind.split('/').count() == 2 && !name.is_empty()
    })
}

/// Reads `all`, `2`, or `device=a,driver=nvidia,capabilities=...` of `--gpus`.
pub fn gpus(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest {
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    };
    let mut options = BTreeMap::new();
    for field in super::mounts::csv(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        match key {
            "count" => {
                request.count = if value == "all" {
                    -1
                } else {
                    value.parse().map_err(|_| {
                        format!("invalid count ({value}): value must be either \"all\" or an integer: invalid syntax")
                    })?
                };
            }
            "device" => request.device_ids = Some(value.split(',').map(Into::into).collect()),
            "driver" => request.driver = value.into(),
            "capabilities" => {
                let names = value
                    .split(',')
                    .map(str::to_owned)
                    .chain(["gpu".to_owned()])
                    .collect();
                request.capabilities = Some(vec![names]);
            }
            "options" => {
                for option in super::mounts::csv(value)? {
                    let (key, value) = option.split_once('=').unwrap_or((&option, ""));
                    options.insert(key.to_owned(), value.to_owned());
                }
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if request.count == 0 && request.device_ids.is_none() {
        request.count = 1;
    }
    request.options = Some(options);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse(text) {
            Ok(Device::Node(node)) => {
                format!(
                    "{} {} {}",
                    node.path_on_host, node.path_in_container, node.cgroup_permissions
                )
            }
            Ok(Device::Cdi(name)) => format!("cdi {name}"),
            Err(why) => format!("! {why}"),
        }
    }

    #[test]
    fn device_forms() {
        assert_eq!(show("/dev/a"), "/dev/a /dev/a rwm");
        assert_eq!(show("/dev/a:r"), "/dev/a /dev/a r");
        assert_eq!(show("/dev/a:/dev/b"), "/dev/a /dev/b rwm");
        assert_eq!(show("/dev/a:/dev/b:rw"), "/dev/a /dev/b rw");
        assert_eq!(show("vendor.com/class=x"), "cdi vendor.com/class=x");
        assert_eq!(show("/dev/a:/dev/b:x"), "! bad mode specified: x");
        assert_eq!(show("/dev/a:b"), "! b is not an absolute path");
        assert!(show("a:b:c:d").starts_with('!') && show("/dev/a:/dev/b:rr").starts_with('!'));
    }

    #[test]
    fn gpu_requests() {
        assert_eq!(gpus("all").map(|request| request.count), Ok(-1));
        let request = gpus("\"device=0,2\",driver=nvidia").unwrap();
        assert_eq!(request.device_ids, Some(vec!["0".into(), "2".into()]));
        assert_eq!((request.count, request.driver.as_str()), (0, "nvidia"));
        assert!(gpus("x").is_err());
    }
}
