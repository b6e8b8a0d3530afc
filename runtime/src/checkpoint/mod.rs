//! Checkpoint and restore, through CRIU.
//!
//! ```text
//!   runtime                                criu swrk FD
//!     VERSION, FEATURE_CHECK        ──►    (a process each; ◄── the answer)
//!     DUMP, PRE_DUMP or RESTORE     ──►
//!                                   ◄──    NOTIFY(script, pid): network-lock, post-dump, setup-namespaces,
//!     NOTIFY(success)               ──►      post-restore, orphan-pts-master (with the terminal), status-ready
//!                                   ◄──    DUMP, PRE_DUMP or RESTORE: how it went
//! ```
//!
//! criu opens the image's directory and the like through our /proc entry, by number, and inherits namespaces and
//! streams; a restored first process is our own child (`rst_sibling`).

pub mod criu;
pub mod dump;
pub mod images;
pub mod mounts;
pub mod options;
pub mod restore;
pub mod rpc;
