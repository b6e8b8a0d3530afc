//! Compiles the probe with rustc alone: static, small, no crates. And turns the description of the Engine API into JSON without its
//! prose. So one file is the whole suite, and it reads no YAML.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};

const DESCRIPTION: &str = "data/docker-engine-api.yaml";
/// Words for people.
const PROSE: [&str; 3] = ["description", "summary", "title"];

fn main() {
    println!("cargo:rerun-if-changed=probe");
    println!("cargo:rerun-if-changed={DESCRIPTION}");
    let (Some(out), Ok(target)) = (env::var_os("OUT_DIR"), env::var("TARGET")) else {
        panic!("run by cargo only");
    };
    let out = PathBuf::from(out);
    compile_probe(&out.join("kelson-probe"), &target);
    convert_description(&out.join("engine-api.json"));
}

fn compile_probe(program: &Path, target: &str) {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-type=bin",
        "--crate-name=kelson_probe",
        "--target",
        target,
    ]);
    command.args([
        "-Ctarget-feature=+crt-static",
        "-Cpanic=abort",
        "-Copt-level=s",
        "-Cstrip=symbols",
    ]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        command.arg(flag);
    }
    let status = command.arg("-o").arg(program).arg("probe/main.rs").status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("rustc probe/main.rs: {status}"),
        Err(error) => panic!("run rustc: {error}"),
    }
    println!("cargo:rustc-env=KELSON_PROBE={}", program.display());
}

fn convert_description(target: &Path) {
    let text = fs::read_to_string(DESCRIPTION).unwrap_or_else(|error| panic!("read {DESCRIPTION}: {error}"));
    let text: Vec<String> = text.lines().map(indent_brace).collect();
    let text = text.concat();
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{DESCRIPTION}: {error}"));
    let all = convert(&documents[0]);
    let kept: Map<String, Value> = ["definitions", "responses", "paths"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), all.get(key)?.clone())))
        .collect();
    fs::write(target, Value::Object(kept).to_string())
        .unwrap_or_else(|error| panic!("write {}: {error}", target.display()));
    println!("cargo:rustc-env=KELSON_ENGINE_API={}", target.display());
}

/// The description closes some `{` in the column of their key, which YAML 1.2 forbids and Go's parser lets pass.
fn indent_brace(line: &str) -> String {
    let space = if matches!(line.trim(), "}" | "]") { " " } else { "" };
    format!("{space}{line}\n")
}

fn convert(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Mapping(mapping) => Value::Object(mapping.iter().filter_map(field).collect()),
        Yaml::Sequence(items) => items.iter().map(convert).collect(),
        Yaml::Value(Scalar::Boolean(truth)) => (*truth).into(),
        Yaml::Value(Scalar::Integer(number)) => (*number).into(),
        Yaml::Value(Scalar::FloatingPoint(number)) => number.into_inner().into(),
        Yaml::Value(Scalar::String(text)) => text.as_ref().into(),
        _ => Value::Null,
    }
}

fn field((key, value): (&Yaml<'_>, &Yaml<'_>)) -> Option<(String, Value)> {
    let name = match key {
        Yaml::Value(Scalar::String(text)) => text.to_string(),
        // Status codes are numbers to YAML.
        Yaml::Value(Scalar::Integer(number)) => number.to_string(),
        _ => return None,
    };
    // A property may have such a name; what it is then is a mapping.
    let prose = PROSE.contains(&name.as_str()) && !matches!(value, Yaml::Mapping(_));
    let sample = name == "example" || name == "examples";
    (!prose && !sample).then(|| (name, convert(value)))
}
