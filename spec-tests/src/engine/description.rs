//! The description of the Engine API, and whether an answer follows it.
//!
//! `data/docker-engine-api.yaml` is OpenAPI 2: its schemas are JSON Schema draft 4 with a few words of their own, which are
//! translated here. One deviation is let through everywhere: what is optional, a list or an object may be null, as Go's encoder writes
//! what was never made; the engine that defined the API does so in many places, and clients take it for absent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, ensure};
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use super::http::Answer;

const DESCRIPTION: &str = include_str!(env!("KELSON_ENGINE_API"));

/// An operation of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// `ContainerCreate`.
    pub id: String,
    /// GET, HEAD, POST, PUT, DELETE.
    pub method: String,
    path: String,
}

/// See the module's text.
#[derive(Debug)]
pub struct Description {
    document: Value,
    operations: Vec<Operation>,
    compiled: RefCell<BTreeMap<String, Rc<Validator>>>,
}

impl Description {
    /// The one that is part of this program.
    ///
    /// # Errors
    /// Never, as a test sees.
    pub fn read() -> Result<Self> {
        let mut document: Value = serde_json::from_str(DESCRIPTION).context("the API's description")?;
        translate(&mut document);
        let mut operations = Vec::new();
        let paths = document["paths"]
            .as_object()
            .context("a description without paths")?;
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let Some(id) = operation["operationId"].as_str() else {
                    continue;
                };
                operations.push(Operation {
                    id: id.to_owned(),
                    method: method.to_ascii_uppercase(),
                    path: path.clone(),
                });
            }
        }
        Ok(Self {
            document,
            operations,
            compiled: RefCell::default(),
        })
    }

    /// Every operation, by path.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operation that a request asks for. Names of images hold slashes, so `{name}` takes any number of segments; a path with
    /// more words of its own is preferred.
    #[must_use]
    pub fn operation(&self, method: &str, target: &str) -> Option<&Operation> {
        let path = target.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let candidates = self.operations.iter().filter(|one| {
            let template: Vec<&str> = one.path.trim_matches('/').split('/').collect();
            one.method == method && fits(&template, &parts)
        });
        candidates.max_by_key(|one| one.path.split('/').filter(|part| !part.starts_with('{')).count())
    }

    /// That an answer is one that the operation may give, and that its JSON follows the schema. Documents of a stream are checked
    /// each.
    ///
    /// # Errors
    /// Naming the places that do not.
    pub fn check(&self, operation: &Operation, answer: &Answer) -> Result<()> {
        let responses =
            &self.document["paths"][&operation.path][operation.method.to_ascii_lowercase()]["responses"];
        let status = answer.status.to_string();
        let response = match responses.get(&status) {
            Some(response) => response,
            // Every error has the same body, whether or not this operation lists its status.
            None if answer.status >= 400 => &json!({"schema": {"$ref": "#/definitions/ErrorResponse"}}),
            None => return Err(anyhow!("status {status} is not one of {}", operation.id)),
        };
        let Some(schema) = response.get("schema") else {
            return Ok(());
        };
        if schema["type"] == "string" || operation.method == "HEAD" {
            return Ok(());
        }
        let validator = self.validator(schema)?;
        for document in answer.documents()? {
            complain(operation, &validator, &document)?;
        }
        Ok(())
    }

    fn validator(&self, schema: &Value) -> Result<Rc<Validator>> {
        let key = schema.to_string();
        if let Some(validator) = self.compiled.borrow().get(&key) {
            return Ok(Rc::clone(validator));
        }
        let mut definitions = Map::new();
        self.collect(schema, &mut definitions);
        let whole = json!({"allOf": [schema], "definitions": definitions});
        let validator = jsonschema::options()
            .with_draft(Draft::Draft4)
            .should_validate_formats(true)
            .with_format("dateTime", is_time)
            .with_format("date-time", is_time)
            .build(&whole)
            .map_err(|error| anyhow!("a schema of the description: {error}"))?;
        let validator = Rc::new(validator);
        self.compiled.borrow_mut().insert(key, Rc::clone(&validator));
        Ok(validator)
    }

    /// The definitions that a schema needs: far fewer than there are.
    fn collect(&self, schema: &Value, found: &mut Map<String, Value>) {
        match schema {
            Value::Object(fields) => {
                let name = fields.get("$ref").and_then(Value::as_str);
                if let Some(name) = name.and_then(|text| text.strip_prefix("#/definitions/"))
                    && !found.contains_key(name)
                {
                    let definition = self.document["definitions"][name].clone();
                    found.insert(name.to_owned(), definition.clone());
                    self.collect(&definition, found);
                }
                fields.values().for_each(|value| self.collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| self.collect(item, found)),
            _ => {}
        }
    }
}

fn complain(operation: &Operation, validator: &Validator, document: &Value) -> Result<()> {
    let complaints: Vec<String> = validator
        .iter_errors(document)
        // A reference cannot be made nullable beside itself, so an object's null is let through here.
        .filter(|error| !error.to_string().ends_with("null is not of type \"object\""))
        .map(|error| {
            let text: String = error.to_string().chars().take(200).collect();
            format!("{}: {text}", error.instance_path())
        })
        .collect();
    ensure!(
        complaints.is_empty(),
        "the answer of {} does not follow the API's description: {}",
        operation.id,
        complaints.join("; ")
    );
    Ok(())
}

fn fits(template: &[&str], parts: &[&str]) -> bool {
    match (template.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((word, rest)), Some((_, after))) if word.starts_with('{') => {
            // It takes this segment, and perhaps the next ones.
            fits(rest, after) || fits(template, after)
        }
        (Some((word, rest)), Some((part, after))) => word == part && fits(rest, after),
        _ => false,
    }
}

/// OpenAPI's words in JSON Schema's: `x-nullable` allows null, a number format that cannot be negative gets its bound, and the type
/// `file` means that there is no schema. Optional fields and lists may be null, too (see the module's text).
fn translate(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(translate),
        Value::Object(fields) => {
            let required = fields
                .get("required")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
            for (name, property) in properties.into_iter().flatten() {
                if !required.iter().any(|one| one == name) && property.is_object() {
                    property["x-nullable"] = json!(true);
                }
            }
            fields.values_mut().for_each(translate);
            translate_words(fields);
        }
        _ => {}
    }
}

fn translate_words(fields: &mut Map<String, Value>) {
    let kind = fields.get("type").and_then(Value::as_str).map(str::to_owned);
    let nullable = fields.get("x-nullable") == Some(&Value::Bool(true)) || kind.as_deref() == Some("array");
    let unsigned = fields
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"));
    if unsigned {
        fields.insert("minimum".into(), json!(0));
    }
    match kind {
        Some(kind) if kind == "file" => {
            fields.remove("type");
        }
        Some(kind) if nullable => {
            fields.insert("type".into(), json!([kind, "null"]));
            if let Some(Value::Array(words)) = fields.get_mut("enum") {
                words.push(Value::Null);
            }
        }
        _ => {}
    }
}

/// RFC 3339, as far as a wrong one shows; an empty text means never.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        bytes
            .get(range)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let zone = text.ends_with('Z') || text.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    text.is_empty()
        || (digits(0..4)
            && digits(5..7)
            && digits(8..10)
            && bytes.get(10) == Some(&b'T')
            && digits(11..13)
            && digits(14..16)
            && digits(17..19)
            && zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_finds_its_operation() {
        let description = Description::read().unwrap();
        let id =
            |method: &str, target: &str| description.operation(method, target).map(|one| one.id.as_str());
        assert_eq!(id("GET", "/containers/json?all=1"), Some("ContainerList"));
        assert_eq!(id("GET", "/containers/abc/json"), Some("ContainerInspect"));
        assert_eq!(id("GET", "/images/a.b:5000/c/d:1/json"), Some("ImageInspect"));
        assert_eq!(id("DELETE", "/images/a/b"), Some("ImageDelete"));
        assert_eq!(id("GET", "/images/json"), Some("ImageList"));
        assert_eq!(id("POST", "/containers/create?name=x"), Some("ContainerCreate"));
        assert_eq!(id("GET", "/nothing"), None);
        assert!(description.operations().len() > 100);
    }

    #[test]
    fn answers_are_held_to_the_schema() {
        let description = Description::read().unwrap();
        let check = |body: &str| {
            let operation = description.operation("POST", "/containers/create").unwrap();
            description.check(operation, &Answer::for_test(201, body))
        };
        check(r#"{"Id": "x", "Warnings": []}"#).unwrap();
        check(r#"{"Id": "x", "Warnings": null}"#).unwrap();
        let error = check(r#"{"Id": 5, "Warnings": []}"#).unwrap_err().to_string();
        assert!(error.contains("/Id"), "{error}");
        assert!(check(r#"{"Warnings": []}"#).is_err());
        let operation = description.operation("POST", "/containers/create").unwrap();
        assert!(
            description
                .check(operation, &Answer::for_test(202, "{}"))
                .is_err()
        );
        assert!(
            description
                .check(operation, &Answer::for_test(400, "{}"))
                .is_err()
        );
        description
            .check(operation, &Answer::for_test(418, r#"{"message": "x"}"#))
            .unwrap();
    }

    #[test]
    fn every_answer_has_a_schema_that_can_be_compiled() {
        let description = Description::read().unwrap();
        for methods in description.document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                for response in operation["responses"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(_, one)| one)
                {
                    if let Some(schema) = response.get("schema") {
                        description.validator(schema).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn times_are_recognised() {
        for good in [
            "",
            "2026-11-21T10:51:04Z",
            "2026-11-21T10:51:04.123456789+01:00",
            "0001-01-01T00:00:00Z",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "yesterday",
            "2026-11-21 10:51:04Z",
            "2026-11-21T10:51:04",
            "1732186264",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }
}
