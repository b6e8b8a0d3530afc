//! `--change` of import and commit: Dockerfile instructions applied to an image's run parameters, docker's JSON form.

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// Applies one instruction to a `Config` object.
///
/// # Errors
/// `Invalid` for an instruction that cannot be used here or has bad arguments.
pub(crate) fn apply(config: &mut Map<String, Value>, change: &str) -> Result<()> {
    let (word, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or((change.trim(), ""));
    let rest = rest.trim();
    let word = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(Error::invalid(format!("{word} requires at least one argument")));
    }
    match word.as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(rest)),
        "USER" => set(config, "User", json!(rest)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "WORKDIR" => {
            let at = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .filter(|d| !d.is_empty())
                .unwrap_or("/");
            let dir = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", at.trim_end_matches('/'))
            };
            set(config, "WorkingDir", json!(dir));
        }
        "ENV" => pairs(&word, rest)?
            .into_iter()
            .for_each(|(key, value)| set_env(config, &key, &value)),
        "LABEL" => {
            let labels = object(config, "Labels");
            labels.extend(
                pairs(&word, rest)?
                    .into_iter()
                    .map(|(key, value)| (key, json!(value))),
            );
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, proto) = port.split_once('/').unwrap_or((port, "tcp"));
                let numbers_ok = number.split('-').all(|n| n.parse::<u16>().is_ok());
                if !numbers_ok || !matches!(proto, "tcp" | "udp" | "sctp") {
                    return Err(Error::invalid(format!("EXPOSE: invalid port {port:?}")));
                }
                object(config, "ExposedPorts").insert(format!("{number}/{proto}"), json!({}));
            }
        }
        "VOLUME" => {
            let list = strings(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            let volumes = object(config, "Volumes");
            volumes.extend(list.into_iter().map(|path| (path, json!({}))));
        }
        "ONBUILD" => {
            let slot = config.entry("OnBuild").or_insert_with(|| json!([]));
            if let Some(list) = slot.as_array_mut() {
                list.push(json!(rest));
            }
        }
        _ => return Err(Error::invalid(format!("{word} is not a valid change command"))),
    }
    Ok(())
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

/// The JSON form, else a line for the shell.
fn command(text: &str) -> Value {
    strings(text).map_or_else(|| json!(["/bin/sh", "-c", text]), |words| json!(words))
}

fn set_env(config: &mut Map<String, Value>, key: &str, value: &str) {
    let slot = config.entry("Env").or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    if let Some(list) = slot.as_array_mut() {
        let prefix = format!("{key}=");
        list.retain(|e| !e.as_str().is_some_and(|e| e.starts_with(&prefix)));
        list.push(json!(format!("{key}={value}")));
    }
}

/// `K=V K2="a b"`, or the old `K all the rest`.
fn pairs(word: &str, text: &str) -> Result<Vec<(String, String)>> {
    let words = split_words(text);
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        return match text.split_once(char::is_whitespace) {
            Some((key, value)) => Ok(vec![(key.to_owned(), value.trim().to_owned())]),
            None => Err(Error::invalid(format!("{word} must have two arguments"))),
        };
    }
    let pair = |word_: &String| match word_.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(format!(
            "{word}: syntax error - can't find = in {word_:?}"
        ))),
    };
    words.iter().map(pair).collect()
}

/// Splits at blanks outside quotes, and takes quotes and backslashes off.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        let mut config = Map::new();
        for change in [
            r#"CMD ["nginx", "-g", "daemon off;"]"#,
            "entrypoint exec /bin/x",
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A 3 4",
            "EXPOSE 80 53/udp",
            "LABEL a.b=c \"d e\"=f",
            "WORKDIR /srv",
            "WORKDIR www",
            "USER 1000:1000",
            r#"VOLUME ["/data", "/x"]"#,
            "VOLUME /y /z",
            "STOPSIGNAL SIGQUIT",
        ] {
            apply(&mut config, change).unwrap();
        }
        let want = json!({
            "Cmd": ["nginx", "-g", "daemon off;"], "Entrypoint": ["/bin/sh", "-c", "exec /bin/x"],
            "Env": ["B=two words", "C=x y", "A=3 4"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {"a.b": "c", "d e": "f"}, "WorkingDir": "/srv/www", "User": "1000:1000",
            "Volumes": {"/data": {}, "/x": {}, "/y": {}, "/z": {}}, "StopSignal": "SIGQUIT"
        });
        assert_eq!(Value::Object(config), want);
        for bad in ["RUN x", "CMD", "ENV A", "EXPOSE x", "FROM y", "ENV A=1 B"] {
            assert!(apply(&mut Map::new(), bad).is_err(), "{bad}");
        }
    }
}
