//! The functions a template can call: Go's own and docker's.

use std::cmp::Ordering;

use serde_json::Value;

use super::{go_json, print, truth};

const NAMES: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "eq", "ne", "lt", "le", "gt",
    "ge", "json", "split", "join", "title", "lower", "upper", "pad", "padlen", "truncate", "urlquery",
];

/// Whether a function of this name exists.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function.
pub fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    let arg = |n: usize| {
        args.get(n)
            .ok_or_else(|| format!("wrong number of args for {name}: got {}", args.len()))
    };
    let text = |n: usize| match arg(n)? {
        Value::String(text) => Ok(text.as_str()),
        other => Err(format!(
            "wrong type for value; expected string; got {}",
            kind(other)
        )),
    };
    let int = |n: usize| arg(n)?.as_i64().ok_or_else(|| format!("{name} wants an integer"));
    Ok(match name {
        "and" => args
            .iter()
            .find(|value| !truth(value))
            .or(args.last())
            .ok_or("and wants arguments")?
            .clone(),
        "or" => args
            .iter()
            .find(|value| truth(value))
            .or(args.last())
            .ok_or("or wants arguments")?
            .clone(),
        "not" => (!truth(arg(0)?)).into(),
        "len" => length(arg(0)?)?.into(),
        "index" => index(args)?,
        "slice" => slice(arg(0)?, &args[1..])?,
        "print" => print_all(args).into(),
        "println" => (args.iter().map(print).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(text(0)?, &args[1..]).into(),
        "eq" => {
            let first = arg(0)?;
            let mut equal = false;
            arg(1)?;
            for other in &args[1..] {
                equal |= compare(first, other)? == Ordering::Equal;
            }
            equal.into()
        }
        "ne" => (compare(arg(0)?, arg(1)?)? != Ordering::Equal).into(),
        "lt" => (compare(arg(0)?, arg(1)?)? == Ordering::Less).into(),
        "le" => (compare(arg(0)?, arg(1)?)? != Ordering::Greater).into(),
        "gt" => (compare(arg(0)?, arg(1)?)? == Ordering::Greater).into(),
        "ge" => (compare(arg(0)?, arg(1)?)? != Ordering::Less).into(),
        "json" => go_json(arg(0)?).into(),
        "split" => text(0)?
            .split(text(1)?)
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into(),
        "join" => match arg(0)? {
            Value::Array(items) => items.iter().map(print).collect::<Vec<_>>().join(text(1)?).into(),
            Value::Null => "".into(),
            other => {
                return Err(format!(
                    "wrong type for value; expected []string; got {}",
                    kind(other)
                ));
            }
        },
        "title" => title(text(0)?).into(),
        "lower" => text(0)?.to_lowercase().into(),
        "upper" => text(0)?.to_uppercase().into(),
        "pad" => pad(text(0)?, int(1)?, int(2)?).into(),
        "padlen" => pad(text(0)?, 0, int(1)? - i64::try_from(text(0)?.len()).unwrap_or(0)).into(),
        "truncate" => {
            let (text, limit) = (text(0)?, usize::try_from(int(1)?).unwrap_or(0));
            text.chars().take(limit).collect::<String>().into()
        }
        "urlquery" => {
            percent_encoding::utf8_percent_encode(&print_all(args), percent_encoding::NON_ALPHANUMERIC)
                .to_string()
                .into()
        }
        _ => return Err(format!("function {name:?} not defined")),
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Err("error calling len: len of nil pointer".into()),
        other => Err(format!("error calling len: len of type {}", kind(other))),
    }
}

fn index(args: &[Value]) -> Result<Value, String> {
    let Some((first, keys)) = args.split_first() else {
        return Err("wrong number of args for index".into());
    };
    let mut value = first.clone();
    for key in keys {
        value = match (&value, key) {
            // As in Go, a missing key of a map is its zero value.
            (Value::Object(map), Value::String(key)) => map.get(key).cloned().unwrap_or(Value::Null),
            (Value::Array(items), Value::Number(n)) => n
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .and_then(|n| items.get(n).cloned())
                .ok_or_else(|| format!("error calling index: reflect: slice index out of range: {n}"))?,
            (Value::String(text), Value::Number(n)) => n
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .and_then(|n| text.as_bytes().get(n).copied())
                .map(Into::into)
                .ok_or_else(|| format!("error calling index: index out of range: {n}"))?,
            (Value::Null, _) => return Err("error calling index: index of untyped nil".into()),
            (value, key) => {
                return Err(format!(
                    "error calling index: cannot index {} with {}",
                    kind(value),
                    kind(key)
                ));
            }
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = length(value)?;
    let bound = |n: usize, otherwise: usize| match bounds.get(n) {
        None => Ok(otherwise),
        Some(bound) => bound
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("error calling slice: index out of range: {bound}")),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    let bad = || format!("error calling slice: invalid slice index: {from} > {to}");
    match value {
        Value::String(text) => Ok(text.get(from..to).ok_or_else(bad)?.into()),
        Value::Array(items) => Ok(items.get(from..to).ok_or_else(bad)?.to_vec().into()),
        other => Err(format!(
            "error calling slice: can't slice item of type {}",
            kind(other)
        )),
    }
}

fn compare(one: &Value, other: &Value) -> Result<Ordering, String> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Ok(one.cmp(&other)),
            _ => one
                .as_f64()
                .partial_cmp(&other.as_f64())
                .ok_or_else(|| "cannot compare NaN".into()),
        },
        (Value::String(one), Value::String(other)) => Ok(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Ok(one.cmp(other)),
        (Value::Null, Value::Null) => Ok(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => Ok(Ordering::Less),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let shown = if start {
                c.to_uppercase().to_string()
            } else {
                c.to_string()
            };
            start = !c.is_alphanumeric() && c != '_' && c != '\'';
            shown
        })
        .collect()
}

fn pad(text: &str, before: i64, after: i64) -> String {
    /// More blanks than a terminal has columns help nobody.
    const LIMIT: i64 = 10_000;
    if text.is_empty() {
        return String::new();
    }
    let blanks = |n: i64| " ".repeat(usize::try_from(n.clamp(0, LIMIT)).unwrap_or(0));
    format!("{}{text}{}", blanks(before), blanks(after))
}

/// Go's `Print`: a blank between operands when neither is a string.
fn print_all(args: &[Value]) -> String {
    let mut shown = String::new();
    for (n, value) in args.iter().enumerate() {
        if n > 0 && !value.is_string() && !args[n - 1].is_string() {
            shown.push(' ');
        }
        shown += &print(value);
    }
    shown
}

/// Go's `Printf` for the verbs that make sense here: `%s %v %d %q %t %x %f %%`, with flags, width and precision.
fn printf(format: &str, args: &[Value]) -> String {
    let mut shown = String::new();
    let mut args = args.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        shown += &rest[..at];
        rest = &rest[at + 1..];
        let flags_end = rest.find(|c| !"-+ 0#".contains(c)).unwrap_or(rest.len());
        let (flags, after) = rest.split_at(flags_end);
        let spec_end = after
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(after.len());
        let (spec, after) = after.split_at(spec_end);
        let Some(verb) = after.chars().next() else {
            shown += "%!(NOVERB)";
            return shown;
        };
        rest = &after[verb.len_utf8()..];
        if verb == '%' {
            shown.push('%');
            continue;
        }
        let Some(value) = args.next() else {
            shown += &format!("%!{verb}(MISSING)");
            continue;
        };
        let (width, precision) = spec
            .split_once('.')
            .map_or((spec, None), |(width, p)| (width, Some(p)));
        let text = verb_text(verb, value, precision.map(|p| p.parse().unwrap_or(0)));
        shown += &fill(
            &text,
            width.parse::<usize>().unwrap_or(0).min(10_000),
            flags,
            value.is_number(),
        );
    }
    shown += rest;
    let extra: Vec<String> = args
        .map(|value| format!("{}={}", kind(value), print(value)))
        .collect();
    if !extra.is_empty() {
        shown += &format!("%!(EXTRA {})", extra.join(", "));
    }
    shown
}

fn verb_text(verb: char, value: &Value, precision: Option<usize>) -> String {
    match (verb, value) {
        ('v', _) => print(value),
        ('s', Value::Number(_) | Value::Bool(_)) | ('d', Value::String(_) | Value::Bool(_)) => {
            format!("%!{verb}({}={})", kind(value), print(value))
        }
        ('s', _) => match precision {
            Some(limit) => print(value).chars().take(limit).collect(),
            None => print(value),
        },
        ('q', Value::String(text)) => super::super::units::go_quote(text),
        ('d' | 't', _) => print(value),
        ('x', Value::Number(number)) => number
            .as_i64()
            .map_or_else(|| print(value), |number| format!("{number:x}")),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('f', Value::Number(number)) => {
            format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or(0.0))
        }
        _ => format!("%!{verb}({}={})", kind(value), print(value)),
    }
}

fn fill(text: &str, width: usize, flags: &str, number: bool) -> String {
    if flags.contains('-') {
        format!("{text:<width$}")
    } else if flags.contains('0') && number {
        format!("{text:0>width$}")
    } else {
        format!("{text:>width$}")
    }
}
