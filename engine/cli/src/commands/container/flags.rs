//! The flags that `create` and `run` share.

use super::options::checks;
use crate::argv::{Flag, int, list, switch, value};

/// Every flag of `create` but `--pull`, whose help differs.
pub const CREATE: &[Flag] = &[
    list("add-host", "Add a custom host-to-IP mapping (host:ip)").checked(checks::add_host),
    list(
        "annotation",
        "Add an annotation to the container (passed through to the OCI runtime)",
    )
    .typed("map")
    .default("map[]"),
    list("attach", "Attach to STDIN, STDOUT or STDERR")
        .short('a')
        .checked(checks::attach),
    value(
        "blkio-weight",
        "uint16",
        "Block IO (relative weight), between 10 and 1000, or 0 to disable",
    )
    .default("0")
    .checked(checks::uint16),
    list("blkio-weight-device", "Block IO weight (relative device weight)")
        .checked(checks::weight)
        .default("[]"),
    list("cap-add", "Add Linux capabilities"),
    list("cap-drop", "Drop Linux capabilities"),
    value(
        "cgroup-parent",
        "string",
        "Optional parent cgroup for the container",
    ),
    value(
        "cgroupns",
        "string",
        "Cgroup namespace to use (host|private)\n'host':    Run the container in the host's cgroup namespace\n'private': Run the container in its own private cgroup namespace\n'':        Use the cgroup namespace as configured by the\n           default-cgroupns-mode option on the daemon (default)",
    ),
    value("cidfile", "string", "Write the container ID to the file"),
    int("cpu-period", "Limit CPU CFS (Completely Fair Scheduler) period"),
    int("cpu-quota", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    int("cpu-rt-period", "Limit CPU real-time period in microseconds"),
    int("cpu-rt-runtime", "Limit CPU real-time runtime in microseconds"),
    int("cpu-shares", "CPU shares (relative weight)").short('c'),
    value("cpus", "decimal", "Number of CPUs").checked(checks::cpus),
    value(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    value(
        "cpuset-mems",
        "string",
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    list("device", "Add a host device to the container"),
    list(
        "device-cgroup-rule",
        "Add a rule to the cgroup allowed devices list",
    )
    .checked(checks::device_rule),
    list(
        "device-read-bps",
        "Limit read rate (bytes per second) from a device",
    )
    .checked(checks::rate_bytes)
    .default("[]"),
    list(
        "device-read-iops",
        "Limit read rate (IO per second) from a device",
    )
    .checked(checks::rate_count)
    .default("[]"),
    list(
        "device-write-bps",
        "Limit write rate (bytes per second) to a device",
    )
    .checked(checks::rate_bytes)
    .default("[]"),
    list(
        "device-write-iops",
        "Limit write rate (IO per second) to a device",
    )
    .checked(checks::rate_count)
    .default("[]"),
    switch("disable-content-trust", "Skip image verification").default("true"),
    list("dns", "Set custom DNS servers").checked(checks::ip),
    list("dns-option", "Set DNS options"),
    list("dns-search", "Set custom DNS search domains"),
    value("domainname", "string", "Container NIS domain name"),
    value(
        "entrypoint",
        "string",
        "Overwrite the default ENTRYPOINT of the image",
    ),
    list("env", "Set environment variables")
        .short('e')
        .checked(checks::env),
    list("env-file", "Read in a file of environment variables"),
    list("expose", "Expose a port or a range of ports"),
    list(
        "gpus",
        "GPU devices to add to the container ('all' to pass all GPUs)",
    )
    .typed("gpu-request"),
    list("group-add", "Add additional groups to join"),
    value("health-cmd", "string", "Command to run to check health"),
    value(
        "health-interval",
        "duration",
        "Time between running the check (ms|s|m|h)",
    )
    .checked(checks::duration)
    .default("0s"),
    int(
        "health-retries",
        "Consecutive failures needed to report unhealthy",
    ),
    value(
        "health-start-interval",
        "duration",
        "Time between running the check during the start period (ms|s|m|h)",
    )
    .checked(checks::duration)
    .default("0s"),
    value(
        "health-start-period",
        "duration",
        "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)",
    )
    .checked(checks::duration)
    .default("0s"),
    value(
        "health-timeout",
        "duration",
        "Maximum time to allow one check to run (ms|s|m|h)",
    )
    .checked(checks::duration)
    .default("0s"),
    // Shown here because -h is the host name.
    switch("help", "Print usage"),
    value("hostname", "string", "Container host name").short('h'),
    switch(
        "init",
        "Run an init inside the container that forwards signals and reaps processes",
    ),
    switch("interactive", "Keep STDIN open even if not attached").short('i'),
    value("ip", "string", "IPv4 address (e.g., 172.30.100.104)"),
    value("ip6", "string", "IPv6 address (e.g., 2001:db8::33)"),
    value("ipc", "string", "IPC mode to use"),
    value("isolation", "string", "Container isolation technology"),
    value("kernel-memory", "bytes", "Kernel memory limit").checked(checks::bytes),
    list("label", "Set meta data on a container").short('l'),
    list("label-file", "Read in a line delimited file of labels"),
    list("link", "Add link to another container").checked(checks::link),
    list("link-local-ip", "Container IPv4/IPv6 link-local addresses"),
    value("log-driver", "string", "Logging driver for the container"),
    list("log-opt", "Log driver options"),
    value(
        "mac-address",
        "string",
        "Container MAC address (e.g., 92:d0:c6:0a:29:33)",
    ),
    value("memory", "bytes", "Memory limit")
        .checked(checks::bytes)
        .short('m'),
    value("memory-reservation", "bytes", "Memory soft limit").checked(checks::bytes),
    value(
        "memory-swap",
        "bytes",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    )
    .checked(checks::swap),
    int("memory-swappiness", "Tune container memory swappiness (0 to 100)").default("-1"),
    list("mount", "Attach a filesystem mount to the container")
        .typed("mount")
        .checked(checks::mount),
    value("name", "string", "Assign a name to the container"),
    list("network", "Connect a container to a network").typed("network"),
    list("network-alias", "Add network-scoped alias for the container"),
    switch("no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    switch("oom-kill-disable", "Disable OOM Killer"),
    int("oom-score-adj", "Tune host's OOM preferences (-1000 to 1000)"),
    value("pid", "string", "PID namespace to use"),
    int("pids-limit", "Tune container pids limit (set -1 for unlimited)"),
    value(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    switch("privileged", "Give extended privileges to this container"),
    list("publish", "Publish a container's port(s) to the host").short('p'),
    switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    switch("quiet", "Suppress the pull output").short('q'),
    switch("read-only", "Mount the container's root filesystem as read only"),
    value(
        "restart",
        "string",
        "Restart policy to apply when a container exits",
    )
    .default("\"no\""),
    switch(
        "rm",
        "Automatically remove the container and its associated anonymous volumes when it exits",
    ),
    value("runtime", "string", "Runtime to use for this container"),
    list("security-opt", "Security Options"),
    value("shm-size", "bytes", "Size of /dev/shm").checked(checks::bytes),
    value("stop-signal", "string", "Signal to stop the container"),
    int("stop-timeout", "Timeout (in seconds) to stop a container"),
    list("storage-opt", "Storage driver options for the container"),
    list("sysctl", "Sysctl options").typed("map").default("map[]"),
    list("tmpfs", "Mount a tmpfs directory"),
    switch("tty", "Allocate a pseudo-TTY").short('t'),
    list("ulimit", "Ulimit options")
        .typed("ulimit")
        .default("[]")
        .checked(checks::ulimit),
    switch("use-api-socket", "Bind mount the API socket and required auth"),
    value(
        "user",
        "string",
        "Username or UID (format: <name|uid>[:<group|gid>])",
    )
    .short('u'),
    value("userns", "string", "User namespace to use"),
    value("uts", "string", "UTS namespace to use"),
    list("volume", "Bind mount a volume").short('v'),
    value(
        "volume-driver",
        "string",
        "Optional volume driver for the container",
    ),
    list("volumes-from", "Mount volumes from the specified container(s)"),
    value("workdir", "string", "Working directory inside the container").short('w'),
    list("net", "Connect a container to a network")
        .typed("network")
        .hidden(),
    list("net-alias", "Add network-scoped alias for the container").hidden(),
    list("dns-opt", "Set DNS options").hidden(),
];
