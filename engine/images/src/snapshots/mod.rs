//! Layer and container directories, and how they are mounted.

mod view;

use serde::{Deserialize, Serialize};

pub use view::{Access, RootFs};

/// A container's root, for whoever mounts it (containerd's `Mount`, `CreateTaskRequest.rootfs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    /// `overlay`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// `overlay`.
    pub source: String,
    /// `lowerdir=A:B` (top first, absolute, `:` and `\` escaped), `upperdir=`, `workdir=`.
    pub options: Vec<String>,
}
