//! `--network` with its long form, and the flags that belong to the first network.

use std::collections::BTreeMap;

use kelson_api::{EndpointIpamConfig, EndpointSettings};

/// A network to join.
#[derive(Debug, Default, PartialEq)]
pub struct Attachment {
    /// Name, or a mode (`host`, `none`, `container:X`).
    pub target: String,
    /// Address, aliases and the like; `None` if nothing was said.
    pub settings: Option<EndpointSettings>,
}

/// The flags that speak of the first network.
#[derive(Debug, Default)]
pub struct Simple<'a> {
    /// `--ip`.
    pub ip: Option<&'a str>,
    /// `--ip6`.
    pub ip6: Option<&'a str>,
    /// `--link-local-ip`.
    pub link_local: Vec<&'a str>,
    /// `--network-alias`.
    pub aliases: Vec<&'a str>,
    /// `--mac-address`.
    pub mac: Option<&'a str>,
    /// `--link`: on a network of the user's a name, on the default bridge not the network's business.
    pub links: Vec<&'a str>,
}

/// Reads one `--network` value.
pub fn parse(text: &str) -> Result<Attachment, String> {
    if !text.contains('=') {
        return Ok(Attachment {
            target: text.into(),
            settings: None,
        });
    }
    let mut target = String::new();
    let mut settings = EndpointSettings::default();
    for field in super::mounts::csv(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid key/value pair format in driver options: {field}"))?;
        let ipam = |settings: &mut EndpointSettings, set: &dyn Fn(&mut EndpointIpamConfig)| {
            set(settings.ipam_config.get_or_insert_default());
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => target = value.into(),
            "alias" => settings.aliases.get_or_insert_default().push(value.into()),
            "ip" => ipam(&mut settings, &|config| config.ipv4_address = value.into()),
            "ip6" => ipam(&mut settings, &|config| config.ipv6_address = value.into()),
            "link-local-ip" => {
                ipam(&mut settings, &|config| {
                    config.link_local_ips.get_or_insert_default().push(value.into())
                });
            }
            "mac-address" => settings.mac_address = value.into(),
            "driver-opt" => {
                let (name, option) = value
                    .split_once('=')
                    .ok_or("invalid key value pair format in driver options")?;
                settings
                    .driver_opts
                    .get_or_insert_with(BTreeMap::new)
                    .insert(name.into(), option.into());
            }
            "gw-priority" => {
                settings.gw_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority: {value}"))?;
            }
            key => return Err(format!("invalid field key {key}")),
        }
    }
    if target.is_empty() {
        return Err("network name/id is not specified".into());
    }
    Ok(Attachment {
        target,
        settings: Some(settings),
    })
}

/// Whether there is more than links.
fn says_more(simple: &Simple<'_>) -> bool {
    simple.ip.is_some()
        || simple.ip6.is_some()
        || simple.mac.is_some()
        || !simple.link_local.is_empty()
        || !simple.aliases.is_empty()
}

/// Gives the simple flags to the first network; without one it is the default.
pub fn combine(mut networks: Vec<Attachment>, simple: &Simple<'_>) -> Result<Vec<Attachment>, String> {
    if networks.is_empty() {
        networks.push(Attachment {
            target: "default".into(),
            settings: None,
        });
    }
    let first = &mut networks[0];
    let of_user = !matches!(first.target.as_str(), "default" | "bridge" | "host" | "none")
        && !first.target.starts_with("container:");
    let links = of_user && !simple.links.is_empty();
    let said = says_more(simple) || links;
    if !said {
        return Ok(networks);
    }
    if !simple.aliases.is_empty() && matches!(first.target.as_str(), "default" | "bridge" | "host" | "none") {
        return Err("network-scoped aliases are only supported for user-defined networks".into());
    }
    let settings = first.settings.get_or_insert_default();
    if !simple.aliases.is_empty() {
        settings.aliases = Some(simple.aliases.iter().map(|alias| (*alias).to_owned()).collect());
    }
    if simple.ip.is_some() || simple.ip6.is_some() || !simple.link_local.is_empty() {
        let config = settings.ipam_config.get_or_insert_default();
        config.ipv4_address = simple.ip.unwrap_or_default().into();
        config.ipv6_address = simple.ip6.unwrap_or_default().into();
        if !simple.link_local.is_empty() {
            config.link_local_ips = Some(simple.link_local.iter().map(|ip| (*ip).to_owned()).collect());
        }
    }
    if links {
        settings.links = Some(simple.links.iter().map(|link| (*link).to_owned()).collect());
    }
    if let Some(mac) = simple.mac {
        settings.mac_address = mac.into();
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(
            parse("host").unwrap(),
            Attachment {
                target: "host".into(),
                settings: None
            }
        );
        let net = parse("name=n,alias=a,alias=b,ip=1.2.3.4,driver-opt=k=v").unwrap();
        let settings = net.settings.unwrap();
        assert_eq!(settings.aliases.unwrap(), ["a", "b"]);
        assert_eq!(settings.ipam_config.unwrap().ipv4_address, "1.2.3.4");
        assert!(parse("alias=a").is_err() && parse("name=a,foo=b").is_err());
    }

    #[test]
    fn simple_flags_go_to_the_first() {
        let simple = Simple {
            ip: Some("1.2.3.4"),
            ..Simple::default()
        };
        let links = Simple {
            links: vec!["db:store"],
            ..Simple::default()
        };
        let linked = combine(vec![parse("n").unwrap()], &links).unwrap();
        assert_eq!(
            linked[0].settings.as_ref().unwrap().links.as_ref().unwrap(),
            &["db:store"]
        );
        assert!(combine(vec![], &links).unwrap()[0].settings.is_none());
        let networks = combine(vec![parse("n").unwrap(), parse("m").unwrap()], &simple).unwrap();
        assert!(networks[0].settings.is_some() && networks[1].settings.is_none());
        assert_eq!(combine(vec![], &Simple::default()).unwrap()[0].target, "default");
        assert!(
            combine(
                vec![],
                &Simple {
                    aliases: vec!["a"],
                    ..Simple::default()
                }
            )
            .is_err()
        );
    }
}
