//! Attacks through what a runtime leaves open, and through what it believes: descriptors, its own program, users, numbers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::lab::{CALL_LIMIT, Container, Lab, Observation, check, process};
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "attacks/descriptors/own-program",
            "a script of the container whose interpreter is /proc/self/exe gives nobody the runtime's program to write",
            &["CVE-2019-5736"],
            own_program,
        ),
        case(
            "attacks/descriptors/working-directory",
            "a cwd of /proc/self/fd/N leads to no directory of the host, in create",
            &["CVE-2024-21626"],
            working_directory,
        ),
        case(
            "attacks/descriptors/working-directory-of-exec",
            "a cwd of /proc/self/fd/N leads to no directory of the host, in exec",
            &["CVE-2024-21626"],
            working_directory_of_exec,
        ),
        case(
            "attacks/descriptors/exec-is-watched",
            "a process of the container that watches exec sees no descriptor, root or program of the host",
            &["CVE-2016-9962"],
            exec_is_watched,
        ),
        case(
            "attacks/capabilities/inheritable",
            "no capability is inheritable that the configuration does not name, in create and in exec",
            &["CVE-2022-29162", "CVE-2022-27650", "CVE-2022-24769"],
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &["observe"])?;
                let first = container.observation()?;
                check(
                    "the first process's inheritable set",
                    &first["capabilities"]["inheritable"],
                    0,
                )?;
                let second = container.exec_observe(&[])?;
                check(
                    "exec's inheritable set",
                    &second["capabilities"]["inheritable"],
                    0,
                )?;
                let user = container.exec_observe(&["--user", "1000:1000"])?;
                check(
                    "the effective set of exec's user",
                    &user["capabilities"]["effective"],
                    0,
                )
            },
        ),
        case(
            "attacks/numbers/mappings",
            "mappings whose numbers overflow, and lists of very many, are errors",
            &["CVE-2021-43784"],
            mappings,
        )
        .needs(&[Need::UserNamespace]),
        case(
            "attacks/numbers/exec-user",
            "a user of exec that is no number is an error, or that user: never root",
            &["CVE-2026-30892", "CVE-2024-40635"],
            exec_user,
        ),
        case(
            "attacks/numbers/deep-and-long-json",
            "a config.json that is nested very deeply, or very long, is an orderly error or is accepted",
            &["bad input never hangs or crashes"],
            deep_json,
        ),
        case(
            "attacks/state/directories",
            "nobody but the owner can read the runtime's state",
            &["CVE-2024-25621"],
            state_directories,
        ),
        case(
            "attacks/cgroups/read-only",
            "with a read-only mount of cgroups the container can change none of its limits",
            &["CVE-2022-0492"],
            cgroups_are_read_only,
        ),
        case(
            "attacks/cgroups/of-an-owner",
            "with a user namespace and the host's cgroup namespace a read-only mount of cgroups protects what its user owns",
            &["CVE-2023-25809"],
            cgroups_of_an_owner,
        )
        .needs(&[Need::UserNamespace]),
        case(
            "attacks/keys/others-keyring",
            "two containers share no session keyring",
            &["CVE-2014-9529"],
            |lab| {
                let (first, second) = (lab.observe(&mut lab.bundle()?)?, lab.observe(&mut lab.bundle()?)?);
                ensure!(
                    first["keyring"]["id"] != second["keyring"]["id"],
                    "both have {}",
                    first["keyring"]
                );
                Ok(())
            },
        ),
    ]
}

fn own_program(lab: &Lab) -> Result<()> {
    let before = fs::metadata(&lab.runtime)?.modified()?;
    let mut bundle = lab.bundle()?;
    let trap = bundle.inside("/trap");
    fs::write(&trap, "#!/proc/self/exe --version\n")?;
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755))?;
    bundle.acts(&["create /tmp/ready x", "spy 1500"]);
    let container = lab.start(&bundle)?;
    container.answers_so_far(1)?;
    while_watched(&container, || {
        // Whether the trap can be executed is not the question.
        lab.call(&["exec", &container.id, "/trap"]).map(drop)
    })?;
    container.wait()?;
    nothing_found(&container)?;
    ensure!(
        fs::metadata(&lab.runtime)?.modified()? == before,
        "the runtime's program was written"
    );
    Ok(())
}

/// Again and again while the spy looks, but not for ever on a machine where one call takes seconds.
fn while_watched(container: &Container<'_>, call: impl Fn() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    while !container.has_ended() && begin.elapsed() < CALL_LIMIT {
        call()?;
    }
    Ok(())
}

fn nothing_found(container: &Container<'_>) -> Result<()> {
    let answers = container.answers_so_far(2)?;
    let seen = answers.value(1)?;
    ensure!(
        seen["looked"].as_u64().is_some_and(|count| count > 0),
        "the spy saw no process at all"
    );
    check("what the spy found", &seen["found"], json!([]))
}

fn exec_is_watched(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for set in ["bounding", "effective", "permitted"] {
        if let Some(all) = bundle.config["process"]["capabilities"][set].as_array_mut() {
            all.push(json!("CAP_SYS_PTRACE"));
        }
    }
    bundle.acts(&["create /tmp/ready x", "spy 1500"]);
    let container = lab.start(&bundle)?;
    container.answers_so_far(1)?;
    while_watched(&container, || container.exec(&[], &["cwd"]).map(drop))?;
    container.wait()?;
    nothing_found(&container)
}

/// From a directory of the host all of the host can be reached by its parents.
fn reaches_host(lab: &Lab) -> Result<(String, String)> {
    let canary = lab.path("canary");
    fs::write(&canary, "of the host")?;
    let up = "../".repeat(24);
    let path = canary.to_string_lossy().trim_start_matches('/').to_owned();
    Ok((format!("read {up}{path}"), "of the host".to_owned()))
}

fn working_directory(lab: &Lab) -> Result<()> {
    let (act, content) = reaches_host(lab)?;
    for number in 3..=64 {
        let mut bundle = lab.bundle()?;
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        bundle.acts(&[&act]);
        bundle.write()?;
        let id = lab.new_id();
        let directory = bundle.directory.to_string_lossy().into_owned();
        let ran = lab.call(&["run", "--bundle", &directory, &id])?;
        ensure!(
            !ran.stdout.contains(&content),
            "through descriptor {number} the host was read"
        );
    }
    Ok(())
}

fn working_directory_of_exec(lab: &Lab) -> Result<()> {
    let (act, content) = reaches_host(lab)?;
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    for number in 3..=64 {
        let ran = container.exec(&["--cwd", &format!("/proc/self/fd/{number}")], &[&act])?;
        ensure!(
            !ran.stdout.contains(&content),
            "through descriptor {number} the host was read"
        );
    }
    Ok(())
}

fn mappings(lab: &Lab) -> Result<()> {
    let with = |map: Value| -> Result<()> {
        let mut bundle = lab.bundle()?;
        bundle.user_namespace(730_000)?;
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        lab.refuses(&bundle).map(drop)
    };
    with(json!([{"containerID": 4_294_967_295_u32, "hostID": 0, "size": 4_294_967_295_u32}]))
        .context("an overflow")?;
    with(json!([{"containerID": 0, "hostID": 0, "size": 4_294_967_296_u64}]))
        .context("a size beyond 32 bit")?;
    with(json!([{"containerID": 0, "hostID": -1, "size": 1}])).context("a negative id")?;
    let many: Vec<Value> = (0..20_000)
        .map(|n| json!({"containerID": n, "hostID": n, "size": 1}))
        .collect();
    with(json!(many)).context("more entries than the kernel takes")
}

fn exec_user(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    for (user, uid) in [
        ("1000:", Some(1000)),
        (":5", None),
        ("99999999999", None),
        ("4294967296", None),
        ("-1", None),
        ("nobody-of-that-name", None),
        ("1000:99999999999", None),
        ("1000:x", None),
    ] {
        // A value that begins with a dash has to be given with the flag.
        let ran = container.exec(&[&format!("--user={user}")], &["observe"])?;
        if !ran.succeeded() {
            continue;
        }
        let answers = crate::lab::Answers::parse(&ran.stdout);
        let seen = Observation(answers.value(0)?.clone());
        let uid = uid.with_context(|| format!("--user {user} was accepted, and is {}", seen["uid"]))?;
        check(&format!("the user of --user {user}"), &seen["uid"][1], uid)?;
    }
    Ok(())
}

fn deep_json(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["args"] = json!(["/probe", "exit", "0"]);
    bundle.write()?;
    let file = bundle.directory.join("config.json");
    let plain = fs::read_to_string(&file)?;
    let depth = 200_000;
    let deep = format!("{{\"deep\": {}{},", "[".repeat(depth), "]".repeat(depth));
    let long = format!("{{\"long\": \"{}\",", "x".repeat(8 << 20));
    for text in [deep, long] {
        fs::write(&file, plain.replacen('{', &text, 1))?;
        let id = lab.new_id();
        let ran = lab.call(&["create", "--bundle", &bundle.directory.to_string_lossy(), &id])?;
        lab.call(&["delete", "--force", &id])?;
        ensure!(
            ran.status.code().is_some(),
            "create: {}",
            process::status_text(ran.status)
        );
    }
    Ok(())
}

fn state_directories(lab: &Lab) -> Result<()> {
    let bundle = lab.bundle()?;
    let container = lab.create(&bundle)?;
    let place = lab.path("state").join(&container.id);
    let mode = fs::metadata(&place).with_context(|| format!("the state is not in {}", place.display()))?;
    let bits = mode.permissions().mode() & 0o077;
    ensure!(
        bits & !0o011 == 0,
        "the mode of the state directory is {:o}",
        mode.permissions().mode() & 0o777
    );
    Ok(())
}

fn cgroups_are_read_only(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 50});
    let files: Vec<String> = lab
        .host
        .hierarchies
        .iter()
        .flat_map(|hierarchy| {
            let relative = hierarchy
                .mount_point
                .strip_prefix("/sys/fs/cgroup")
                .unwrap_or(&hierarchy.mount_point);
            let inside = std::path::Path::new("/sys/fs/cgroup").join(relative);
            ["cgroup.procs", "release_agent", "pids.max", "memory.max"]
                .map(|file| inside.join(file).display().to_string())
        })
        .collect();
    let acts: Vec<String> = files.iter().map(|file| format!("write {file} 1")).collect();
    let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
    let answers = lab.probe(&mut bundle, &acts)?;
    for answer in &answers.0 {
        answer.errno()?;
    }
    let refused = answers
        .0
        .iter()
        .filter(|answer| answer.result == Err(nix::errno::Errno::EROFS as i64))
        .count();
    ensure!(
        refused > 0,
        "no file of a cgroup was refused for being read-only: {:?}",
        answers.0
    );
    Ok(())
}

/// A rootless caller owns the cgroups that were handed to it, so that only the mount protects them.
fn cgroups_of_an_owner(lab: &Lab) -> Result<()> {
    const OWNER: u32 = 740_000;
    let mut bundle = lab.bundle()?;
    bundle.user_namespace(OWNER)?;
    bundle.without_namespace("cgroup");
    let name = format!("{}-owned", lab.new_id());
    let mut made = Vec::new();
    let mut acts = Vec::new();
    for hierarchy in &lab.host.hierarchies {
        let directory = hierarchy.mount_point.join(&name);
        fs::create_dir(&directory)?;
        std::os::unix::fs::chown(&directory, Some(OWNER), Some(OWNER))?;
        acts.push(format!("mkdir {}", directory.join("ours").display()));
        made.push(directory);
    }
    // Where the container's view begins elsewhere, its own cgroup is what can be tried.
    let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
    bundle.acts(&acts);
    let answers = lab.answers(&bundle);
    let written: Vec<_> = made
        .iter()
        .filter(|directory| directory.join("ours").exists())
        .collect();
    let seen = format!("{written:?}");
    for directory in made.iter().rev() {
        fs::remove_dir(directory.join("ours")).ok();
        fs::remove_dir(directory)?;
    }
    ensure!(
        seen == "[]",
        "the container has made cgroups of its user's: {seen}"
    );
    // Nor may it have been for want of trying.
    answers.map(drop)
}
