//! `docker commit`: the container held still, its configuration under what the request says, then the image store's work.

use std::sync::Arc;

use kelson_api::{ContainerConfig, ImageConfig};
use kelson_formats::Reference;
use kelson_images::ImageId;
use serde_json::Value;

use super::container::Container;
use super::create::merge;
use super::modes::parse_signal;
use super::record::Status;
use crate::error::{Error, Kind, Result};
use crate::inner::Inner;
use crate::tasks::Task;

/// What `POST /commit` asks for.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The name the image gets.
    pub reference: Option<Reference>,
    /// Goes before the container's own configuration.
    pub config: Option<ContainerConfig>,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: String,
    /// Text for the history.
    pub comment: String,
    /// Whether a running container is frozen meanwhile.
    pub pause: bool,
}

pub(crate) async fn run(inner: &Arc<Inner>, name: &str, commit: Commit) -> Result<ImageId> {
    let container = inner.containers.find(name)?;
    let record = container.record();
    // Before anything is held: a bad change must cost nothing.
    let config = configuration(&record.config, commit.config, &commit.changes)?;
    let turn = container.lock().await?;
    let refuse = |state: &str| {
        Err(Error::conflict(format!(
            "You cannot commit container {} which is {state}",
            container.id
        )))
    };
    match container.status() {
        Status::Dead => return refuse("Dead"),
        Status::Removing => return refuse("being removed"),
        _ => {}
    }
    let running = container.status() == Status::Running;
    let still = match running && commit.pause {
        true => match freeze(inner, &container).await {
            // It ended just now, and what has ended stands still.
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::NotFound) => None,
            frozen => Some(frozen?),
        },
        false => None,
    };
    // One that runs on must be free to be stopped.
    let turn = Some(turn).filter(|_| !running || still.is_some());
    let words = record
        .config
        .cmd
        .iter()
        .flat_map(|cmd| cmd.0.iter().map(String::as_str));
    let options = kelson_images::CommitOptions {
        reference: commit.reference.clone(),
        config,
        author: commit.author,
        comment: commit.comment.clone(),
        created_by: words.collect::<Vec<_>>().join(" "),
    };
    let made = inner.images.commit(&container.id, options).await;
    if let Some(task) = still {
        thaw(inner, &container, &task).await;
    }
    drop(turn);
    let id = made?;
    let name = commit.reference.map(|r| r.familiar());
    if let Some(name) = &name {
        let attributes = [("name".to_owned(), name.clone())].into();
        inner.events.emit("image", "tag", &id.to_string(), attributes);
    }
    let told = [
        ("comment", commit.comment),
        ("imageID", id.to_string()),
        ("imageRef", name.unwrap_or_default()),
    ];
    inner.emit(&container, "commit", &told);
    Ok(id)
}

/// The container's configuration with the changes, under what the request itself says; only what an image keeps of it.
fn configuration(own: &ContainerConfig, asked: Option<ContainerConfig>, changes: &[String]) -> Result<Value> {
    let encode = |e: serde_json::Error| Error::internal(format!("encode the image's configuration: {e}"));
    // A body that says nothing is none: the changes then build on the container's own.
    let base = asked.filter(|c| *c != ContainerConfig::default());
    let mut value = serde_json::to_value(base.as_ref().unwrap_or(own)).map_err(encode)?;
    if let Value::Object(map) = &mut value {
        kelson_images::apply_changes(map, changes)?;
    }
    let mut config: ContainerConfig = serde_json::from_value(value).map_err(encode)?;
    merge::merge(&mut config, own);
    if !config.stop_signal.is_empty() {
        parse_signal(&config.stop_signal)?;
    }
    let kept = ImageConfig {
        user: config.user,
        exposed_ports: config.exposed_ports,
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        volumes: config.volumes,
        working_dir: config.working_dir,
        labels: config.labels,
        stop_signal: config.stop_signal,
        args_escaped: config.args_escaped,
        healthcheck: config.healthcheck,
        on_build: config.on_build,
        shell: config.shell,
    };
    serde_json::to_value(kept).map_err(encode)
}

/// Freezes a running container whose turn the caller holds. That it is for a commit is written down first: a daemon that is
/// killed meanwhile thaws it at its next start.
async fn freeze(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Arc<Task>> {
    let task = container.running_task()?;
    container.update(|s| s.still_for_commit = true);
    if let Err(e) = task.pause().await {
        container.update(|s| s.still_for_commit = false);
        return Err(e.wrap(format!("cannot pause container {}", container.id)));
    }
    container.update(|s| {
        if s.status == Status::Running {
            s.status = Status::Paused;
        }
    });
    inner.emit(container, "pause", &[]);
    Ok(task)
}

/// Lets a container go on that was frozen for a commit.
pub(super) async fn thaw(inner: &Arc<Inner>, container: &Arc<Container>, task: &Task) {
    if let Err(e) = task.resume().await {
        // It has ended, or its shim has: its monitor tells.
        tracing::warn!(container = %container.id, error = %e, "unpause after a commit");
    }
    container.update(|s| {
        s.still_for_commit = false;
        if s.status == Status::Paused {
            s.status = Status::Running;
        }
    });
    inner.emit(container, "unpause", &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> ContainerConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_request_goes_before_the_container() {
        let own = config(json!({
            "Hostname": "c0ffee", "Image": "busybox", "Tty": true, "Env": ["PATH=/bin", "A=1"], "Cmd": ["serve"],
            "Entrypoint": ["/entry"], "WorkingDir": "/srv", "Labels": {"a": "1"},
        }));
        let changes = |list: &[&str]| list.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let plain = configuration(&own, None, &[]).unwrap();
        let want = json!({
            "Env": ["PATH=/bin", "A=1"], "Cmd": ["serve"], "Entrypoint": ["/entry"], "WorkingDir": "/srv",
            "Labels": {"a": "1"},
        });
        assert_eq!(plain, want, "what is the container's alone stays behind");
        let empty = Some(ContainerConfig::default());
        let changed = configuration(&own, empty, &changes(&["ENV PATH=$PATH:/x", "WORKDIR www"])).unwrap();
        assert_eq!(changed["Env"], json!(["PATH=/bin:/x", "A=1"]));
        assert_eq!(changed["WorkingDir"], "/srv/www");
        let asked = Some(config(
            json!({"Cmd": ["other"], "Env": ["A=2"], "Labels": {"b": "2"}}),
        ));
        let changed = configuration(&own, asked, &changes(&["LABEL c=3"])).unwrap();
        assert_eq!(changed["Cmd"], json!(["other"]));
        assert_eq!(changed["Entrypoint"], json!(["/entry"]));
        assert_eq!(changed["Env"], json!(["A=2", "PATH=/bin"]));
        assert_eq!(changed["Labels"], json!({"a": "1", "b": "2", "c": "3"}));
        assert!(configuration(&own, None, &changes(&["STOPSIGNAL SIGNOPE"])).is_err());
    }
}
