use std::collections::BTreeSet;

use kelson_api::{ContainerConfig, HostConfig, Ulimit};
use serde_json::{Value, json};

use super::*;
use crate::containers::record::{MountKind, MountRecord, Record};
use crate::seccomp::Seccomp;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spec/golden");

pub(crate) fn record(config: ContainerConfig, host: HostConfig) -> Record {
    Record {
        format: 1,
        id: "0123456789abcdef".repeat(4),
        name: "web".into(),
        created: "2026-11-21T00:00:00Z".into(),
        image: "busybox".into(),
        image_id: "sha256:0".into(),
        path: "sh".into(),
        args: vec!["-c".into(), "true".into()],
        config,
        host,
        networks: Default::default(),
        mounts: vec![],
        runtime: "kelson".into(),
        unknown: Default::default(),
    }
}

fn inputs<'a>(record: &'a Record, privileged: bool) -> Inputs<'a> {
    let held = caps::from_mask(u64::MAX);
    let host = &record.host;
    let list = |l: &Option<kelson_api::wire::StrSlice>| l.as_ref().map(|s| s.0.clone()).unwrap_or_default();
    Inputs {
        record,
        user: ExecUser {
            uid: 0,
            gid: 0,
            groups: vec![0, 10],
            home: "/root".into(),
        },
        hostname: "0123456789ab",
        network: Namespace::Join("/proc/77/fd/5".into()),
        pid: Namespace::New,
        ipc: Namespace::New,
        uts: Namespace::New,
        cgroup: Namespace::New,
        cgroups_path: format!("/kelson/{}", record.id),
        caps: caps::tweak(&list(&host.cap_add), &list(&host.cap_drop), privileged, &held).unwrap(),
        devices: vec![],
        block_limits: vec![],
        etc_files: vec![
            ("/d/resolv.conf".into(), "/etc/resolv.conf"),
            ("/d/hosts".into(), "/etc/hosts"),
        ],
        init: None,
        shm_size: 64 << 20,
        default_ulimits: &[],
        no_new_privileges: false,
        seccomp: None,
    }
}

/// Compares with the golden file, or writes it when UPDATE_GOLDEN is set; every document must be a runtime-spec one.
fn golden(name: &str, inputs: &Inputs<'_>) -> Value {
    let document = serde_json::to_value(build(inputs)).unwrap();
    serde_json::from_value::<oci_spec::runtime::Spec>(document.clone()).unwrap();
    let path = format!("{GOLDEN}/{name}.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap(),
        "{path} (UPDATE_GOLDEN=1 writes it)"
    );
    document
}

#[test]
fn a_plain_container() {
    let record = record(
        ContainerConfig {
            tty: true,
            ..Default::default()
        },
        HostConfig::default(),
    );
    golden("plain", &inputs(&record, false));
}

#[test]
fn a_privileged_one_on_the_host() {
    let record = record(
        ContainerConfig::default(),
        HostConfig {
            privileged: true,
            ..Default::default()
        },
    );
    let mut inputs = inputs(&record, true);
    inputs.network = Namespace::Host;
    inputs.ipc = Namespace::Host;
    inputs.pid = Namespace::Host;
    inputs.uts = Namespace::Host;
    inputs.cgroup = Namespace::Host;
    inputs.devices = vec![Device {
        path: "/dev/kmsg".into(),
        kind: 'c',
        major: 1,
        minor: 11,
        mode: 0o644,
        uid: 0,
        gid: 0,
        access: None,
    }];
    golden("privileged", &inputs);
}

#[test]
fn limits_mounts_and_the_rest() {
    let host = HostConfig {
        memory: 64 << 20,
        nano_cpus: 1_500_000_000,
        cpuset_cpus: "0-1".into(),
        pids_limit: Some(100),
        blkio_weight: 300,
        oom_score_adj: 100,
        readonly_rootfs: true,
        cap_drop: Some(vec!["ALL".to_owned()].into()),
        cap_add: Some(vec!["NET_BIND_SERVICE".to_owned()].into()),
        ulimits: Some(vec![Ulimit {
            name: "nofile".into(),
            soft: 1024,
            hard: -1,
        }]),
        sysctls: Some([("net.core.somaxconn".to_owned(), "1024".to_owned())].into()),
        tmpfs: Some([("/run".to_owned(), "rw,exec,size=1m".to_owned())].into()),
        device_cgroup_rules: Some(vec!["c 10:* r".into()]),
        annotations: Some([("a".to_owned(), "b".to_owned())].into()),
        ..Default::default()
    };
    let config = ContainerConfig {
        env: Some(vec![
            "PATH=/bin".into(),
            "A=1".into(),
            "HOSTNAME".into(),
            "HOME=/h".into(),
        ]),
        working_dir: "/srv".into(),
        domainname: "example.org".into(),
        ..Default::default()
    };
    let mut record = record(config, host);
    let mount = |kind, source: &str, destination: &str, rw| MountRecord {
        kind,
        name: String::new(),
        source: source.into(),
        destination: destination.into(),
        mode: String::new(),
        rw,
        propagation: if kind == MountKind::Bind {
            "rslave".into()
        } else {
            String::new()
        },
        non_recursive: false,
        options: vec!["size=65536".into()],
        anonymous: false,
        no_copy: false,
    };
    record.mounts = vec![
        mount(MountKind::Bind, "/host/deep", "/srv/www/deep", true),
        mount(MountKind::Volume, "/vol/_data", "/srv/www", false),
        mount(MountKind::Tmpfs, "", "/scratch", true),
        mount(MountKind::Bind, "/host/hosts", "/etc/hosts", false),
    ];
    let mut inputs = inputs(&record, false);
    inputs.user = ExecUser {
        uid: 33,
        gid: 33,
        groups: vec![33],
        home: "/srv".into(),
    };
    inputs.block_limits = vec![BlockLimit {
        key: "throttleReadBpsDevice",
        major: 8,
        minor: 0,
        value: 1 << 20,
    }];
    inputs.no_new_privileges = true;
    let document = golden("limits", &inputs);
    let env = document["process"]["env"].as_array().unwrap();
    assert_eq!(env, &[json!("PATH=/bin"), json!("A=1"), json!("HOME=/h")]);
}

#[test]
fn the_default_filter_is_part_of_the_document() {
    let record = record(ContainerConfig::default(), HostConfig::default());
    let mut inputs = inputs(&record, false);
    inputs.seccomp = Some(Seccomp::new(None).unwrap().for_caps(&inputs.caps).unwrap());
    let first = serde_json::to_string(&build(&inputs)).unwrap();
    assert!(first.contains("SCMP_ACT_ERRNO"));
    assert_eq!(first, serde_json::to_string(&build(&inputs)).unwrap());
    serde_json::from_str::<oci_spec::runtime::Spec>(&first).unwrap();
}

#[test]
fn exec_takes_what_it_does_not_say_from_the_container() {
    let record = record(
        ContainerConfig {
            env: Some(vec!["A=1".into()]),
            working_dir: "/w".into(),
            ..Default::default()
        },
        HostConfig::default(),
    );
    let exec = |working_dir: &'static str| ExecInputs {
        record: &record,
        hostname: "h",
        user: ExecUser {
            uid: 0,
            gid: 0,
            groups: vec![],
            home: "/".into(),
        },
        caps: BTreeSet::new(),
        tty: true,
        console_size: Some((24, 80)),
        args: &[],
        env: &[],
        working_dir,
        no_new_privileges: false,
        default_ulimits: &[],
    };
    let process = exec_process(&exec(""));
    assert_eq!(process["cwd"], "/w");
    assert_eq!(process["consoleSize"], json!({"height": 24, "width": 80}));
    assert!(process["env"].as_array().unwrap().contains(&json!("A=1")));
    assert_eq!(exec_process(&exec("/x"))["cwd"], "/x");
}

#[test]
fn contradictions_are_refused() {
    let bad = |change: fn(&mut HostConfig)| {
        let mut host = HostConfig::default();
        change(&mut host);
        check_resources(&host).unwrap_err().to_string()
    };
    assert_eq!(bad(|h| h.memory = 1 << 20), "Minimum memory limit allowed is 6MB");
    assert!(bad(|h| h.memory_swap = 1).contains("always set the Memory limit"));
    assert!(bad(|h| h.nano_cpus = 1 << 60).contains("range of CPUs"));
    assert!(bad(|h| h.device_cgroup_rules = Some(vec!["x".into()])).contains("invalid device cgroup rule"));
    assert!(
        bad(|h| h.ulimits = Some(vec![Ulimit {
            name: "nope".into(),
            soft: 1,
            hard: 1
        }]))
        .contains("invalid ulimit type")
    );
    assert!(check_resources(&HostConfig::default()).is_ok());
}
