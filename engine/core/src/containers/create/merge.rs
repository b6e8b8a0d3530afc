//! The image's run parameters under the user's. docker's rules, pure.

use kelson_api::ContainerConfig;
use kelson_api::wire::StrSlice;

use crate::error::{Error, Result};

/// Fills what the user left open from the image.
pub(in crate::containers) fn merge(user: &mut ContainerConfig, image: &ContainerConfig) {
    if user.user.is_empty() {
        user.user.clone_from(&image.user);
    }
    if user.working_dir.is_empty() {
        user.working_dir.clone_from(&image.working_dir);
    }
    if user.stop_signal.is_empty() {
        user.stop_signal.clone_from(&image.stop_signal);
    }
    if user.stop_timeout.is_none() {
        user.stop_timeout = image.stop_timeout;
    }
    for (port, unit) in image.exposed_ports.iter().flatten() {
        user.exposed_ports
            .get_or_insert_default()
            .entry(port.clone())
            .or_insert(*unit);
    }
    for (path, unit) in image.volumes.iter().flatten() {
        user.volumes
            .get_or_insert_default()
            .entry(path.clone())
            .or_insert(*unit);
    }
    for (key, value) in image.labels.iter().flatten() {
        user.labels
            .get_or_insert_default()
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    merge_env(user, image);
    // An entrypoint of the user's own means that the image's command was not written for it.
    if user.entrypoint.as_ref().is_none_or(|e| e.0.is_empty()) {
        if user.cmd.as_ref().is_none_or(|c| c.0.is_empty()) {
            user.cmd.clone_from(&image.cmd);
            user.args_escaped = image.args_escaped;
        }
        if user.entrypoint.is_none() {
            user.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` comes as a list of one empty string and clears the image's.
    if user
        .entrypoint
        .as_ref()
        .is_some_and(|e| e.0.len() == 1 && e.0[0].is_empty())
    {
        user.entrypoint = None;
    }
    merge_health(user, image);
    if user.shell.is_none() {
        user.shell.clone_from(&image.shell);
    }
}

/// Field by field: `--health-interval` alone keeps the image's command.
fn merge_health(user: &mut ContainerConfig, image: &ContainerConfig) {
    let Some(image) = &image.healthcheck else {
        return;
    };
    let Some(user) = &mut user.healthcheck else {
        user.healthcheck = Some(image.clone());
        return;
    };
    if user.test.as_ref().is_none_or(Vec::is_empty) {
        user.test.clone_from(&image.test);
    }
    for (own, inherited) in [
        (&mut user.interval, image.interval),
        (&mut user.timeout, image.timeout),
        (&mut user.start_period, image.start_period),
        (&mut user.start_interval, image.start_interval),
        (&mut user.retries, image.retries),
    ] {
        if *own == 0 {
            *own = inherited;
        }
    }
}

fn merge_env(user: &mut ContainerConfig, image: &ContainerConfig) {
    let key = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let own: Vec<String> = user.env.iter().flatten().map(|e| key(e)).collect();
    let inherited = image
        .env
        .iter()
        .flatten()
        .filter(|e| !own.contains(&key(e)))
        .cloned();
    let merged: Vec<String> = inherited.collect();
    if !merged.is_empty() {
        // docker appends the image's; order matters to nobody but golden files.
        user.env.get_or_insert_default().extend(merged);
    }
}

/// Program and arguments.
///
/// # Errors
/// `Invalid` when there are none.
pub(super) fn command(config: &ContainerConfig) -> Result<(String, Vec<String>)> {
    let list = |s: &Option<StrSlice>| s.as_ref().map(|s| s.0.clone()).unwrap_or_default();
    let mut words = list(&config.entrypoint);
    words.extend(list(&config.cmd));
    if words.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let path = words.remove(0);
    Ok((path, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(words: &[&str]) -> Option<StrSlice> {
        Some(StrSlice(words.iter().map(|w| (*w).to_owned()).collect()))
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: slice(&["/entry"]),
            cmd: slice(&["serve"]),
            env: Some(vec!["A=image".into(), "B=image".into()]),
            labels: Some([("l".to_owned(), "image".to_owned())].into()),
            user: "web".into(),
            ..Default::default()
        }
    }

    fn run(change: impl Fn(&mut ContainerConfig)) -> ContainerConfig {
        let mut user = ContainerConfig::default();
        change(&mut user);
        merge(&mut user, &image());
        user
    }

    #[test]
    fn command_and_entrypoint() {
        let words = |config: &ContainerConfig| {
            let (path, args) = command(config).unwrap();
            [vec![path], args].concat().join(" ")
        };
        assert_eq!(words(&run(|_| {})), "/entry serve");
        assert_eq!(words(&run(|c| c.cmd = slice(&["x"]))), "/entry x");
        assert_eq!(words(&run(|c| c.entrypoint = slice(&["sh"]))), "sh");
        assert_eq!(
            words(&run(|c| {
                c.entrypoint = slice(&[""]);
                c.cmd = slice(&["ls"]);
            })),
            "ls"
        );
        assert_eq!(
            command(&ContainerConfig::default()).unwrap_err().to_string(),
            "no command specified"
        );
    }

    #[test]
    fn a_health_check_is_merged_field_by_field() {
        let health = |interval, test: &[&str]| kelson_api::HealthConfig {
            test: Some(test.iter().map(|w| (*w).to_owned()).collect()),
            interval,
            retries: 7,
            ..Default::default()
        };
        let image = ContainerConfig {
            healthcheck: Some(health(5, &["CMD", "x"])),
            ..Default::default()
        };
        let merged = |own| {
            let mut user = ContainerConfig {
                healthcheck: own,
                ..Default::default()
            };
            merge(&mut user, &image);
            user.healthcheck.unwrap()
        };
        assert_eq!(merged(None), health(5, &["CMD", "x"]));
        let own = kelson_api::HealthConfig {
            interval: 9,
            ..Default::default()
        };
        assert_eq!(merged(Some(own)), health(9, &["CMD", "x"]));
        assert_eq!(merged(Some(health(0, &["NONE"]))), health(5, &["NONE"]));
    }

    #[test]
    fn the_users_values_win() {
        let c = run(|c| {
            c.env = Some(vec!["A=user".into()]);
            c.labels = Some([("l".to_owned(), "user".to_owned())].into());
        });
        assert_eq!(c.env.unwrap(), ["A=user", "B=image"]);
        assert_eq!(c.labels.unwrap()["l"], "user");
        assert_eq!(c.user, "web");
    }
}
