//! What only eyes need: tables, templates, help, progress, sizes and times in words.

pub mod containers;
pub mod help;
pub mod images;
pub mod indent;
pub mod listing;
pub mod progress;
pub mod stats;
pub mod template;
pub mod timestamp;
pub mod units;

/// The key under which a row of a list holds its labels for `.Label "name"`; not itself a column.
pub const LABELS: &str = "__labels";
