//! System calls that nix and rustix lack; the only unsafe code of the workspace.
