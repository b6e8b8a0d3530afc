//! Lists of objects by `--format`: a table, JSON lines, or a template per object.

use std::io::Write;

use anyhow::{Context, anyhow};
use serde_json::Value;
use tabwriter::TabWriter;

use super::LABELS;
use super::template::{Missing, Template};

/// Docker's cells are at least ten columns wide, three of them blank.
const CELL: usize = 7;
const GAP: usize = 3;

/// What a list can show.
#[derive(Debug)]
pub struct Listing {
    /// Go's name of the row type, for error messages.
    pub kind: &'static str,
    /// The fields with a table header.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Listing {
    /// Shows `rows` (objects) by `format`: `table TEMPLATE`, `json`, or a template.
    pub fn show(&self, format: &str, rows: &[Value]) -> anyhow::Result<String> {
        let (table, template) = match format.strip_prefix("table") {
            Some(rest) => (true, rest),
            None => (false, if format == "json" { "{{json .}}" } else { format }),
        };
        let template = template
            .trim_matches(' ')
            .replace("\\t", "\t")
            .replace("\\n", "\n");
        let template =
            Template::parse(&template).map_err(|why| anyhow!("failed to parse template: {why}"))?;
        let mut text = String::new();
        for row in rows {
            let line = template.render(row, Missing::Type(self.kind));
            text += &line.map_err(|why| anyhow!("failed to execute template: {why}"))?;
            text.push('\n');
        }
        if !table {
            return Ok(text);
        }
        let header = template.render(&self.header(), Missing::NoValue);
        let header = header.map_err(|why| anyhow!("failed to execute template: {why}"))?;
        align(&format!("{header}\n{text}"))
    }

    fn header(&self) -> Value {
        self.headers
            .iter()
            .map(|(field, title)| ((*field).to_owned(), Value::from(*title)))
            .collect()
    }
}

/// Aligns tab-separated cells.
pub fn align(text: &str) -> anyhow::Result<String> {
    align_with(text, CELL)
}

/// Aligns tab-separated cells of at least `cell` columns and the gap behind them.
pub fn align_with(text: &str, cell: usize) -> anyhow::Result<String> {
    let mut writer = TabWriter::new(Vec::new()).minwidth(cell).padding(GAP);
    writer.write_all(text.as_bytes())?;
    let bytes = writer
        .into_inner()
        .map_err(|error| anyhow!("align table: {error}"))?;
    String::from_utf8(bytes).context("align table")
}

/// An object of a row.
pub fn row<const N: usize>(labels: Value, fields: [(&str, Value); N]) -> Value {
    let mut row: serde_json::Map<String, Value> = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    row.insert(LABELS.into(), labels);
    Value::Object(row)
}

/// Labels as `a=b,c=d`.
pub fn join_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<String> = labels
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const IMAGES: Listing = Listing {
        kind: "*formatter.imageContext",
        headers: &[("Repository", "REPOSITORY"), ("Tag", "TAG"), ("Size", "SIZE")],
    };

    fn rows() -> Vec<Value> {
        vec![
            row(
                json!({"a": "b"}),
                [
                    ("Repository", "foo/bar".into()),
                    ("Tag", "1.2".into()),
                    ("Size", "1>0".into()),
                ],
            ),
            row(
                json!({}),
                [
                    ("Repository", "busybox".into()),
                    ("Tag", "latest".into()),
                    ("Size", "2MB".into()),
                ],
            ),
        ]
    }

    #[test]
    fn tables_are_aligned_as_dockers() {
        assert_eq!(
            IMAGES
                .show("table {{.Repository}}\\t{{.Tag}}\\t{{.Size}}", &rows())
                .unwrap(),
            "REPOSITORY   TAG       SIZE\nfoo/bar      1.2       1>0\nbusybox      latest    2MB\n"
        );
        assert_eq!(IMAGES.show("table {{.Tag}}", &[]).unwrap(), "TAG\n");
        assert_eq!(
            IMAGES
                .show("table {{.Label \"com.x.my-key\"}}\t{{upper .Tag}}", &rows())
                .unwrap(),
            "my key    TAG\n          1.2\n          LATEST\n"
        );
    }

    #[test]
    fn json_rows_hide_what_is_no_column() {
        assert_eq!(
            IMAGES.show("json", &rows()[..1]).unwrap(),
            "{\"Repository\":\"foo/bar\",\"Size\":\"1\\u003e0\",\"Tag\":\"1.2\"}\n"
        );
    }

    #[test]
    fn errors_name_the_type() {
        assert_eq!(
            IMAGES.show("{{.Foo}}", &rows()).unwrap_err().to_string(),
            "failed to execute template: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.imageContext"
        );
        assert_eq!(
            IMAGES.show("{{.ID", &rows()).unwrap_err().to_string(),
            "failed to parse template: template: :1: unclosed action"
        );
    }
}
