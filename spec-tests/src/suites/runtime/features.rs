//! features.md and features-linux.md: what a runtime says of itself is true.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case, skip};
use crate::lab::Lab;
use crate::require::{Need, SpecVersion};

pub(super) fn cases() -> Vec<Case> {
    let version = |n: u32| format!("features.md#specification-version/{n}");
    let seccomp = |n: u32| format!("features-linux.md#seccomp/{n}");
    vec![
        case(
            "runtime/features/versions",
            "ociVersionMin and ociVersionMax are there, and in that order",
            &[&version(1), &version(3), &version(5)],
            versions,
        ),
        case(
            "runtime/features/versions-are-accepted",
            "both versions are accepted as ociVersion",
            &[&version(2), &version(4)],
            versions_are_accepted,
        ),
        case(
            "runtime/features/properties",
            "there is no property that the specification does not define",
            &[&version(6), "features.md#features-structure/1"],
            properties,
        ),
        case(
            "runtime/features/hooks",
            "each hook of the list is run",
            &["features.md#hooks/1"],
            hooks,
        ),
        case(
            "runtime/features/mount-options",
            "each mount option of the list is recognised, and none goes to the file system",
            &["features.md#mount-options/1", "features.md#mount-options/2"],
            mount_options,
        ),
        case(
            "runtime/features/annotations",
            "annotations are a map of texts",
            &["features.md#annotations/1"],
            annotations,
        ),
        case(
            "runtime/features/namespaces",
            "each namespace type of the list is recognised",
            &["features-linux.md#namespaces/1"],
            namespaces,
        ),
        case(
            "runtime/features/capabilities",
            "each capability of the list is recognised",
            &["features-linux.md#capabilities/1"],
            capabilities,
        ),
        case(
            "runtime/features/cgroup",
            "the version of cgroups that this machine has is said to be supported",
            &["features-linux.md#cgroup/1"],
            cgroup,
        ),
        case(
            "runtime/features/seccomp-actions",
            "each action of the list is recognised",
            &[&seccomp(1)],
            |lab| {
                seccomp_words(
                    lab,
                    "actions",
                    |word| json!([{"names": ["getitimer"], "action": word}]),
                )
            },
        )
        .needs(&[Need::Seccomp]),
        case(
            "runtime/features/seccomp-operators",
            "each operator of the list is recognised",
            &[&seccomp(2)],
            |lab| {
                seccomp_words(lab, "operators", |word| {
                    let argument = json!([{"index": 0, "value": 1, "valueTwo": 1, "op": word}]);
                    json!([{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO", "args": argument}])
                })
            },
        )
        .needs(&[Need::Seccomp]),
        case(
            "runtime/features/seccomp-architectures",
            "each architecture of the list is recognised",
            &[&seccomp(3)],
            |lab| seccomp_lists(lab, "archs", "architectures"),
        )
        .needs(&[Need::Seccomp]),
        case(
            "runtime/features/seccomp-flags",
            "each flag that is known is recognised, and each that is supported works",
            &[&seccomp(4), &seccomp(5)],
            |lab| seccomp_lists(lab, "supportedFlags", "flags"),
        )
        .needs(&[Need::Seccomp]),
        case(
            "runtime/features/memory-policy",
            "each mode and flag of memory policies that is listed is recognised",
            &[
                "features-linux.md#memorypolicy/1",
                "features-linux.md#memorypolicy/2",
            ],
            memory_policy,
        ),
        case(
            "runtime/features/idmap",
            "mountExtensions.idmap.enabled is true where mappings of mounts are recognised",
            &["features-linux.md#mountextensions/1"],
            idmap,
        ),
        case(
            "runtime/features/net-devices",
            "netDevices.enabled is true where network devices are moved",
            &["features-linux.md#netdevices/1"],
            |lab| {
                let said = features(lab)?["linux"]["netDevices"]["enabled"] == true;
                let text = refusal(lab, |config| {
                    config["linux"]["netDevices"] = json!({"kst-nothing": {}})
                })?;
                ensure!(text.is_some(), "a device that does not exist is no error");
                ensure!(said, "it is not said to be enabled");
                Ok(())
            },
        ),
        case(
            "runtime/features/intel-rdt",
            "intelRdt.enabled is a truth value if it is there",
            &["features-linux.md#intel-rdt/1"],
            |lab| {
                let said = features(lab)?["linux"]["intelRdt"]["enabled"].clone();
                ensure!(said.is_null() || said.is_boolean(), "it is {said}");
                Ok(())
            },
        ),
    ]
}

fn features(lab: &Lab) -> Result<Value> {
    let ran = lab.call(&["features"])?;
    if !ran.succeeded() {
        return Err(skip("it has no command `features`, which it may leave out"));
    }
    serde_json::from_str(&ran.stdout).with_context(|| format!("features are no JSON: {}", ran.stdout))
}

/// A list that may be left out; without it there is nothing to ask.
fn list(value: &Value) -> Result<Vec<String>> {
    let Some(words) = value.as_array() else {
        return Err(skip("the list is left out, which is allowed"));
    };
    words
        .iter()
        .map(|word| Ok(word.as_str().context("a word that is no text")?.to_owned()))
        .collect()
}

/// The error of a create with a changed configuration, if there is one. The container is deleted.
fn refusal(lab: &Lab, change: impl FnOnce(&mut Value)) -> Result<Option<String>> {
    let mut bundle = lab.bundle()?;
    change(&mut bundle.config);
    let result = lab.create(&bundle);
    Ok(result.err().map(|error| format!("{error:#}")))
}

fn accepted(lab: &Lab, what: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    match refusal(lab, change)? {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{what} is not accepted: {error}")),
    }
}

fn versions(lab: &Lab) -> Result<()> {
    let features = features(lab)?;
    let of = |name: &str| -> Result<SpecVersion> {
        let text = features[name]
            .as_str()
            .with_context(|| format!("{name} is {}", features[name]))?;
        SpecVersion::parse(text).with_context(|| format!("{name} is {text}"))
    };
    let (least, most) = (of("ociVersionMin")?, of("ociVersionMax")?);
    ensure!(
        least <= most,
        "ociVersionMax {most} is less than ociVersionMin {least}"
    );
    Ok(())
}

fn versions_are_accepted(lab: &Lab) -> Result<()> {
    let features = features(lab)?;
    for name in ["ociVersionMin", "ociVersionMax"] {
        let version = features[name].clone();
        accepted(lab, name, |config| config["ociVersion"] = version)?;
    }
    Ok(())
}

fn properties(lab: &Lab) -> Result<()> {
    let features = features(lab)?;
    let known = [
        "ociVersionMin",
        "ociVersionMax",
        "hooks",
        "mountOptions",
        "linux",
        "annotations",
        "potentiallyUnsafeConfigAnnotations",
    ];
    let linux = [
        "namespaces",
        "capabilities",
        "cgroup",
        "seccomp",
        "apparmor",
        "selinux",
        "memoryPolicy",
        "intelRdt",
        "mountExtensions",
        "netDevices",
    ];
    for (place, value, known) in [
        ("", &features, &known[..]),
        ("linux.", &features["linux"], &linux[..]),
    ] {
        for name in value.as_object().into_iter().flat_map(|map| map.keys()) {
            ensure!(known.contains(&name.as_str()), "{place}{name} is not defined");
        }
    }
    Ok(())
}

fn hooks(lab: &Lab) -> Result<()> {
    let kinds = list(&features(lab)?["hooks"])?;
    ensure!(!kinds.is_empty(), "no hook is said to be recognised");
    for kind in kinds {
        let mut bundle = lab.bundle()?;
        let inside = kind == "startContainer";
        let program = if inside {
            "/probe".into()
        } else {
            lab.probe.to_string_lossy().into_owned()
        };
        let file = if inside {
            "/hooks".into()
        } else {
            bundle.inside("/hooks").to_string_lossy().into_owned()
        };
        bundle.config["hooks"][&kind] = json!([{"path": program, "args": ["probe", "hook", file, kind]}]);
        lab.observe(&mut bundle)?;
        ensure!(bundle.inside("/hooks").exists(), "a {kind} hook does not run");
    }
    Ok(())
}

fn mount_options(lab: &Lab) -> Result<()> {
    /// What tmpfs, devpts, proc, overlay and ext4 understand themselves.
    const OF_FILE_SYSTEMS: [&str; 14] = [
        "size",
        "mode",
        "nr_inodes",
        "uid",
        "gid",
        "newinstance",
        "ptmxmode",
        "hidepid",
        "subset",
        "lowerdir",
        "upperdir",
        "errors",
        "discard",
        "data",
    ];
    let all = list(&features(lab)?["mountOptions"])?;
    let foreign = all.iter().find(|option| {
        let name = option.split('=').next().unwrap_or(option);
        OF_FILE_SYSTEMS.contains(&name)
    });
    ensure!(foreign.is_none(), "the list holds {foreign:?}");
    for option in list(&features(lab)?["mountOptions"])? {
        let special = ["remount", "idmap", "ridmap", "rbind", "bind"];
        if special.contains(&option.as_str()) {
            continue;
        }
        let mut bundle = lab.bundle()?;
        let source = bundle.directory.join("source");
        std::fs::create_dir(&source)?;
        let entry = if ["tmpcopyup", "copy-up"].contains(&option.as_str()) {
            json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": [option]})
        } else {
            json!({"destination": "/data", "source": source, "options": ["rbind", option]})
        };
        bundle.mount(entry);
        lab.create(&bundle)
            .with_context(|| format!("the option {option}"))?;
    }
    Ok(())
}

fn annotations(lab: &Lab) -> Result<()> {
    let value = features(lab)?["annotations"].clone();
    let fits = value.is_null()
        || value
            .as_object()
            .is_some_and(|map| map.values().all(Value::is_string));
    ensure!(fits, "they are {value}");
    Ok(())
}

fn namespaces(lab: &Lab) -> Result<()> {
    // Recognised is not the same as usable: the kernel may lack one.
    let here = |kind: &str| {
        let file = match kind {
            "network" => "net",
            "mount" => "mnt",
            other => other,
        };
        std::path::Path::new("/proc/self/ns").join(file).exists()
    };
    for kind in list(&features(lab)?["linux"]["namespaces"])? {
        if !here(&kind) {
            continue;
        }
        let mut bundle = lab.bundle()?;
        if kind == "user" {
            bundle.user_namespace(720_000)?;
        } else {
            bundle.without_namespace(&kind);
            if let Some(all) = bundle.config["linux"]["namespaces"].as_array_mut() {
                all.push(json!({ "type": kind }));
            }
        }
        lab.create(&bundle)
            .with_context(|| format!("the namespace type {kind}"))?;
    }
    Ok(())
}

fn capabilities(lab: &Lab) -> Result<()> {
    let all = list(&features(lab)?["linux"]["capabilities"])?;
    ensure!(
        all.contains(&"CAP_SYS_ADMIN".to_owned()),
        "CAP_SYS_ADMIN is not among them"
    );
    // Those that this machine's root does not have cannot be granted, which is no error.
    accepted(lab, "the list", |config| {
        config["process"]["capabilities"]["bounding"] = json!(all)
    })
}

fn cgroup(lab: &Lab) -> Result<()> {
    let said = features(lab)?["linux"]["cgroup"].clone();
    if said.is_null() {
        return Err(skip("linux.cgroup is left out, which is allowed"));
    }
    let version = if lab.host.v1("memory").is_some() {
        "v1"
    } else {
        "v2"
    };
    ensure!(said[version] == true, "{version} is {}", said[version]);
    Ok(())
}

fn seccomp_words(lab: &Lab, name: &str, rule: impl Fn(&str) -> Value) -> Result<()> {
    for word in list(&features(lab)?["linux"]["seccomp"][name])? {
        if word == "SCMP_ACT_NOTIFY" {
            // Needs an agent: see runtime/seccomp/notify.
            continue;
        }
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule(&word)});
        // A rule with the default action is refused by libseccomp, whatever the word.
        let filter = if word == "SCMP_ACT_ALLOW" {
            json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": rule(&word)})
        } else {
            filter
        };
        accepted(lab, &word, |config| config["linux"]["seccomp"] = filter)?;
    }
    Ok(())
}

fn seccomp_lists(lab: &Lab, name: &str, property: &str) -> Result<()> {
    for word in list(&features(lab)?["linux"]["seccomp"][name])? {
        if word == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
            // Only together with an agent.
            continue;
        }
        let rule = json!([{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO"}]);
        let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule});
        filter[property] = json!([word]);
        accepted(lab, &word, |config| config["linux"]["seccomp"] = filter)?;
    }
    Ok(())
}

fn memory_policy(lab: &Lab) -> Result<()> {
    if lab.observe(&mut lab.bundle()?)?["memory_policy"].is_null() {
        return Err(skip("the kernel has no memory policies (NUMA)"));
    }
    for mode in list(&features(lab)?["linux"]["memoryPolicy"]["modes"])? {
        let nodes = !["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode.as_str());
        let policy = if nodes {
            json!({"mode": mode, "nodes": "0"})
        } else {
            json!({ "mode": mode })
        };
        accepted(lab, &mode, |config| config["linux"]["memoryPolicy"] = policy)?;
    }
    for flag in list(&features(lab)?["linux"]["memoryPolicy"]["flags"])? {
        // Balancing goes with one mode only.
        let mode = if flag == "MPOL_F_NUMA_BALANCING" {
            "MPOL_BIND"
        } else {
            "MPOL_INTERLEAVE"
        };
        let policy = json!({"mode": mode, "nodes": "0", "flags": [flag]});
        accepted(lab, &flag, |config| config["linux"]["memoryPolicy"] = policy)?;
    }
    Ok(())
}

fn idmap(lab: &Lab) -> Result<()> {
    let said = features(lab)?["linux"]["mountExtensions"]["idmap"]["enabled"] == true;
    let source = lab.path("source");
    std::fs::create_dir(&source)?;
    let map = json!([{"containerID": 0, "hostID": 5, "size": 10}]);
    let mut bundle = lab.bundle()?;
    bundle.mount(
        json!({"destination": "/data", "source": source, "options": ["bind", "idmap"],
                        "uidMappings": map, "gidMappings": map}),
    );
    let works = lab.create(&bundle).is_ok();
    ensure!(said || !works, "mappings of mounts work, and it is not said");
    Ok(())
}
