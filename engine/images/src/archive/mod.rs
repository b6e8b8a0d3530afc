//! Archives: tar streams, and the image archives made of them.

pub(crate) mod changes;
pub(crate) mod layout;
pub(crate) mod pack;
pub(crate) mod save;
pub(crate) mod spool;
pub(crate) mod tar;
pub(crate) mod tree;
mod words;
