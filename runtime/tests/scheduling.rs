//! Scheduler, I/O priority, CPUs, personality, memory policy and OOM score, by run and by exec, as the kernel shows them.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bundle, can_run, skip, text};
use kelson_sys::sched;
use serde_json::{Value, json};

fn proc_file(pid: i32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

fn status_field(pid: i32, name: &str) -> String {
    let status = proc_file(pid, "status");
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim().to_owned()
}

/// Policy and nice value.
fn policy(pid: i32) -> (u32, i64) {
    let stat = procfs::process::Process::new(pid).unwrap().stat().unwrap();
    (stat.policy.unwrap(), stat.nice)
}

/// Starts `sleep` beside the container's own process, described by process.json, and gives its pid.
fn exec_sleep(b: &Bundle, more: Value) -> i32 {
    let mut process = json!({"args": ["sleep", "100"], "cwd": "/", "env": ["PATH=/bin"]});
    for (name, value) in more.as_object().unwrap() {
        process[name] = value.clone();
    }
    fs::write(b.path("process.json"), process.to_string()).unwrap();
    let (file, pid_file) = (b.path("process.json"), b.path("exec.pid"));
    let args = [
        "exec",
        "-d",
        "--process",
        file.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        &b.id,
    ];
    let mut exec = b.command(&args);
    exec.stdout(Stdio::null())
        .stderr(fs::File::create(b.path("exec.err")).unwrap());
    let status = exec.status().unwrap();
    assert!(
        status.success(),
        "{}",
        fs::read_to_string(b.path("exec.err")).unwrap()
    );
    fs::read_to_string(&pid_file).unwrap().parse().unwrap()
}

#[test]
fn the_scheduler_is_applied_and_exec_has_it_too() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exec sleep 100");
    b.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 19, "priority": 0});
    b.up();
    assert_eq!(policy(b.pid()), (3, 19));
    assert_eq!(policy(exec_sleep(&b, json!({}))), (3, 19));
    let deadline = json!({"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 420_000, "deadline": 1_000_000, "period": 10_000_000});
    assert_eq!(policy(exec_sleep(&b, json!({"scheduler": deadline}))).0, 6);
}

#[test]
fn io_priorities_are_applied_and_exec_may_have_another() {
    if !can_run() {
        return;
    }
    let ionice = |pid: i32| {
        let out = Command::new("ionice")
            .args(["-p", &pid.to_string()])
            .output()
            .unwrap();
        text(&out.stdout).trim().to_owned()
    };
    let mut b = Bundle::new("exec sleep 100");
    b.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4});
    b.up();
    assert_eq!(ionice(b.pid()), "best-effort: prio 4");
    assert_eq!(ionice(exec_sleep(&b, json!({}))), "best-effort: prio 4");
    let idle = json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}});
    assert_eq!(ionice(exec_sleep(&b, idle)), "idle");
}

#[test]
fn the_callers_cpus_are_not_the_containers() {
    if !can_run() {
        return;
    }
    let all = sched::affinity().unwrap();
    if all.count_ones() < 2 {
        skip("needs two CPUs");
        return;
    }
    let mine = status_field(std::process::id().cast_signed(), "Cpus_allowed_list:");
    let first = all.trailing_zeros();
    let second = (all & !(1 << first)).trailing_zeros();
    let mut b = Bundle::new("exec sleep 100");
    // Only this test's thread, and so the runtimes it starts.
    sched::set_affinity(&[1 << first]).unwrap();
    b.up();
    assert_eq!(status_field(b.pid(), "Cpus_allowed_list:"), mine);
    assert_eq!(
        status_field(exec_sleep(&b, json!({})), "Cpus_allowed_list:"),
        mine
    );
    let of = |affinity: Value| {
        let pid = exec_sleep(&b, json!({"execCPUAffinity": affinity}));
        status_field(pid, "Cpus_allowed_list:")
    };
    assert_eq!(of(json!({"initial": second.to_string()})), second.to_string());
    assert_eq!(of(json!({"final": second.to_string()})), second.to_string());
    assert_eq!(
        of(json!({"initial": second.to_string(), "final": first.to_string()})),
        first.to_string()
    );
    b.delete();

    // A cpuset without the caller's CPU, and exec's CPUs from config.json.
    b.config["linux"]["resources"]["cpu"] = json!({"cpus": second.to_string(), "mems": "0"});
    b.up();
    assert_eq!(status_field(b.pid(), "Cpus_allowed_list:"), second.to_string());
    assert_eq!(
        status_field(exec_sleep(&b, json!({})), "Cpus_allowed_list:"),
        second.to_string()
    );
    sched::set_affinity(&[all]).unwrap();
}

#[test]
fn a_deadline_on_part_of_the_cpus_says_what_is_wrong() {
    if !can_run() {
        return;
    }
    if sched::affinity().unwrap().count_ones() < 2 {
        skip("needs two CPUs");
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"});
    b.config["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE", "nice": 19, "runtime": 42000, "deadline": 1_000_000, "period": 1_000_000});
    let out = b.run();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("process scheduler can't be used together with AllowedCPUs"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn personality_and_memory_policy_for_run_and_exec() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exec sleep 100");
    b.config["linux"]["personality"] = json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]});
    let numa = std::path::Path::new("/proc/self/numa_maps").exists();
    if numa {
        b.config["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    } else {
        skip("no memory policies in this kernel");
    }
    // What is set before the filter may be forbidden by it.
    b.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["personality", "set_mempolicy"], "action": "SCMP_ACT_ERRNO"}]});
    b.up();
    for pid in [b.pid(), exec_sleep(&b, json!({}))] {
        assert_eq!(proc_file(pid, "personality").trim(), "00040008");
        if numa {
            let map = proc_file(pid, "numa_maps");
            assert!(map.lines().next().unwrap().contains(" bind=static:0"), "{map}");
        }
    }
}

#[test]
fn exec_has_the_oom_score_of_its_own_or_of_the_container() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exec sleep 100");
    b.config["process"]["oomScoreAdj"] = json!(500);
    b.up();
    assert_eq!(proc_file(b.pid(), "oom_score_adj"), "500\n");
    assert_eq!(proc_file(exec_sleep(&b, json!({})), "oom_score_adj"), "500\n");
    assert_eq!(
        proc_file(exec_sleep(&b, json!({"oomScoreAdj": 600})), "oom_score_adj"),
        "600\n"
    );
}

#[test]
fn what_process_json_does_not_say_is_the_containers() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("exec sleep 100");
    b.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]);
    b.config["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o077});
    b.up();
    let pid = exec_sleep(&b, json!({}));
    assert_eq!(status_field(pid, "CapBnd:"), status_field(b.pid(), "CapBnd:"));
    assert_eq!(status_field(pid, "Umask:"), "0077");
    let limits = proc_file(pid, "limits");
    assert!(
        limits
            .lines()
            .any(|l| l.starts_with("Max open files            77 ")),
        "{limits}"
    );
    let pid = exec_sleep(&b, json!({"capabilities": {}}));
    assert_eq!(status_field(pid, "CapBnd:"), "0000000000000000");
}

#[test]
fn without_resctrl_a_share_of_caches_is_refused_before_anything_is_made() {
    if !can_run() {
        return;
    }
    if fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ") {
        skip("resctrl is mounted");
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["intelRdt"] = json!({"closID": "gold", "schemata": ["L3:0=f"]});
    let out = b.create(&[]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(
        said.contains("linux.intelRdt: no resctrl filesystem is mounted"),
        "{said}"
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}
