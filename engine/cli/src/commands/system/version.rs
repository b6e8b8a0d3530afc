//! `version`.

use serde_json::{Value, json};

use crate::argv::{Arity, Command, Parsed};
use crate::client::API_VERSION;
use crate::commands::formats;
use crate::error::Failure;
use crate::format::template::{Missing, Template};
use crate::output;
use crate::session::Session;

/// `kelson version`.
pub static COMMAND: Command = Command {
    names: &["version"],
    usage: "[OPTIONS]",
    about: "Show the Kelson version information",
    flags: &[&[formats::OBJECT]],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let asked = session.client.version().map(str::to_owned);
    let server = match &asked {
        Ok(_) => session
            .client
            .get("/version")
            .send()
            .and_then(|response| response.json::<Value>()),
        Err(error) => Err(Failure::error(format!("{error:#}"), 1)),
    };
    let api_version = asked.unwrap_or_else(|_| API_VERSION.into());
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api_version,
        "DefaultAPIVersion": API_VERSION,
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "Context": session.context,
    });
    let (server, failure) = match server {
        Ok(server) => (server, None),
        Err(error) => (Value::Null, Some(error)),
    };
    let all = json!({"Client": client, "Server": server});
    match (shown(parsed, &all), failure) {
        // Without an engine a template that names it cannot be filled: the engine is what is missing.
        (Err(_), Some(failure)) => Err(failure),
        (text, None) => output::out(text?.as_bytes()).map(|()| 0),
        (Ok(text), Some(failure)) => {
            output::out(text.as_bytes())?;
            Err(failure)
        }
    }
}

fn shown(parsed: &Parsed, all: &Value) -> anyhow::Result<String> {
    match parsed.text("format").filter(|text| !text.is_empty()) {
        None => Ok(pretty(all)),
        Some("json") => Ok(all.to_string() + "\n"),
        Some(format) => {
            let template = Template::parse(format);
            let template =
                template.map_err(|why| Failure::error(format!("template parsing error: {why}"), 64))?;
            Ok(template
                .render(all, Missing::Map)
                .map_err(|why| Failure::error(why, 1))?
                + "\n")
        }
    }
}

/// Go's name of our architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn pretty(all: &Value) -> String {
    let (client, server) = (&all["Client"], &all["Server"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api = text(&client["ApiVersion"]);
    let downgraded = if api == API_VERSION {
        String::new()
    } else {
        format!(" (downgraded from {API_VERSION})")
    };
    let mut shown = format!(
        "Client:\n Version:           {}\n API version:       {api}{downgraded}\n OS/Arch:           {}/{}\n Context:           {}\n",
        text(&client["Version"]),
        text(&client["Os"]),
        text(&client["Arch"]),
        text(&client["Context"]),
    );
    if server.is_null() {
        return shown;
    }
    let platform = text(&server["Platform"]["Name"]);
    shown += &format!(
        "\nServer:{}\n",
        if platform.is_empty() {
            String::new()
        } else {
            format!(" {platform}")
        }
    );
    let components = server["Components"].as_array().cloned().unwrap_or_default();
    if components.is_empty() {
        shown += &engine("Engine", server);
    }
    for component in &components {
        let mut details = component["Details"].clone();
        if component["Name"] == "Engine" {
            details["Version"] = component["Version"].clone();
            shown += &engine("Engine", &details);
        } else {
            shown += &format!(" {}:\n", text(&component["Name"]));
            shown += &line("Version", &text(&component["Version"]));
            for (key, value) in details.as_object().into_iter().flatten() {
                shown += &line(key, &text(value));
            }
        }
    }
    shown
}

fn engine(name: &str, details: &Value) -> String {
    let text = |key: &str| details[key].as_str().unwrap_or_default().to_owned();
    let minimum = Some(text("MinAPIVersion")).filter(|version| !version.is_empty());
    let api = text("ApiVersion")
        + &minimum.map_or_else(String::new, |version| format!(" (minimum version {version})"));
    let experimental = details["Experimental"].as_str().map_or_else(
        || details["Experimental"].as_bool().unwrap_or(false).to_string(),
        str::to_owned,
    );
    let mut shown = format!(
        " {name}:\n{}{}",
        line("Version", &text("Version")),
        line("API version", &api)
    );
    for (title, key) in [
        ("Go version", "GoVersion"),
        ("Git commit", "GitCommit"),
        ("Built", "BuildTime"),
    ] {
        let value = text(key);
        if !value.is_empty() {
            shown += &line(title, &value);
        }
    }
    shown
        + &line("OS/Arch", &format!("{}/{}", text("Os"), text("Arch")))
        + &line("Experimental", &experimental)
}

fn line(title: &str, value: &str) -> String {
    let title = format!("{title}:");
    format!("  {title:<17} {value}\n")
}
