//! Drivers that carry output elsewhere: from docker's options to the words that `kelson-logger` takes.

use std::path::Path;

use super::{ATTRIBUTES, Facts, Options, message, positive_size, switch};
use crate::clock;
use crate::containers::record::Record;
use crate::error::{Error, Result};

/// An option's name in docker, its name for the shim (empty: it has no effect here), and what it may be.
type Known = (&'static str, &'static str, Rule);

/// What a value may be.
#[derive(Clone, Copy)]
enum Rule {
    Any,
    /// One of these words.
    OneOf(&'static [&'static str]),
    Switch,
    Size,
    /// A number in this range.
    Number(i64, i64),
    /// A time as Go writes it, at least so many milliseconds; the shim is told milliseconds.
    Duration,
    /// `scheme://...` with one of these schemes.
    Address(&'static [&'static str]),
    /// docker takes it, and this engine does not.
    Refused(&'static str),
}

const NO_TLS: Rule = Rule::Refused("TLS to a syslog server is not supported");

const SYSLOG: &[Known] = &[
    (
        "syslog-address",
        "address",
        Rule::Address(&["udp", "tcp", "unix", "unixgram"]),
    ),
    ("syslog-facility", "facility", Rule::Any),
    (
        "syslog-format",
        "format",
        Rule::OneOf(&["", "rfc3164", "rfc5424", "rfc5424micro"]),
    ),
    ("syslog-tls-ca-cert", "", NO_TLS),
    ("syslog-tls-cert", "", NO_TLS),
    ("syslog-tls-key", "", NO_TLS),
    ("syslog-tls-skip-verify", "", NO_TLS),
];

const FLUENTD: &[Known] = &[
    ("fluentd-address", "address", Rule::Any),
    ("fluentd-async", "async", Rule::Switch),
    ("fluentd-async-connect", "async", Rule::Switch),
    ("fluentd-async-reconnect-interval", "", Rule::Duration),
    ("fluentd-buffer-limit", "", Rule::Size),
    (
        "fluentd-max-retries",
        "max-retries",
        Rule::Number(0, i32::MAX as i64),
    ),
    ("fluentd-read-timeout", "", Rule::Duration),
    (
        "fluentd-request-ack",
        "",
        Rule::Refused("waiting for fluentd's acknowledgement is not supported"),
    ),
    ("fluentd-retry-wait", "retry-wait", Rule::Duration),
    (
        "fluentd-sub-second-precision",
        "sub-second-precision",
        Rule::Switch,
    ),
    ("fluentd-write-timeout", "write-timeout", Rule::Duration),
];

const GELF: &[Known] = &[
    ("gelf-address", "address", Rule::Address(&["udp", "tcp"])),
    (
        "gelf-compression-type",
        "compression-type",
        Rule::OneOf(&["gzip", "zlib", "none"]),
    ),
    ("gelf-compression-level", "compression-level", Rule::Number(-1, 9)),
    (
        "gelf-tcp-max-reconnect",
        "tcp-max-reconnect",
        Rule::Number(0, 1000),
    ),
    (
        "gelf-tcp-reconnect-delay",
        "tcp-reconnect-delay",
        Rule::Number(0, 3600),
    ),
];

fn known(name: &str) -> &'static [Known] {
    match name {
        "syslog" => SYSLOG,
        "fluentd" => FLUENTD,
        "gelf" => GELF,
        _ => &[],
    }
}

/// Refuses options that `name` does not know, or that make no sense. `own` tells which are meant for it.
pub(super) fn check(name: &str, options: Options<'_>, own: impl Fn(&str) -> bool) -> Result<()> {
    for (key, value) in options.iter().filter(|(key, _)| own(key)) {
        match known(name).iter().find(|(known, ..)| known == key) {
            Some((_, _, rule)) => rule.apply(key, value).map(drop)?,
            None if ATTRIBUTES.contains(&key.as_str()) => {}
            None => {
                return Err(Error::invalid(format!(
                    "unknown log opt '{key}' for {name} log driver"
                )));
            }
        }
    }
    if name == "gelf" && !options.contains_key("gelf-address") {
        return Err(Error::invalid("gelf-address is a required parameter"));
    }
    if let Some(facility) = options.get("syslog-facility")
        && !is_facility(facility)
    {
        return Err(Error::invalid(format!("invalid syslog facility: {facility}")));
    }
    message::check(options)
}

fn is_facility(text: &str) -> bool {
    const NAMES: [&str; 12] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    ];
    NAMES.contains(&text)
        || text.parse::<u8>().is_ok_and(|number| number < 24)
        || text
            .strip_prefix("local")
            .is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n < 8))
}

impl Rule {
    /// The value as the shim is told it.
    fn apply(self, key: &str, value: &str) -> Result<String> {
        let bad = || Error::invalid(format!("invalid value for {key}: {value}"));
        match self {
            Self::Any => {}
            Self::OneOf(words) if words.contains(&value) => {}
            Self::OneOf(_) => return Err(bad()),
            Self::Switch => return switch(key, value).map(|on| on.to_string()),
            Self::Size => positive_size(key, value).map(drop)?,
            Self::Number(from, to) => {
                let number: i64 = value.parse().map_err(|_| bad())?;
                if number < from || number > to {
                    return Err(bad());
                }
            }
            Self::Duration => {
                let nanos = clock::go_duration(value).filter(|n| *n >= 0).ok_or_else(bad)?;
                return Ok((nanos / 1_000_000).to_string());
            }
            Self::Address(schemes) => check_address(key, value, schemes)?,
            Self::Refused(why) => return Err(Error::unsupported(format!("{key}: {why}"))),
        }
        Ok(value.to_owned())
    }
}

fn check_address(key: &str, value: &str, schemes: &[&str]) -> Result<()> {
    let form = || Error::invalid(format!("{key} should be in form proto://address, got {value}"));
    let (scheme, place) = value.split_once("://").ok_or_else(form)?;
    if scheme == "tcp+tls" {
        return NO_TLS.apply(key, value).map(drop);
    }
    if !schemes.contains(&scheme) {
        let schemes = schemes.join(", ");
        return Err(Error::invalid(format!(
            "{key}: {value}: the protocol is none of {schemes}"
        )));
    }
    if scheme.starts_with("unix") && !Path::new(place).is_absolute() {
        return Err(Error::invalid(format!(
            "{key}: {value}: the path is not absolute"
        )));
    }
    if place.is_empty() { Err(form()) } else { Ok(()) }
}

/// The words behind the logger's program.
pub(super) fn args(name: &str, record: &Record, facts: &Facts<'_>) -> Result<Vec<String>> {
    let mut words = vec![name.to_owned()];
    let mut put = |key: &str, value: &str| words.extend([key.to_owned(), value.to_owned()]);
    for (key, value) in super::options(record) {
        let option = known(name).iter().find(|(known, ..)| known == key);
        if let Some((_, told, rule)) = option
            && !told.is_empty()
        {
            put(told, &rule.apply(key, value)?);
        }
    }
    put("tag", &message::tag(record, facts)?);
    match name {
        "syslog" => {
            put("host", facts.host);
            return Ok(words);
        }
        "journald" => put("image", &record.image),
        "gelf" => {
            put("host", facts.host);
            put("image", &record.image);
            put("image-id", &record.image_id);
            put("command", &command(record));
            put("created", &record.created);
        }
        _ => {}
    }
    put("id", &record.id);
    // docker tells fluentd the name with its slash.
    let slash = if name == "fluentd" { "/" } else { "" };
    put("name", &format!("{slash}{}", record.name));
    for (key, value) in message::attributes(record)? {
        put(&format!("extra:{key}"), &value);
    }
    Ok(words)
}

fn command(record: &Record) -> String {
    let words = std::iter::once(&record.path).chain(&record.args);
    words.map(String::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::record;
    use kelson_api::{ContainerConfig, HostConfig, LogConfig};

    fn words(name: &str, options: &[(&str, &str)]) -> String {
        let host = HostConfig {
            log_config: LogConfig {
                r#type: name.into(),
                config: Some(options.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            },
            ..HostConfig::default()
        };
        let config = ContainerConfig {
            env: Some(vec!["ONE=1".into(), "TWO=2".into()]),
            labels: Some([("app".to_owned(), "web".to_owned())].into_iter().collect()),
            ..ContainerConfig::default()
        };
        let facts = Facts {
            logger: Path::new("/s"),
            host: "box",
        };
        let record = record(config, host);
        super::super::check(&record.host).unwrap();
        args(name, &record, &facts).unwrap().join(" ")
    }

    #[test]
    fn words_of_each_driver() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(
            words(
                "syslog",
                &[
                    ("syslog-address", "tcp://h:1"),
                    ("syslog-format", "rfc5424"),
                    ("tag", "{{.Name}}")
                ]
            ),
            "syslog address tcp://h:1 format rfc5424 tag web host box"
        );
        assert_eq!(
            words(
                "fluentd",
                &[
                    ("fluentd-retry-wait", "1.5s"),
                    ("fluentd-async", "1"),
                    ("env", "ONE,X")
                ]
            ),
            format!("fluentd async true retry-wait 1500 tag 0123456789ab id {id} name /web extra:ONE 1")
        );
        assert_eq!(
            words("journald", &[("labels-regex", "^a"), ("env-regex", "W")]),
            format!("journald tag 0123456789ab image busybox id {id} name web extra:TWO 2 extra:app web")
        );
        let gelf = words(
            "gelf",
            &[("gelf-address", "udp://h:1"), ("gelf-compression-level", "9")],
        );
        assert!(
            gelf.contains("command sh -c true") && gelf.contains("compression-level 9"),
            "{gelf}"
        );
    }

    #[test]
    fn wrong_values() {
        let refused = |name: &str, key: &str, value: &str| {
            let options = [(key.to_owned(), value.to_owned())].into_iter().collect();
            check(name, &options, |_| true).unwrap_err().to_string()
        };
        for (name, key, value, text) in [
            ("gelf", "tag", "x", "gelf-address is a required parameter"),
            (
                "gelf",
                "gelf-compression-level",
                "10",
                "invalid value for gelf-compression-level: 10",
            ),
            (
                "gelf",
                "gelf-address",
                "http://x",
                "gelf-address: http://x: the protocol is none of udp, tcp",
            ),
            (
                "syslog",
                "syslog-address",
                "h:1",
                "syslog-address should be in form proto://address, got h:1",
            ),
            (
                "syslog",
                "syslog-facility",
                "nope",
                "invalid syslog facility: nope",
            ),
            (
                "syslog",
                "syslog-format",
                "x",
                "invalid value for syslog-format: x",
            ),
            (
                "fluentd",
                "fluentd-retry-wait",
                "soon",
                "invalid value for fluentd-retry-wait: soon",
            ),
            (
                "journald",
                "tag",
                "{{.X}}",
                "template: log-tag: {{.X}}: can't evaluate .X",
            ),
            (
                "journald",
                "labels-regex",
                "(",
                "invalid value for labels-regex: (",
            ),
        ] {
            let error = refused(name, key, value);
            assert!(error.starts_with(text), "{name} {key}={value}: {error}");
        }
        assert!(refused("syslog", "syslog-address", "tcp+tls://h:1").contains("TLS"));
    }
}
