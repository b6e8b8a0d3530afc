//! The picture of a bench, as SVG: for every report a panel, in it for every column a group of bars, one per contender.
//!
//! A bar is the median; the line across it goes from the minimum to the 99th percentile. Bars begin at zero, and all of one panel
//! have one scale. A dashed line stands where the limit is: no contender can be left of it.

use std::fmt::Write;

use super::report::{Document, Report, Row, milliseconds};

const WIDTH: f64 = 900.0;
/// Left of the bars stand the names.
const NAMES: f64 = 190.0;
/// Right of the longest line stand the figures.
const FIGURES: f64 = 120.0;
const BAR: f64 = 16.0;
const GAP: f64 = 5.0;
const COLUMN_HEAD: f64 = 22.0;
const PANEL_HEAD: f64 = 54.0;
const MARGIN: f64 = 24.0;
/// Told apart by eyes that see no red or no green, too.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const LIMIT: &str = "#555555";

/// The whole picture.
#[must_use]
pub fn svg(document: &Document) -> String {
    let panels: Vec<&Report> = document
        .reports
        .iter()
        .filter(|report| !report.rows.is_empty())
        .collect();
    let height = panels.iter().map(|report| height_of(report)).sum::<f64>() + 2.0 * MARGIN + 20.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    label(
        &mut out,
        MARGIN,
        MARGIN,
        "start",
        "fill=\"#555\"",
        &document.machine,
    );
    let mut top = MARGIN + 20.0;
    for report in panels {
        panel(&mut out, report, top);
        top += height_of(report);
    }
    out.push_str("</svg>\n");
    out
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a handful of rows, and microseconds below a day"
)]
fn float(number: impl TryInto<u32>) -> f64 {
    f64::from(number.try_into().unwrap_or(u32::MAX))
}

fn height_of(report: &Report) -> f64 {
    let column = COLUMN_HEAD + float(report.rows.len()) * (BAR + GAP);
    PANEL_HEAD + column * float(report.columns.len()) + 30.0
}

/// Pixels per microsecond, and the distance of two marks in microseconds.
fn scale(report: &Report) -> (f64, u64) {
    let longest = report
        .rows
        .iter()
        .flat_map(|row| &row.figures)
        .map(|figure| figure.p99_us)
        .max()
        .unwrap_or(1)
        .max(1);
    let per_us = (WIDTH - NAMES - FIGURES - 2.0 * MARGIN) / float(longest);
    let mut step = 1;
    // 1, 2, 5, 10 ...: the first that makes no more than eight marks.
    for (n, factor) in [2, 5, 10].iter().cycle().enumerate() {
        if longest / step <= 8 {
            break;
        }
        step = 10_u64.pow(u32::try_from(n / 3).unwrap_or(0)) * factor;
    }
    (per_us, step)
}

fn panel(out: &mut String, report: &Report, top: f64) {
    let (per_us, step) = scale(report);
    let left = MARGIN + NAMES;
    let bottom = top + height_of(report) - 30.0;
    label(
        out,
        MARGIN,
        top + 20.0,
        "start",
        "font-size=\"15\" font-weight=\"bold\"",
        &report.title,
    );
    let explains = "milliseconds: bar to the median, line from the minimum to the 99th percentile";
    label(out, MARGIN, top + 38.0, "start", "fill=\"#555\"", explains);
    let longest = report
        .rows
        .iter()
        .flat_map(|row| &row.figures)
        .map(|figure| figure.p99_us)
        .max();
    let mut mark = 0;
    while mark <= longest.unwrap_or(0) {
        let x = left + float(mark) * per_us;
        line(
            out,
            (x, top + PANEL_HEAD - 6.0),
            (x, bottom),
            "stroke=\"#e4e4e4\"",
        );
        let text = trimmed(mark);
        label(out, x, bottom + 14.0, "middle", "fill=\"#555\"", &text);
        mark += step;
    }
    let mut y = top + PANEL_HEAD;
    for (index, column) in report.columns.iter().enumerate() {
        label(
            out,
            MARGIN,
            y + 12.0,
            "start",
            "font-weight=\"bold\" fill=\"#333\"",
            column,
        );
        y += COLUMN_HEAD;
        let first = y;
        for (place, row) in report.rows.iter().enumerate() {
            bar(out, row, index, place, (left, y), per_us);
            y += BAR + GAP;
        }
        if let Some(limit) = report.rows.iter().find(|row| row.is_limit) {
            let x = left + float(limit.figures[index].median_us) * per_us;
            let style = format!("stroke=\"{LIMIT}\" stroke-dasharray=\"4 3\"");
            line(out, (x, first - 3.0), (x, y), &style);
        }
    }
}

fn bar(out: &mut String, row: &Row, column: usize, place: usize, (left, y): (f64, f64), per_us: f64) {
    let figure = row.figures[column];
    let colour = if row.is_limit {
        LIMIT
    } else {
        COLOURS[place % COLOURS.len()]
    };
    let at = |us: u64| left + float(us) * per_us;
    let middle = y + BAR / 2.0;
    label(out, left - 8.0, middle + 4.0, "end", "fill=\"#111\"", &row.name);
    let width = float(figure.median_us) * per_us;
    writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
    )
    .ok();
    line(
        out,
        (at(figure.min_us), middle),
        (at(figure.p99_us), middle),
        "stroke=\"#111\"",
    );
    for end in [figure.min_us, figure.p99_us] {
        line(
            out,
            (at(end), middle - 4.0),
            (at(end), middle + 4.0),
            "stroke=\"#111\"",
        );
    }
    let text = milliseconds(figure.median_us);
    label(
        out,
        at(figure.p99_us) + 8.0,
        middle + 4.0,
        "start",
        "fill=\"#111\"",
        &text,
    );
}

/// Milliseconds without digits that say nothing.
fn trimmed(microseconds: u64) -> String {
    let text = format!("{}.{:03}", microseconds / 1000, microseconds % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    )
    .ok();
}

fn label(out: &mut String, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
    let text = crate::report::formats::xml(text);
    writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>"
    )
    .ok();
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::sample;
    use super::*;

    #[test]
    fn bars_have_the_length_of_their_medians_and_names_are_escaped() {
        let document = Document::new(Vec::new(), vec![sample()]);
        let picture = svg(&document);
        assert!(picture.contains("theirs &lt;&amp;&gt;"), "{picture}");
        let widths: Vec<f64> = picture
            .lines()
            .filter(|line| line.contains("fill=\"#"))
            .filter_map(|line| {
                let width = line.strip_prefix("<rect x")?.split("width=\"").nth(1)?;
                width.split('"').next()?.parse().ok()
            })
            .collect();
        assert_eq!(widths.len(), 3, "{picture}");
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
        assert!((widths[2] / widths[0] - 0.8).abs() < 0.01, "{widths:?}");
        assert_eq!(picture.matches("stroke-dasharray").count(), 1, "one limit");
    }

    #[test]
    fn marks_are_round_numbers_and_few() {
        let (_, step) = scale(&sample());
        assert_eq!(step, 5000, "for a longest of 20 ms");
        assert_eq!(
            [0, 500, 5000, 12_340].map(trimmed),
            ["0", "0.5", "5", "12.34"].map(str::to_owned)
        );
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        let picture = svg(&Document::new(Vec::new(), Vec::new()));
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    }
}
