//! Which field a JSON error is about: the path to the value at a line and column.

/// The path of the field that an error of serde_json is about: the one it could not use, or the one it misses. Empty for the
/// document itself.
pub(crate) fn field_of(text: &str, error: &serde_json::Error) -> String {
    let said = error.to_string();
    let missing = said
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'));
    let Some((name, _)) = missing else {
        return path_at(text, error.line(), error.column());
    };
    // Found at the end of its object, which belongs to the path no more.
    let object = path_at(text, error.line(), error.column() + 1);
    let dot = if object.is_empty() { "" } else { "." };
    format!("{object}{dot}{name}")
}

/// The path (`linux.namespaces[2].path`) of the innermost value that begins or ends before the given position;
/// lines and columns count from 1, as serde_json reports them. Empty for the document itself.
fn path_at(text: &str, line: usize, column: usize) -> String {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    // serde_json points just behind the value it could not use.
    let end = (start + column.saturating_sub(1)).min(text.len());
    let mut walk = Walk::default();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < end {
        i = walk.step(bytes, i);
    }
    walk.path()
}

#[derive(Default)]
struct Walk {
    stack: Vec<Frame>,
}

enum Frame {
    Object { key: String, in_value: bool },
    Array { index: usize },
}

impl Walk {
    /// Takes one token at `i`; gives the index behind it.
    fn step(&mut self, bytes: &[u8], i: usize) -> usize {
        match bytes[i] {
            b'{' => self.stack.push(Frame::Object {
                key: String::new(),
                in_value: false,
            }),
            b'[' => self.stack.push(Frame::Array { index: 0 }),
            b'}' | b']' => {
                self.stack.pop();
            }
            b',' => match self.stack.last_mut() {
                Some(Frame::Object { in_value, .. }) => *in_value = false,
                Some(Frame::Array { index }) => *index += 1,
                None => {}
            },
            b':' => {
                if let Some(Frame::Object { in_value, .. }) = self.stack.last_mut() {
                    *in_value = true;
                }
            }
            b'"' => {
                let mut end = i + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                let end = end.min(bytes.len());
                if let Some(Frame::Object { key, in_value: false }) = self.stack.last_mut() {
                    *key = String::from_utf8_lossy(&bytes[i + 1..end]).into_owned();
                }
                return end + 1;
            }
            _ => {}
        }
        i + 1
    }

    fn path(&self) -> String {
        let mut out = String::new();
        for frame in &self.stack {
            match frame {
                Frame::Object { key, in_value: true } => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(key);
                }
                Frame::Object { .. } => {}
                Frame::Array { index } => out.push_str(&format!("[{index}]")),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Config;

    fn path(text: &str) -> String {
        let error = serde_json::from_str::<Config>(text).unwrap_err();
        path_at(text, error.line(), error.column())
    }

    #[test]
    fn wrong_types_are_located() {
        assert_eq!(path(r#"{"process": {"args": [1]}}"#), "process.args[0]");
        assert_eq!(
            path("{\"process\": {\n \"user\": {\"uid\": \"root\"}}}"),
            "process.user.uid"
        );
        assert_eq!(
            path(r#"{"linux": {"namespaces": [{"type": "pid"}, {"type": "nope"}]}}"#),
            "linux.namespaces[1].type"
        );
        assert_eq!(
            path(r#"{"process": {"terminal": "yes", "cwd": "/"}}"#),
            "process.terminal"
        );
    }

    #[test]
    fn missing_fields_are_named() {
        let field = |text: &str| field_of(text, &serde_json::from_str::<Config>(text).unwrap_err());
        assert_eq!(
            field(r#"{"mounts": [{"type": "proc"}]}"#),
            "mounts[0].destination"
        );
        assert_eq!(
            field("{\"linux\": {\"namespaces\": [\n{\n}]}}"),
            "linux.namespaces[0].type"
        );
        assert_eq!(
            field(r#"{"hooks": {"poststop": [{"path": "/a"}, {}]}}"#),
            "hooks.poststop[1].path"
        );
    }

    #[test]
    fn strings_with_braces_and_quotes_do_not_confuse() {
        assert_eq!(
            path(r#"{"hostname": "a\"{[,:", "process": {"cwd": 7}}"#),
            "process.cwd"
        );
    }
}
