//! Go templates, as `--format` takes them: the part of the language that docker's users write, over
//! JSON values. What is not supported is an error that says so; nothing is silently ignored.

mod functions;
mod parse;

use serde_json::Value;

use parse::{At, Call, Node, Operand, Pipeline};

/// Fields that Go's types have although the JSON leaves them out when they are empty; a template
/// may ask for them.
const OPTIONAL: &[&str] = &[
    "Health",
    "Healthcheck",
    "GraphDriver",
    "Runtime",
    "Init",
    "StopSignal",
    "StopTimeout",
];
/// How many variables, outputs and steps a template may use up is bounded by this output length.
const OUTPUT_LIMIT: usize = 64 << 20;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

/// How a field that is not there is reported.
#[derive(Debug, Clone, Copy)]
pub enum Missing {
    /// The value is a map: `map has no entry for key "X"`.
    Map,
    /// The value is an object of this type: `can't evaluate field X in type T`.
    Type(&'static str),
    /// The value shows headers: an unknown field is shown as `<no value>`.
    NoValue,
}

enum Flow {
    Next,
    Break,
    Continue,
}

struct Machine {
    missing: Missing,
    variables: Vec<(String, Value)>,
    output: String,
}

impl Template {
    /// Parses a template; the error has Go's form (`template: :1: ...`).
    pub fn parse(text: &str) -> Result<Template, String> {
        let nodes = parse::parse(text).map_err(|why| format!("template: :1: {why}"))?;
        Ok(Template { nodes })
    }

    /// Executes it with `value` as the dot.
    pub fn render(&self, value: &Value, missing: Missing) -> Result<String, String> {
        let mut machine = Machine {
            missing,
            variables: vec![(String::new(), value.clone())],
            output: String::new(),
        };
        machine.list(&self.nodes, value)?;
        Ok(machine.output)
    }
}

impl Machine {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if !matches!(flow, Flow::Next) {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Action(None, pipeline) => {
                let shown = print(&self.pipeline(pipeline, dot)?);
                self.write(&shown)?;
            }
            Node::Action(Some(name), pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.set(name, value)?;
            }
            Node::If(condition, body, otherwise) => {
                let holds = truth(&self.pipeline(condition, dot)?);
                return self.list(if holds { body } else { otherwise }, dot);
            }
            Node::With(over, body, otherwise) => {
                let value = self.pipeline(over, dot)?;
                return if truth(&value) {
                    self.list(body, &value)
                } else {
                    self.list(otherwise, dot)
                };
            }
            Node::Range {
                variables,
                over,
                body,
                otherwise,
            } => {
                let value = self.pipeline(over, dot)?;
                let items = items(&value)?;
                if items.is_empty() {
                    return self.list(otherwise, dot);
                }
                self.range(variables, items, body)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn range(&mut self, names: &[String], items: Vec<(Value, Value)>, body: &[Node]) -> Result<(), String> {
        let scope = self.variables.len();
        for (key, item) in items {
            match names {
                [value] => self.set(value, item.clone())?,
                [index, value, ..] => {
                    self.set(index, key)?;
                    self.set(value, item.clone())?;
                }
                [] => {}
            }
            let flow = self.list(body, &item)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        if self.output.len() + text.len() > OUTPUT_LIMIT {
            return Err("the output is too long".into());
        }
        self.output.push_str(text);
        Ok(())
    }

    /// Declares (`:name`) or sets a variable.
    fn set(&mut self, name: &str, value: Value) -> Result<(), String> {
        if let Some(name) = name.strip_prefix(':') {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let found = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        let (_, slot) = found.ok_or_else(|| format!("template: :1: undefined variable \"${name}\""))?;
        *slot = value;
        Ok(())
    }

    fn pipeline(&mut self, calls: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for call in calls {
            last = Some(self.call(call, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn call(&mut self, call: &Call, dot: &Value, piped: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = call.words.split_first() else {
            return Ok(Value::Null);
        };
        let mut args = Vec::with_capacity(rest.len() + 1);
        for word in rest {
            args.push(self.operand(word, dot)?);
        }
        args.extend(piped);
        match first {
            Operand::Function(name, at) => functions::call(name, &args).map_err(|why| {
                let why = if why.starts_with("error calling") || why.starts_with("wrong ") {
                    why
                } else {
                    format!("error calling {name}: {why}")
                };
                located(*at, &shown_call(&call.words), &why)
            }),
            Operand::Dot(path) if !args.is_empty() => self.method(path, dot, &args, call.at),
            other if args.is_empty() => self.operand(other, dot),
            other => Err(located(
                call.at,
                &show(other),
                "can't give argument to non-function",
            )),
        }
    }

    /// `.Label "name"` is the one method of docker's list contexts that takes an argument.
    fn method(&self, path: &[(String, At)], dot: &Value, args: &[Value], at: At) -> Result<Value, String> {
        if let ([(name, _)], [Value::String(key)]) = (path, args)
            && name == "Label"
        {
            if let Some(labels) = dot.get(super::LABELS) {
                return Ok(labels.get(key).cloned().unwrap_or_else(|| "".into()));
            }
            if matches!(self.missing, Missing::NoValue) {
                let last = key.rsplit('.').next().unwrap_or(key);
                return Ok(last.replace(['-', '_'], " ").into());
            }
        }
        let shown = show(&Operand::Dot(path.to_vec()));
        let name = path.last().map_or("", |(name, _)| name);
        Err(located(
            at,
            &shown,
            &format!("{name} has arguments but cannot be invoked as function"),
        ))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Dot(path) => self.walk(dot.clone(), path, operand),
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) =
                    found.ok_or_else(|| format!("template: :1: undefined variable \"${name}\""))?;
                self.walk(value.clone(), path, operand)
            }
            Operand::Group(calls, path) => {
                let value = self.pipeline(calls, dot)?;
                self.walk(value, path, operand)
            }
            Operand::Function(name, at) => functions::call(name, &[]).map_err(|why| located(*at, name, &why)),
        }
    }

    fn walk(&self, mut value: Value, path: &[(String, At)], operand: &Operand) -> Result<Value, String> {
        // Go points at the last field of a chain, whichever of them is missing.
        let at = path.last().map_or(0, |(_, at)| *at);
        for (name, _) in path {
            let next = match &mut value {
                Value::Object(map) => map.remove(name),
                _ => None,
            };
            value = match next {
                Some(next) => next,
                None if value.is_object() && OPTIONAL.contains(&name.as_str()) => Value::Null,
                None => match (self.missing, &value) {
                    (Missing::NoValue, _) => Value::String("<no value>".into()),
                    (Missing::Type(kind), Value::Object(_)) => {
                        return Err(located(
                            at,
                            &show(operand),
                            &format!("can't evaluate field {name} in type {kind}"),
                        ));
                    }
                    (_, Value::Object(_)) => {
                        return Err(located(
                            at,
                            &show(operand),
                            &format!("map has no entry for key {name:?}"),
                        ));
                    }
                    (_, Value::Null) => {
                        return Err(located(
                            at,
                            &show(operand),
                            &format!("nil pointer evaluating interface {{}}.{name}"),
                        ));
                    }
                    _ => {
                        return Err(located(
                            at,
                            &show(operand),
                            &format!("can't evaluate field {name} in type interface {{}}"),
                        ));
                    }
                },
            };
        }
        Ok(value)
    }
}

fn located(at: At, shown: &str, why: &str) -> String {
    format!("template: :1:{at}: executing \"\" at <{shown}>: {why}")
}

fn shown_call(words: &[Operand]) -> String {
    words.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn show(operand: &Operand) -> String {
    let fields = |path: &[(String, At)]| {
        path.iter()
            .map(|(name, _)| format!(".{name}"))
            .collect::<String>()
    };
    match operand {
        Operand::Dot(path) if path.is_empty() => ".".into(),
        Operand::Dot(path) => fields(path),
        Operand::Variable(name, path) => format!("${name}{}", fields(path)),
        Operand::Function(name, _) => name.clone(),
        Operand::Literal(value) => value.to_string(),
        Operand::Group(_, path) => format!("(...){}", fields(path)),
    }
}

/// What `range` goes over: keys and values, a map's in the order of its keys.
fn items(value: &Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Array(items) => Ok(items
            .iter()
            .enumerate()
            .map(|(n, item)| (n.into(), item.clone()))
            .collect()),
        Value::Object(map) => {
            let mut items: Vec<(&String, &Value)> = map.iter().collect();
            items.sort_by_key(|(key, _)| key.as_str());
            Ok(items
                .into_iter()
                .map(|(key, item)| (key.clone().into(), item.clone()))
                .collect())
        }
        Value::Number(number) if number.is_u64() => Ok((0..number.as_u64().unwrap_or(0).min(100_000))
            .map(|n| (n.into(), n.into()))
            .collect()),
        Value::Null => Ok(Vec::new()),
        other => Err(format!("template: :1: range can't iterate over {}", print(other))),
    }
}

/// Go's idea of a true value: not empty, not zero.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go's `%v` shows it.
fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut items: Vec<_> = map.iter().collect();
            items.sort_by_key(|(key, _)| key.as_str());
            let items: Vec<String> = items
                .into_iter()
                .map(|(key, item)| format!("{key}:{}", print(item)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// JSON as docker's template function writes it: compact. Only the row of a list as a whole has
/// Go's escapes for HTML, because its type marshals itself.
fn go_json(value: &Value) -> String {
    match value {
        Value::Object(map) if map.contains_key(super::LABELS) => {
            let mut map = map.clone();
            map.remove(super::LABELS);
            let text = Value::Object(map).to_string();
            text.replace('<', "\\u003c")
                .replace('>', "\\u003e")
                .replace('&', "\\u0026")
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> Result<String, String> {
        let value = json!({
            "Name": "web", "N": 3, "Empty": "", "List": ["a", "b"], "Nil": null, "On": true,
            "State": {"Status": "running", "Pid": 12, "Running": true},
            "Ports": {"80/tcp": [{"HostPort": "8080"}], "443/tcp": null},
            "__labels": {"x": "y"},
        });
        Template::parse(template)?.render(&value, Missing::Map)
    }

    fn ok(template: &str) -> String {
        render(template).unwrap()
    }

    #[test]
    fn fields_and_text() {
        assert_eq!(ok("{{.Name}}-{{ .State.Pid }}!"), "web-12!");
        assert_eq!(
            ok("{{.List}} {{.On}} {{.Nil}} {{.State}}"),
            "[a b] true <nil> map[Pid:12 Running:true Status:running]"
        );
        assert_eq!(ok("a {{- .Name -}} b"), "awebb");
        assert_eq!(ok("{{/* nothing */}}x"), "x");
        assert_eq!(ok("{{.State.Health}}"), "<nil>");
    }

    #[test]
    fn functions_and_pipes() {
        assert_eq!(ok("{{upper .Name}} {{.Name | upper | lower | title}}"), "WEB Web");
        assert_eq!(
            ok("{{json .List}} {{json .Name}} {{.State | json}}"),
            r#"["a","b"] "web" {"Pid":12,"Running":true,"Status":"running"}"#
        );
        assert_eq!(
            ok("{{join .List \",\"}} {{index .List 1}} {{len .List}}"),
            "a,b b 2"
        );
        assert_eq!(ok("{{(index (index .Ports \"80/tcp\") 0).HostPort}}"), "8080");
        assert_eq!(
            ok("{{printf \"%s|%5d|%-4s|%05d|%q|%%\" .Name .N .Name .N .Name}}"),
            "web|    3|web |00003|\"web\"|%"
        );
        assert_eq!(ok("{{println .Name .N}}"), "web 3\n");
        assert_eq!(ok("{{range split \"a:b\" \":\"}}<{{.}}>{{end}}"), "<a><b>");
        assert_eq!(
            ok("{{slice .Name 1 2}}{{truncate .Name 2}}{{pad .Name 1 1}}"),
            "ewe web "
        );
        assert_eq!(ok("{{.Label \"x\"}}{{.Label \"none\"}}"), "y");
    }

    #[test]
    fn control() {
        assert_eq!(
            ok("{{if .On}}1{{else}}2{{end}}{{if .Empty}}1{{else if eq .N 3}}3{{else}}2{{end}}"),
            "13"
        );
        assert_eq!(ok("{{range $i, $e := .List}}{{$i}}={{$e}} {{end}}"), "0=a 1=b ");
        assert_eq!(
            ok("{{range $p, $c := .Ports}}{{$p}} -> {{if $c}}{{(index $c 0).HostPort}}{{end}};{{end}}"),
            "443/tcp -> ;80/tcp -> 8080;"
        );
        assert_eq!(ok("{{range .Nil}}x{{else}}none{{end}}"), "none");
        assert_eq!(ok("{{with .State}}{{.Status}} {{$.Name}}{{end}}"), "running web");
        assert_eq!(ok("{{$x := .Name}}{{range .List}}{{$x}}{{.}}{{end}}"), "webawebb");
        assert_eq!(ok("{{with $s := .State}}{{$s.Pid}}{{end}}"), "12");
        assert_eq!(ok("{{if and .On (not .Empty) (or .Nil .N)}}y{{end}}"), "y");
        assert_eq!(
            ok("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}"),
            "a"
        );
        assert_eq!(
            ok("{{if lt .N 4}}a{{end}}{{if ge .N 4}}b{{end}}{{if ne .Name \"x\"}}c{{end}}"),
            "ac"
        );
    }

    #[test]
    fn errors_are_gos() {
        assert_eq!(
            render("{{.Foo.Bar}}").unwrap_err(),
            "template: :1:6: executing \"\" at <.Foo.Bar>: map has no entry for key \"Foo\""
        );
        assert_eq!(render("{{.ID").unwrap_err(), "template: :1: unclosed action");
        assert_eq!(
            render("{{foo .ID}}").unwrap_err(),
            "template: :1: function \"foo\" not defined"
        );
        assert_eq!(render("{{if .On}}x").unwrap_err(), "template: :1: unexpected EOF");
        assert_eq!(render("{{end}}").unwrap_err(), "template: :1: unexpected {{end}}");
        assert!(render("{{}}").unwrap_err().contains("missing value"));
        assert!(render("{{index .List 7}}").unwrap_err().contains("out of range"));
        assert!(
            render("{{define \"x\"}}{{end}}")
                .unwrap_err()
                .contains("not supported")
        );
        assert!(render("{{join .Name \",\"}}").unwrap_err().contains("wrong type"));
        let typed = Template::parse("{{.Foo}}")
            .unwrap()
            .render(&json!({}), Missing::Type("*formatter.ContainerContext"));
        assert_eq!(
            typed.unwrap_err(),
            "template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext"
        );
    }
}
