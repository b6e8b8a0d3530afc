//! `--security-opt`.

/// What the options come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// For `SecurityOpt`.
    pub options: Vec<String>,
    /// `systempaths=unconfined`: nothing is masked or made read-only.
    pub system_paths_unconfined: bool,
}

/// Reads the options; a seccomp profile's file is read here, because it lies on the client's side.
pub fn parse<'a>(
    given: impl Iterator<Item = &'a str>,
    read: impl Fn(&str) -> Result<String, String>,
) -> Result<Security, String> {
    let mut security = Security::default();
    for text in given {
        if text == "systempaths=unconfined" {
            security.system_paths_unconfined = true;
            continue;
        }
        let Some((key, value)) = text.split_once('=').or_else(|| text.split_once(':')) else {
            if text != "no-new-privileges" {
                return Err(format!("Invalid --security-opt: {text:?}"));
            }
            security.options.push(text.into());
            continue;
        };
        if key == "seccomp" && !matches!(value, "unconfined" | "builtin") {
            let profile =
                read(value).map_err(|why| format!("opening seccomp profile ({value}) failed: {why}"))?;
            let profile: serde_json::Value = serde_json::from_str(&profile)
                .map_err(|why| format!("compacting json for seccomp profile ({value}) failed: {why}"))?;
            security.options.push(format!("seccomp={profile}"));
        } else {
            security.options.push(text.into());
        }
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let read = |path: &str| {
            if path == "p" {
                Ok("{ \"a\" : 1 }".into())
            } else {
                Err("no such file".to_owned())
            }
        };
        let parse = |options: &[&str]| parse(options.iter().copied(), read);
        assert_eq!(
            parse(&[
                "no-new-privileges",
                "seccomp=p",
                "seccomp=unconfined",
                "label:disable"
            ])
            .unwrap()
            .options,
            [
                "no-new-privileges",
                "seccomp={\"a\":1}",
                "seccomp=unconfined",
                "label:disable"
            ]
        );
        assert!(
            parse(&["systempaths=unconfined"])
                .unwrap()
                .system_paths_unconfined
        );
        assert_eq!(parse(&["foo"]).unwrap_err(), "Invalid --security-opt: \"foo\"");
        assert_eq!(
            parse(&["seccomp=q"]).unwrap_err(),
            "opening seccomp profile (q) failed: no such file"
        );
    }
}
