//! JSON text laid out for reading, with the order and the spelling that the engine chose.

/// Lays out compact JSON with `step` blanks per level, as Go's `json.Indent`. The text is taken to be
/// valid; what is not passes through.
pub fn indent(text: &str, step: usize) -> String {
    let mut laid_out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    // An opened bracket's line break waits: an empty pair stays together.
    let mut just_opened = false;
    for c in text.chars() {
        if in_string {
            laid_out.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if just_opened && !matches!(c, '}' | ']') {
            depth += 1;
            line_break(&mut laid_out, depth * step);
        }
        let was_opened = std::mem::replace(&mut just_opened, false);
        match c {
            '{' | '[' => {
                laid_out.push(c);
                just_opened = true;
            }
            '}' | ']' => {
                if !was_opened {
                    depth = depth.saturating_sub(1);
                    line_break(&mut laid_out, depth * step);
                }
                laid_out.push(c);
            }
            ',' => {
                laid_out.push(c);
                line_break(&mut laid_out, depth * step);
            }
            ':' => laid_out.push_str(": "),
            _ => {
                in_string = c == '"';
                laid_out.push(c);
            }
        }
    }
    laid_out
}

fn line_break(text: &mut String, blanks: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', blanks));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lays_out_as_go_does() {
        assert_eq!(
            indent(r#"[{"a":{},"b":[],"c":[1,"x{,:\"\\"],"d":{"e":null}}]"#, 4),
            "[\n    {\n        \"a\": {},\n        \"b\": [],\n        \"c\": [\n            1,\n            \"x{,:\\\"\\\\\"\n        ],\n        \"d\": {\n            \"e\": null\n        }\n    }\n]"
        );
        assert_eq!(indent("[]", 4), "[]");
        assert_eq!(indent("[ ]", 4), "[]");
    }
}
