//! `--change` of import and commit: Dockerfile instructions applied to an image's run parameters, docker's JSON form.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::words;
use crate::{Error, Result};

/// Applies Dockerfile instructions, each in a line, to a `Config` object: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
/// ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR.
///
/// # Errors
/// `Invalid` for an instruction that cannot be used here or has bad arguments.
pub fn apply(config: &mut Map<String, Value>, changes: &[String]) -> Result<()> {
    let text = changes.join("\n");
    let mut cmd_given = false;
    for line in lines(&text) {
        let word = one(config, &line)?;
        match word.as_str() {
            "CMD" => cmd_given = true,
            // A command was written for the entrypoint of its time.
            "ENTRYPOINT" if !cmd_given => set(config, "Cmd", Value::Null),
            _ => {}
        }
    }
    Ok(())
}

/// Instructions without comments; a backslash at the end of a line goes on with the next.
fn lines(text: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), String::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || (line.is_empty() && open.is_empty()) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => found.push(std::mem::take(&mut open) + line),
        }
    }
    found.extend(Some(open).filter(|rest| !rest.is_empty()));
    found
}

/// Applies one instruction; its word.
fn one(config: &mut Map<String, Value>, change: &str) -> Result<String> {
    let (word, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    let word = word.to_ascii_uppercase();
    let known = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !known.contains(&word.as_str()) {
        return Err(Error::invalid(format!("{word} is not a valid change command")));
    }
    if rest.is_empty() {
        return Err(Error::invalid(format!("{word} requires at least one argument")));
    }
    let env = environment(config);
    let expand = |text: &str| words::expand(text, &env);
    match word.as_str() {
        "CMD" => set(config, "Cmd", command(config, rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(config, rest)),
        "USER" => set(config, "User", json!(expand(rest)?)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(expand(rest)?)),
        "WORKDIR" => {
            let rest = expand(rest)?;
            let at = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .filter(|d| !d.is_empty())
                .unwrap_or("/");
            let dir = if rest.starts_with('/') {
                rest
            } else {
                format!("{}/{rest}", at.trim_end_matches('/'))
            };
            set(config, "WorkingDir", json!(dir));
        }
        "ENV" => {
            for (key, value) in pairs(&word, rest, &env)? {
                set_env(config, &key, &value);
            }
        }
        "LABEL" => {
            let pairs = pairs(&word, rest, &env)?;
            object(config, "Labels").extend(pairs.into_iter().map(|(key, value)| (key, json!(value))));
        }
        "EXPOSE" => expose(config, &each(words::split(rest), &env)?)?,
        "HEALTHCHECK" => {
            let check = health(rest)?;
            set(config, "Healthcheck", check);
        }
        "VOLUME" => {
            let list = each(strings(rest).unwrap_or_else(|| words::split(rest)), &env)?;
            if list.iter().any(|path| path.trim().is_empty()) {
                return Err(Error::invalid("VOLUME specified can not be an empty string"));
            }
            object(config, "Volumes").extend(list.into_iter().map(|path| (path, json!({}))));
        }
        "ONBUILD" => on_build(config, rest)?,
        _ => unreachable!("known words only"),
    }
    Ok(word)
}

fn each(list: Vec<String>, env: &[(String, String)]) -> Result<Vec<String>> {
    list.iter().map(|text| words::expand(text, env)).collect()
}

fn environment(config: &Map<String, Value>) -> Vec<(String, String)> {
    let list = config.get("Env").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|e| e.as_str()?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn expose(config: &mut Map<String, Value>, ports: &[String]) -> Result<()> {
    for port in ports {
        let (number, proto) = port.split_once('/').unwrap_or((port, "tcp"));
        let proto = proto.to_ascii_lowercase();
        let numbers: Option<Vec<u16>> = number.split('-').map(|n| n.parse().ok()).collect();
        let range = match numbers.as_deref() {
            Some([one]) => *one..=*one,
            Some([first, last]) if first <= last => *first..=*last,
            _ => return Err(Error::invalid(format!("EXPOSE: invalid containerPort: {port}"))),
        };
        if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
            return Err(Error::invalid(format!("EXPOSE: invalid proto: {proto}")));
        }
        let ports = object(config, "ExposedPorts");
        range.for_each(|n| drop(ports.insert(format!("{n}/{proto}"), json!({}))));
    }
    Ok(())
}

fn on_build(config: &mut Map<String, Value>, trigger: &str) -> Result<()> {
    let word = trigger
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => {
            return Err(Error::invalid(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ));
        }
        "FROM" | "MAINTAINER" => {
            return Err(Error::invalid(format!(
                "{word} isn't allowed as an ONBUILD trigger"
            )));
        }
        _ => list(config, "OnBuild").push(json!(trigger)),
    }
    Ok(())
}

/// `[--interval=30s ...] CMD command`, or `NONE`.
fn health(text: &str) -> Result<Value> {
    let mut check = json!({});
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("HEALTHCHECK: --{flag} needs a value")))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                let count: u32 = value.parse().map_err(|_| {
                    Error::invalid(format!("HEALTHCHECK: --retries must be a number, not {value:?}"))
                })?;
                check["Retries"] = json!(count);
                continue;
            }
            _ => return Err(Error::invalid(format!("HEALTHCHECK: unknown flag: --{name}"))),
        };
        let bad = || Error::invalid(format!("HEALTHCHECK: --{name}: invalid duration {value:?}"));
        let time = kelson_formats::duration::go_duration(value).ok_or_else(bad)?;
        if time != Duration::ZERO && time < Duration::from_millis(1) {
            return Err(Error::invalid(format!(
                "HEALTHCHECK: --{name} cannot be less than 1ms"
            )));
        }
        check[key] = json!(u64::try_from(time.as_nanos()).map_err(|_| bad())?);
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check["Test"] = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => json!(["NONE"]),
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => match strings(command) {
            Some(words) => json!([vec!["CMD".to_owned()], words].concat()),
            None => json!(["CMD-SHELL", command]),
        },
        other => {
            return Err(Error::invalid(format!(
                "Unknown type {other:?} in HEALTHCHECK (try CMD)"
            )));
        }
    };
    Ok(check)
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = config.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// `["a","b"]`, if it is that.
fn strings(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A list, made where there is none.
fn list<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let slot = config.entry(key).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}

/// The JSON form, else a line for the shell.
fn command(config: &Map<String, Value>, text: &str) -> Value {
    if let Some(words) = strings(text) {
        return json!(words);
    }
    let shell: Option<Vec<String>> = config
        .get("Shell")
        .and_then(|shell| serde_json::from_value(shell.clone()).ok());
    let mut words = shell
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    words.push(text.to_owned());
    json!(words)
}

/// In the place of the old value, else at the end.
fn set_env(config: &mut Map<String, Value>, key: &str, value: &str) {
    let (prefix, entry) = (format!("{key}="), json!(format!("{key}={value}")));
    let list = list(config, "Env");
    let old = list
        .iter_mut()
        .find(|e| e.as_str().is_some_and(|e| e.starts_with(&prefix)));
    match old {
        Some(old) => *old = entry,
        None => list.push(entry),
    }
}

/// `K=V K2="a b"`, or the old `K all the rest`.
fn pairs(word: &str, text: &str, env: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let split = words::split(text);
    let first = split.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        return match text.split_once(char::is_whitespace) {
            Some((key, value)) => Ok(vec![(key.to_owned(), words::expand(value.trim(), env)?)]),
            None => Err(Error::invalid(format!("{word} must have two arguments"))),
        };
    }
    let pair = |one: &String| match one.split_once('=') {
        Some((key, value)) => match words::expand(key, env)? {
            key if key.is_empty() => Err(Error::invalid(format!("{word} names can not be blank"))),
            key => Ok((key, words::expand(value, env)?)),
        },
        None => Err(Error::invalid(format!(
            "Syntax error - can't find = in {one:?}. Must be of the form: name=value"
        ))),
    };
    split.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(config: Value, changes: &[&str]) -> Result<Value> {
        let Value::Object(mut config) = config else {
            unreachable!("an object")
        };
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes)?;
        Ok(Value::Object(config))
    }

    #[test]
    fn instructions() {
        let changes = [
            r#"CMD ["nginx", "-g", "daemon off;"]"#,
            "entrypoint exec /bin/x",
            "# a comment\nENV A=1 B=\"two words\" C=x\\ y\n",
            "ENV A 3 4",
            "EXPOSE 80 53/udp \\\n  7000-7001",
            "LABEL a.b=c \"d e\"=f",
            "WORKDIR /srv",
            "WORKDIR www",
            "USER 1000:1000",
            r#"VOLUME ["/data", "/x"]"#,
            "VOLUME /y /z",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://localhost/",
            "ONBUILD RUN make",
        ];
        let want = json!({
            "Cmd": ["nginx", "-g", "daemon off;"], "Entrypoint": ["/bin/sh", "-c", "exec /bin/x"],
            "Env": ["A=3 4", "B=two words", "C=x y"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}},
            "Labels": {"a.b": "c", "d e": "f"}, "WorkingDir": "/srv/www", "User": "1000:1000",
            "Volumes": {"/data": {}, "/x": {}, "/y": {}, "/z": {}}, "StopSignal": "SIGQUIT",
            "Healthcheck": {
                "Interval": 90_000_000_000_u64, "Retries": 3, "Test": ["CMD-SHELL", "curl -f http://localhost/"]
            },
            "OnBuild": ["RUN make"],
        });
        assert_eq!(applied(json!({}), &changes).unwrap(), want);
    }

    #[test]
    fn what_a_container_has_is_built_upon() {
        let config = json!({
            "Env": ["PATH=/bin", "X=1"], "Cmd": ["serve"], "Entrypoint": null, "Labels": null, "OnBuild": null,
            "Shell": ["/bin/bash", "-ec"],
        });
        let changes = [
            "ENV PATH=$PATH:/opt/bin Y=${X:-0}${Z:-none}",
            "ENTRYPOINT run it",
            "LABEL path='$PATH'",
            "ONBUILD ENV a=b",
        ];
        let done = applied(config, &changes).unwrap();
        assert_eq!(done["Env"], json!(["PATH=/bin:/opt/bin", "X=1", "Y=1none"]));
        assert_eq!(done["Entrypoint"], json!(["/bin/bash", "-ec", "run it"]));
        assert_eq!(done["Cmd"], Value::Null, "the command was for another entrypoint");
        assert_eq!(done["Labels"], json!({"path": "$PATH"}));
        assert_eq!(done["OnBuild"], json!(["ENV a=b"]));
    }

    #[test]
    fn mistakes_are_told() {
        for (bad, word) in [
            ("RUN x", "RUN is not a valid change command"),
            ("CMD", "CMD requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("EXPOSE x", "invalid containerPort: x"),
            ("EXPOSE 80/icmp", "invalid proto: icmp"),
            ("FROM y", "FROM is not a valid change command"),
            ("ENV A=1 B", "can't find = in \"B\""),
            ("ENV A=${B", "missing }"),
            ("HEALTHCHECK CMD", "Missing command"),
            ("HEALTHCHECK --interval=x CMD y", "--interval: invalid duration"),
            ("HEALTHCHECK MAYBE", "Unknown type \"MAYBE\""),
            ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
            ("ONBUILD FROM x", "FROM isn't allowed"),
            ("VOLUME [\"\"]", "empty string"),
        ] {
            let error = applied(json!({}), &[bad]).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Invalid, "{bad}");
            assert!(error.to_string().contains(word), "{bad}: {error}");
        }
    }
}
