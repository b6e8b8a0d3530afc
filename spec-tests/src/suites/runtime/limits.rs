//! config.md: limits, capabilities, and how the process is scheduled.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::configuration::refused_with;
use crate::case::{Case, case};
use crate::lab::{Lab, check};
use crate::require::Need;

/// Limits that a process without CAP_SYS_RESOURCE can be given.
const RLIMITS: [&str; 16] = [
    "RLIMIT_AS",
    "RLIMIT_CORE",
    "RLIMIT_CPU",
    "RLIMIT_DATA",
    "RLIMIT_FSIZE",
    "RLIMIT_LOCKS",
    "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "RLIMIT_RSS",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
    "RLIMIT_SIGPENDING",
    "RLIMIT_STACK",
];

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "runtime/rlimits/unknown",
            "a limit that the kernel does not have is an error",
            &["config.md#posix-process/1"],
            |lab| {
                refused_with(
                    lab,
                    "/process/rlimits",
                    json!([{"type": "RLIMIT_LUCK", "soft": 1, "hard": 1}]),
                )
            },
        ),
        case(
            "runtime/rlimits/twice",
            "two entries for one limit are an error",
            &["config.md#posix-process/5"],
            |lab| {
                let entry = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200});
                refused_with(lab, "/process/rlimits", json!([entry, entry]))
            },
        ),
        case(
            "runtime/process/oom-score-adj",
            "oomScoreAdj is written",
            &["config.md#linux-process/9"],
            |lab| oom_score(lab, json!(321), "321"),
        ),
        case(
            "runtime/process/oom-score-adj-of-the-caller",
            "without oomScoreAdj the caller's score is kept",
            &["config.md#linux-process/10"],
            |lab| {
                let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
                oom_score(lab, Value::Null, own.trim())
            },
        ),
        case(
            "runtime/process/no-new-privileges",
            "noNewPrivileges sets no_new_privs, and without it the bit is not set",
            &["config.md#linux-process/8"],
            |lab| {
                for wanted in [true, false] {
                    let mut bundle = lab.bundle()?;
                    bundle.config["process"]["noNewPrivileges"] = json!(wanted);
                    check(
                        "no_new_privs",
                        &lab.observe(&mut bundle)?["no_new_privileges"],
                        i64::from(wanted),
                    )?;
                }
                Ok(())
            },
        ),
        case(
            "runtime/capabilities/cannot-be-given",
            "a capability that the caller does not have is left out, and the container runs",
            &["config.md#linux-process/2"],
            capability_cannot_be_given,
        ),
        case(
            "runtime/capabilities/none",
            "empty lists leave a root process without any capability",
            &["config.md#linux-process/3", "config.md#linux-process/4"],
            no_capabilities,
        ),
        case(
            "runtime/personality/linux",
            "domain LINUX is the native personality",
            &["config-linux.md#personality/1"],
            |lab| personality(lab, "LINUX", 0),
        ),
        case(
            "runtime/personality/linux32",
            "domain LINUX32 is the personality of 32 bit, and uname says so",
            &["config-linux.md#personality/2"],
            |lab| personality(lab, "LINUX32", 8),
        ),
        case(
            "runtime/personality/unknown",
            "another domain is an error",
            &["config-linux.md#personality/3"],
            |lab| refused_with(lab, "/linux/personality", json!({"domain": "PLAN9"})),
        ),
        case(
            "runtime/scheduler/nice",
            "scheduler SCHED_OTHER with nice gives that nice value",
            &["config.md#linux-process/11", "config.md#linux-process/12"],
            |lab| {
                scheduled(
                    lab,
                    json!({"policy": "SCHED_OTHER", "nice": 7}),
                    &[("policy", json!(0)), ("nice", json!(7))],
                )
            },
        ),
        case(
            "runtime/scheduler/batch",
            "scheduler SCHED_BATCH is that policy",
            &["config.md#linux-process/11"],
            |lab| {
                scheduled(
                    lab,
                    json!({"policy": "SCHED_BATCH", "nice": 3}),
                    &[("policy", json!(3)), ("nice", json!(3))],
                )
            },
        ),
        case(
            "runtime/scheduler/idle",
            "scheduler SCHED_IDLE is that policy",
            &["config.md#linux-process/11"],
            |lab| scheduled(lab, json!({"policy": "SCHED_IDLE"}), &[("policy", json!(5))]),
        ),
        case(
            "runtime/scheduler/fifo",
            "scheduler SCHED_FIFO with priority gives that priority",
            &["config.md#linux-process/11", "config.md#linux-process/13"],
            |lab| {
                let wanted =
                    json!({"policy": "SCHED_FIFO", "priority": 9, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
                scheduled(lab, wanted, &[("policy", json!(1)), ("priority", json!(9))])
            },
        ),
        case(
            "runtime/scheduler/flags",
            "SCHED_FLAG_RESET_ON_FORK is set",
            &["config.md#linux-process/14"],
            |lab| {
                let wanted =
                    json!({"policy": "SCHED_OTHER", "nice": 0, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
                scheduled(lab, wanted, &[("flags", json!(1))])
            },
        ),
        case(
            "runtime/scheduler/deadline",
            "scheduler SCHED_DEADLINE has its runtime, deadline and period",
            &["config.md#linux-process/15"],
            |lab| {
                let wanted = json!({"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
                                    "runtime": 1_000_000, "deadline": 9_000_000, "period": 10_000_000});
                let seen = [
                    ("policy", json!(6)),
                    ("deadline", json!([1_000_000, 9_000_000, 10_000_000])),
                ];
                scheduled(lab, wanted, &seen)
            },
        ),
        case(
            "runtime/scheduler/unknown",
            "another policy is an error",
            &["config.md#linux-process/11", "config.md#valid-values/1"],
            |lab| refused_with(lab, "/process/scheduler", json!({"policy": "SCHED_LUCK"})),
        ),
        case(
            "runtime/io-priority/unknown",
            "another class of I/O priority is an error",
            &["config.md#linux-process/16", "config.md#valid-values/1"],
            |lab| {
                refused_with(
                    lab,
                    "/process/ioPriority",
                    json!({"class": "IOPRIO_CLASS_LUCK", "priority": 1}),
                )
            },
        ),
        case(
            "runtime/exec-affinity/init-is-left-alone",
            "execCPUAffinity does not change the affinity of the container's first process",
            &["config.md#linux-process/17"],
            |lab| {
                let before = lab.observe(&mut lab.bundle()?)?;
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
                check(
                    "the affinity",
                    &lab.observe(&mut bundle)?["affinity"],
                    before["affinity"].clone(),
                )
            },
        )
        .needs(&[Need::Processors(2)]),
        case(
            "runtime/exec-affinity/final",
            "execCPUAffinity.final is the affinity of what exec starts",
            &["config.md#linux-process/18"],
            |lab| exec_affinity(lab, json!({"initial": "0", "final": "1"}), Some(json!([1]))),
        )
        .needs(&[Need::Processors(2)]),
        case(
            "runtime/exec-affinity/without-final",
            "without final the affinity is not set again: it is that of initial, or, on kernels that reset it, the cgroup's",
            &["config.md#linux-process/19"],
            |lab| exec_affinity(lab, json!({"initial": "0"}), None),
        )
        .needs(&[Need::Processors(2)]),
        case(
            "runtime/lsm/apparmor",
            "apparmorProfile confines the process",
            &["config.md#linux-process/20"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["apparmorProfile"] = json!("unconfined");
                check(
                    "the profile",
                    &lab.observe(&mut bundle)?["apparmor"],
                    "unconfined",
                )
            },
        )
        .needs(&[Need::Path("/sys/kernel/security/apparmor")]),
        case(
            "runtime/lsm/selinux",
            "selinuxLabel and mountLabel that SELinux does not know are an error",
            &["config.md#linux-process/21", "config-linux.md#mount-label/1"],
            |lab| refused_with(lab, "/process/selinuxLabel", json!("no:such:label:s0")),
        )
        .needs(&[Need::Path("/sys/fs/selinux/enforce")]),
    ];
    for name in RLIMITS {
        all.push(case(
            format!(
                "runtime/rlimits/{}",
                name.trim_start_matches("RLIMIT_").to_lowercase()
            ),
            format!("{name} has the configured soft and hard value"),
            &[
                "config.md#posix-process/2",
                "config.md#posix-process/3",
                "config.md#posix-process/4",
            ],
            move |lab| rlimit(lab, name),
        ));
    }
    for (class, number) in [
        ("IOPRIO_CLASS_RT", 1_u32),
        ("IOPRIO_CLASS_BE", 2),
        ("IOPRIO_CLASS_IDLE", 3),
    ] {
        all.push(case(
            format!(
                "runtime/io-priority/{}",
                class.trim_start_matches("IOPRIO_CLASS_").to_lowercase()
            ),
            format!("{class} with a priority is the process's I/O priority"),
            &["config.md#linux-process/16"],
            move |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["ioPriority"] = json!({"class": class, "priority": 4});
                check(
                    "the I/O priority",
                    &lab.observe(&mut bundle)?["ioprio"],
                    number << 13 | 4,
                )
            },
        ));
    }
    for (set, clause) in [
        ("effective", 3),
        ("bounding", 4),
        ("inheritable", 5),
        ("permitted", 6),
        ("ambient", 7),
    ] {
        let id = format!("config.md#linux-process/{clause}");
        all.push(case(
            format!("runtime/capabilities/{set}"),
            format!("the {set} set holds what the configuration gives it"),
            &[&id],
            move |lab| capability_set(lab, set),
        ));
    }
    all
}

fn oom_score(lab: &Lab, value: Value, wanted: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    if !value.is_null() {
        bundle.config["process"]["oomScoreAdj"] = value;
    }
    check(
        "oom_score_adj",
        &lab.observe(&mut bundle)?["oom_score_adj"],
        wanted,
    )
}

/// Values that are below what the caller has, so that no privilege is needed, and above what a small program needs.
fn rlimit(lab: &Lab, name: &str) -> Result<()> {
    let own = lab.observe(&mut lab.bundle()?)?;
    let ceiling = own["rlimits"][name][1].as_u64().unwrap_or(0);
    let big: u64 = match name {
        "RLIMIT_AS" | "RLIMIT_DATA" | "RLIMIT_RSS" | "RLIMIT_FSIZE" => 8 << 30,
        "RLIMIT_STACK" => 16 << 20,
        _ => 1000,
    };
    let hard = big.min(ceiling);
    let soft = hard - hard / 4;
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["rlimits"] = json!([{"type": name, "soft": soft, "hard": hard}]);
    check(
        name,
        &lab.observe(&mut bundle)?["rlimits"][name],
        json!([soft, hard]),
    )
}

const KILL: u64 = 1 << 5;
const CHOWN: u64 = 1;
const NET_RAW: u64 = 1 << 13;

fn capability_set(lab: &Lab, set: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let all = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"];
    let mut sets =
        json!({"bounding": all, "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"]});
    // An ambient capability has to be inheritable and permitted.
    if set == "inheritable" || set == "ambient" {
        sets["inheritable"] = json!(["CAP_KILL"]);
    }
    if set == "ambient" {
        sets["ambient"] = json!(["CAP_KILL"]);
        // Without a uid of 0 the sets after execve are those of the file and the ambient one.
        bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    }
    bundle.config["process"]["capabilities"] = sets;
    if set == "permitted" || set == "effective" {
        return as_root(lab, &mut bundle, set);
    }
    let seen = lab.observe(&mut bundle)?;
    let wanted = if set == "bounding" {
        CHOWN | KILL | NET_RAW
    } else {
        KILL
    };
    check(&format!("the {set} set"), &seen["capabilities"][set], wanted)?;
    if set == "ambient" {
        check(
            "the effective set of a user with an ambient capability",
            &seen["capabilities"]["effective"],
            KILL,
        )?;
    }
    Ok(())
}

/// A root process gets at execve all that is bounding or inheritable; the program of uid 0 therefore shows the bounding
/// set, and one without uid 0 shows nothing.
fn as_root(lab: &Lab, bundle: &mut crate::lab::Bundle, set: &str) -> Result<()> {
    let same = json!(["CAP_CHOWN", "CAP_KILL"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": same, "permitted": same, "effective": same});
    let seen = lab.observe(bundle)?;
    check(
        &format!("the {set} set of root"),
        &seen["capabilities"][set],
        CHOWN | KILL,
    )?;
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut user = lab.bundle()?;
    user.config = bundle.config.clone();
    let seen = lab.observe(&mut user)?;
    check(&format!("the {set} set of a user"), &seen["capabilities"][set], 0)
}

fn no_capabilities(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["capabilities"] = json!({"bounding": [], "permitted": [], "effective": []});
    let seen = lab.observe(&mut bundle)?;
    for set in ["effective", "permitted", "inheritable", "bounding", "ambient"] {
        check(&format!("the {set} set"), &seen["capabilities"][set], 0)?;
    }
    Ok(())
}

fn capability_cannot_be_given(lab: &Lab) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .unwrap_or("0")
        .trim();
    let own = u64::from_str_radix(own, 16)?;
    let Some((_, name)) = [
        (24, "CAP_SYS_RESOURCE"),
        (16, "CAP_SYS_MODULE"),
        (17, "CAP_SYS_RAWIO"),
    ]
    .into_iter()
    .find(|(number, _)| own >> number & 1 == 0) else {
        return Err(crate::case::skip(
            "this machine's root has every capability that is tried",
        ));
    };
    let mut bundle = lab.bundle()?;
    for set in ["bounding", "permitted", "effective"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_KILL", name]);
    }
    check(
        "the bounding set",
        &lab.observe(&mut bundle)?["capabilities"]["bounding"],
        KILL,
    )
}

fn personality(lab: &Lab, domain: &str, wanted: i64) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["personality"] = json!({"domain": domain});
    let seen = lab.observe(&mut bundle)?;
    check("the personality", &seen["personality"], wanted)?;
    if domain == "LINUX32" {
        // A kernel without programs of 32 bit shows the same machine to all.
        let number = if cfg!(target_arch = "aarch64") { 92 } else { 135 };
        let host = lab.on_host(&[&format!("syscall {number} 8"), "observe"])?;
        check(
            "the machine of uname",
            &seen["machine"],
            host.value(1)?["machine"].clone(),
        )?;
    }
    Ok(())
}

fn scheduled(lab: &Lab, scheduler: Value, wanted: &[(&str, Value)]) -> Result<()> {
    let real_time =
        ["SCHED_FIFO", "SCHED_RR", "SCHED_DEADLINE"].contains(&scheduler["policy"].as_str().unwrap_or(""));
    if real_time && std::fs::read_to_string("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").is_ok() {
        return Err(crate::case::skip(
            "cgroups hold real-time time back (RT_GROUP_SCHED)",
        ));
    }
    // v2 says nothing of it.
    let by_priority = real_time && scheduler["policy"] != "SCHED_DEADLINE";
    if by_priority && lab.on_host(&["real-time 1"])?.value(0).is_err() {
        return Err(crate::case::skip("the kernel grants a cgroup no real-time"));
    }
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["scheduler"] = scheduler;
    let seen = lab.observe(&mut bundle)?;
    for (field, value) in wanted {
        check(field, &seen["scheduler"][*field], value.clone())?;
    }
    Ok(())
}

fn exec_affinity(lab: &Lab, affinity: Value, wanted: Option<Value>) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["execCPUAffinity"] = affinity;
    let container = lab.running(&mut bundle, &["observe"])?;
    let init = container.observation()?;
    let seen = container.exec_observe(&[])?;
    if wanted.is_none() && seen["affinity"] == json!([0]) {
        return Ok(());
    }
    let wanted = wanted.unwrap_or_else(|| init["affinity"].clone());
    ensure!(
        seen["affinity"] == wanted,
        "what exec starts runs on {}, not {wanted}",
        seen["affinity"]
    );
    Ok(())
}
