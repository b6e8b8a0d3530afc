//! `info`.

use kelson_api::SystemInfo;
use serde_json::{Value, json};

use crate::argv::{Arity, Command, Parsed};
use crate::commands::formats;
use crate::error::Failure;
use crate::format::template::{Missing, Template};
use crate::format::units;
use crate::output;
use crate::session::Session;

/// `kelson info`.
pub static COMMAND: Command = Command {
    names: &["system info", "info"],
    usage: "[OPTIONS]",
    about: "Display system-wide information",
    flags: &[&[formats::OBJECT]],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let client = json!({"Version": env!("CARGO_PKG_VERSION"), "Context": session.context, "Debug": false});
    let answer = session
        .client
        .get("/info")
        .send()
        .and_then(|response| response.json::<Value>());
    match parsed.text("format").filter(|text| !text.is_empty()) {
        None => {
            let head = format!(
                "Client:\n Version:    {}\n Context:    {}\n Debug Mode: false\n\nServer:\n",
                env!("CARGO_PKG_VERSION"),
                session.context
            );
            output::out(head.as_bytes())?;
            let info: SystemInfo = serde_json::from_value(answer?)?;
            output::out(pretty(&info).as_bytes())?;
            for warning in info.warnings.iter().flatten() {
                output::note(warning);
            }
        }
        Some(format) => {
            let mut info = answer?;
            info["ClientInfo"] = client;
            let text = if format == "json" {
                info.to_string()
            } else {
                let template = Template::parse(format);
                let template =
                    template.map_err(|why| Failure::error(format!("template parsing error: {why}"), 64))?;
                template
                    .render(&info, Missing::Map)
                    .map_err(|why| Failure::error(why, 1))?
            };
            output::line(&text)?;
        }
    }
    Ok(0)
}

fn pretty(info: &SystemInfo) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, title: &str, value: String| {
        text += &format!("{:indent$}{title}: {value}\n", "");
    };
    line(1, "Containers", info.containers.to_string());
    line(2, "Running", info.containers_running.to_string());
    line(2, "Paused", info.containers_paused.to_string());
    line(2, "Stopped", info.containers_stopped.to_string());
    line(1, "Images", info.images.to_string());
    line(1, "Server Version", info.server_version.clone());
    line(1, "Storage Driver", info.driver.clone());
    for [name, value] in &info.driver_status {
        line(2, name, value.clone());
    }
    line(1, "Logging Driver", info.logging_driver.clone());
    line(1, "Cgroup Driver", info.cgroup_driver.clone());
    if !info.cgroup_version.is_empty() {
        line(1, "Cgroup Version", info.cgroup_version.clone());
    }
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    line(1, "Runtimes", runtimes.join(" "));
    line(1, "Default Runtime", info.default_runtime.clone());
    if !info.init_binary.is_empty() {
        line(1, "Init Binary", info.init_binary.clone());
    }
    text += &security(&info.security_options);
    text + &host(info)
}

/// `name=seccomp,profile=default` as a title with its settings below.
fn security(options: &[String]) -> String {
    if options.is_empty() {
        return String::new();
    }
    let mut text = " Security Options:\n".to_owned();
    for option in options {
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => text += &format!("  {name}\n"),
                Some((key, value)) => {
                    let mut title = key.to_owned();
                    if let Some(first) = title.get_mut(..1) {
                        first.make_ascii_uppercase();
                    }
                    text += &format!("   {title}: {value}\n");
                }
                None => text += &format!("  {part}\n"),
            }
        }
    }
    text
}

fn host(info: &SystemInfo) -> String {
    let mut text = String::new();
    #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
    let memory = units::binary(info.mem_total as f64);
    for (title, value) in [
        ("Kernel Version", info.kernel_version.clone()),
        ("Operating System", info.operating_system.clone()),
        ("OSType", info.os_type.clone()),
        ("Architecture", info.architecture.clone()),
        ("CPUs", info.ncpu.to_string()),
        ("Total Memory", memory),
        ("Name", info.name.clone()),
        ("ID", info.id.clone()),
        ("Docker Root Dir", info.docker_root_dir.clone()),
        ("Debug Mode", info.debug.to_string()),
        ("Experimental", info.experimental_build.to_string()),
    ] {
        text += &format!(" {title}: {value}\n");
    }
    if !info.labels.is_empty() {
        text += &format!(" Labels:\n  {}\n", info.labels.join("\n  "));
    }
    format!("{text} Live Restore Enabled: {}\n\n", info.live_restore_enabled)
}
