//! Commands about images.

pub mod history;
pub mod import;
pub mod inspect;
pub mod load;
pub mod ls;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rm;
pub mod save;
pub mod tag;

use crate::client::segment;

/// The API path of an image.
pub fn path(image: &str, rest: &str) -> String {
    format!("/images/{}{rest}", segment(image))
}
