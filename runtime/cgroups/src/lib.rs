//! Container limits on cgroup v1, hybrid and v2.
