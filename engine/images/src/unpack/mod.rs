//! From a layer's blob to a directory: digest, inflate, DiffID, extract, in one pass.

pub(crate) mod extract;
pub(crate) mod inflate;
pub(crate) mod name;
pub(crate) mod pipeline;
