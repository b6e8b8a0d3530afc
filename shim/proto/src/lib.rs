//! All that crosses the shim's border.
