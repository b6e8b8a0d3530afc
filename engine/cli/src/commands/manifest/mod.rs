//! Commands about manifests at a registry.

pub mod inspect;
