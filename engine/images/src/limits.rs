//! Bounds on what others send us. Each has a reason; a test stands on both sides of the ones an attacker reaches.

/// Overlayfs takes 500 lower layers (`OVL_MAX_STACK`); docker's limit is 127 including the container's.
pub const LAYERS_MAX: usize = 127;
/// A manifest or index; docker refuses more than 4 MiB too.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// An image configuration (environment, history, labels).
pub const CONFIG_MAX: u64 = 8 << 20;
/// A registry's error body or token answer.
pub const ANSWER_MAX: u64 = 1 << 20;
/// Files and directories in one layer; the largest public images stay under a million.
pub const ENTRIES_MAX: u64 = 5_000_000;
/// Unpacked bytes for each packed byte. Deflate reaches 1032 on zeros; real layers stay under 100.
pub const EXPANSION_MAX: u64 = 1100;
/// Extended attributes and long names of one entry: the kernel takes 64 KiB for each attribute, 4 KiB for each path.
pub const PAX_MAX: u64 = 1 << 20;
/// A name in an archive: the kernel's PATH_MAX. Longer ones cannot be made, and an archive of them would fill the memory.
pub const NAME_MAX: usize = 4096;
/// Names of a layer's directories, all together: they are held until the end, when directories get their times.
pub const DIR_NAMES_MAX: usize = 256 << 20;
/// Depth of nested indexes we follow.
pub const INDEX_DEPTH_MAX: usize = 3;
/// Entries of an index we look at.
pub const INDEX_ENTRIES_MAX: usize = 1000;
