//! Containers, volumes and events: records, state and policy.
