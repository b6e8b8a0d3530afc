//! Attacks through names: root file systems with symbolic links where a runtime mounts, makes nodes, masks or writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{Case, case};
use crate::lab::terminal::Terminal;
use crate::lab::{Bundle, Container, Lab, process};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "attacks/paths/dev-is-a-link",
            "a root file system whose /dev leads to the host gets no node there",
            &["CVE-2026-41579", "CVE-2026-47766"],
            dev_is_a_link,
        ),
        case(
            "attacks/paths/null-is-a-link",
            "a /dev/null that is a link is not what a masked path shows",
            &["CVE-2025-31133"],
            null_is_a_link,
        ),
        case(
            "attacks/paths/console-is-a-link",
            "a /dev/console that is a link does not lead the terminal's bind mount to the host",
            &["CVE-2025-52565"],
            console_is_a_link,
        ),
        case(
            "attacks/paths/proc-is-a-link",
            "a root file system whose /proc is a link gets no procfs elsewhere, or is refused",
            &["CVE-2025-52881", "CVE-2019-19921"],
            proc_is_a_link,
        ),
        case(
            "attacks/paths/proc-is-a-tmpfs",
            "with a tmpfs on /proc what is to be written to procfs is written there, or is refused",
            &["CVE-2025-52881", "CVE-2019-16884"],
            proc_is_a_tmpfs,
        ),
        case(
            "attacks/paths/destination-through-a-link",
            "a mount whose destination leads through a link to the host is made inside the container",
            &["CVE-2021-30465", "CVE-2024-45310"],
            |lab| destination(lab, "/link/deep/place"),
        ),
        case(
            "attacks/paths/destination-with-parents",
            "a mount whose destination has many .. is made inside the container",
            &["CVE-2021-30465"],
            |lab| {
                let host = lab.path("host");
                destination(
                    lab,
                    &format!("/../../../../../../../../..{}/deep", host.display()),
                )
            },
        ),
        case(
            "attacks/paths/destination-changes",
            "a destination that is exchanged for a link while containers start leads nothing to the host",
            &["CVE-2021-30465", "CVE-2024-45310"],
            destination_changes,
        ),
        case(
            "attacks/paths/null-changes",
            "a /dev/null that is exchanged for a link while paths are masked opens nothing",
            &["CVE-2025-31133"],
            null_changes,
        ),
        case(
            "attacks/paths/console-changes",
            "a /dev/console that is exchanged for a link while a terminal is bound leads nothing to the host",
            &["CVE-2025-52565"],
            console_changes,
        ),
        case(
            "attacks/paths/proc-changes",
            "a /proc that is exchanged for a link while a container starts gets nothing that was meant for procfs",
            &["CVE-2025-52881", "CVE-2019-19921"],
            proc_changes,
        ),
        case(
            "attacks/paths/working-directory-is-a-link",
            "a cwd that is a link leads to no directory of the host, and none is made there",
            &["CVE-2024-21626"],
            cwd_is_a_link,
        ),
        case(
            "attacks/paths/device-through-a-link",
            "a device whose directory is a link to the host is made inside the container, or refused",
            &["CVE-2026-41579"],
            device_through_a_link,
        ),
        case(
            "attacks/paths/read-only-through-a-link",
            "masked and read-only paths that are links change nothing on the host",
            &["CVE-2023-27561", "CVE-2023-28642"],
            masked_through_a_link,
        ),
    ]
}

/// A directory of the host that must stay as it is: one file and nothing else.
struct Canary(PathBuf);

impl Canary {
    fn make(lab: &Lab) -> Result<Self> {
        let place = lab.path("host");
        fs::create_dir_all(&place)?;
        fs::write(place.join("file"), "of the host")?;
        Ok(Self(place))
    }

    fn lives(&self) -> Result<()> {
        let names: Vec<_> = fs::read_dir(&self.0)?
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        ensure!(names == ["file"], "the host's directory holds {names:?}");
        let text = fs::read_to_string(self.0.join("file"))?;
        ensure!(text == "of the host", "the host's file holds {text:?}");
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let place = format!(" {}", self.0.display());
        ensure!(
            !table.lines().any(|line| line.contains(&place)),
            "something is mounted on the host's directory"
        );
        Ok(())
    }
}

/// Runs to the end if the runtime lets it, and deletes: a refusal is as good.
fn attempt(lab: &Lab, bundle: &Bundle) -> Result<Option<crate::lab::Answers>> {
    bundle.write()?;
    let id = lab.new_id();
    let directory = bundle.directory.to_string_lossy().into_owned();
    let ran = lab.call(&["run", "--bundle", &directory, &id])?;
    lab.call(&["delete", "--force", &id])?;
    ensure!(
        ran.status.code().is_some(),
        "run: {}",
        process::status_text(ran.status)
    );
    Ok(ran.succeeded().then(|| crate::lab::Answers::parse(&ran.stdout)))
}

fn dev_is_a_link(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    for with_mount in [false, true] {
        let mut bundle = lab.bundle()?;
        fs::remove_dir(bundle.inside("/dev"))?;
        symlink(&canary.0, bundle.inside("/dev"))?;
        if !with_mount {
            for point in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                bundle.without_mount(point);
            }
        }
        bundle.config["linux"]["devices"] =
            json!([{"path": "/dev/ours", "type": "c", "major": 1, "minor": 3}]);
        bundle.acts(&["cwd"]);
        attempt(lab, &bundle)?;
        canary.lives()?;
    }
    Ok(())
}

fn null_is_a_link(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for point in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(point);
    }
    fs::write(bundle.inside("/trap"), "shown through the mask")?;
    fs::write(bundle.inside("/etc/secret"), "secret")?;
    symlink("/trap", bundle.inside("/dev/null"))?;
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    bundle.acts(&["read /etc/secret"]);
    if let Some(answers) = attempt(lab, &bundle)?
        && let Ok(text) = answers.value(0)
    {
        ensure!(text == "", "the masked file shows {text}");
    }
    Ok(())
}

fn console_is_a_link(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    for point in ["/dev", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(point);
    }
    symlink(canary.0.join("file"), bundle.inside("/dev/console"))?;
    bundle.config["process"]["terminal"] = json!(true);
    bundle.acts(&["stat /dev/pts/0"]);
    let terminal = Terminal::open(lab, "console")?;
    let Ok(container) = Container::create(lab, &bundle, &["--console-socket", &terminal.socket()]) else {
        return canary.lives();
    };
    container.start()?;
    terminal.answers(1)?.all_done()?;
    canary.lives()
}

fn proc_is_a_link(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::remove_dir(bundle.inside("/proc"))?;
    symlink("/data", bundle.inside("/proc"))?;
    bundle.config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1234"});
    bundle.acts(&["stat /data/self", "readlink /proc"]);
    // Where it is accepted, nothing of the root file system may have been written in procfs's stead.
    attempt(lab, &bundle)?;
    let left: Vec<_> = fs::read_dir(bundle.inside("/data"))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(left.is_empty(), "in the root file system there are {left:?}");
    Ok(())
}

fn proc_is_a_tmpfs(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.without_mount("/proc");
    bundle.mount(json!({"destination": "/proc", "type": "tmpfs", "source": "fake"}));
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    bundle.config["process"]["oomScoreAdj"] = json!(123);
    bundle.acts(&["stay"]);
    let Ok(container) = lab.create(&bundle) else {
        return Ok(());
    };
    if !container.call("start", &[])?.succeeded() {
        return Ok(());
    }
    let score = container.proc("oom_score_adj")?;
    ensure!(score == "123", "it runs, and its oom_score_adj is {score}");
    Ok(())
}

fn destination(lab: &Lab, place: &str) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    symlink(&canary.0, bundle.inside("/link"))?;
    bundle.mount(json!({"destination": place, "type": "tmpfs", "source": "t"}));
    bundle.acts(&["cwd"]);
    attempt(lab, &bundle)?;
    canary.lives()
}

fn destination_changes(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let volume = lab.path("volume");
    fs::create_dir_all(volume.join("place"))?;
    symlink(&canary.0, volume.join("link"))?;
    let swap = format!(
        "swap {} {} 20000",
        volume.join("place").display(),
        volume.join("link").display()
    );
    let _swapping = lab.helper(&[&swap])?;
    for _ in 0..lab.races {
        let mut bundle = lab.bundle()?;
        bundle.mount(json!({"destination": "/data", "source": volume, "options": ["rbind", "rw"]}));
        bundle.mount(json!({"destination": "/data/place/deep", "type": "tmpfs", "source": "t"}));
        bundle.acts(&["cwd"]);
        attempt(lab, &bundle)?;
        canary.lives()?;
    }
    Ok(())
}

/// Exchanges two names of the host again and again until it is dropped.
fn swapping(lab: &Lab, a: &Path, b: &Path) -> Result<process::Helper> {
    lab.helper(&[&format!("swap {} {} 60000", a.display(), b.display())])
}

fn null_changes(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    for point in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(point);
    }
    fs::write(bundle.inside("/trap"), "shown through the mask")?;
    fs::write(bundle.inside("/etc/secret"), "secret")?;
    lab.on_host(&[&format!("mknod {} c 1 3", bundle.inside("/dev/null").display())])?
        .all_done()?;
    symlink("/trap", bundle.inside("/dev/link"))?;
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    bundle.acts(&["read /etc/secret", "write /etc/secret x"]);
    let _swapping = swapping(lab, &bundle.inside("/dev/null"), &bundle.inside("/dev/link"))?;
    for _ in 0..lab.races {
        if let Some(answers) = attempt(lab, &bundle)?
            && let Ok(text) = answers.value(0)
        {
            ensure!(text == "", "the masked file shows {text}");
        }
        let trap = fs::read_to_string(bundle.inside("/trap"))?;
        // Its own output may have gone there: some runtimes open the container's /dev/null as a standard stream.
        ensure!(
            !trap.starts_with('x'),
            "a write to the masked file went to the trap: {trap:?}"
        );
    }
    Ok(())
}

fn console_changes(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    for point in ["/dev", "/dev/shm", "/dev/mqueue"] {
        bundle.without_mount(point);
    }
    fs::write(bundle.inside("/dev/console"), "")?;
    symlink(canary.0.join("file"), bundle.inside("/dev/link"))?;
    bundle.config["process"]["terminal"] = json!(true);
    bundle.acts(&["cwd"]);
    bundle.write()?;
    let _swapping = swapping(lab, &bundle.inside("/dev/console"), &bundle.inside("/dev/link"))?;
    let directory = bundle.directory.to_string_lossy().into_owned();
    for n in 0..lab.races {
        let terminal = Terminal::open(lab, &format!("console{n}"))?;
        let id = lab.new_id();
        let created = lab.call(&[
            "create",
            "--bundle",
            &directory,
            "--console-socket",
            &terminal.socket(),
            &id,
        ])?;
        ensure!(
            created.status.code().is_some(),
            "create: {}",
            process::status_text(created.status)
        );
        canary.lives()?;
        lab.call(&["delete", "--force", &id])?;
    }
    canary.lives()
}

fn proc_changes(lab: &Lab) -> Result<()> {
    const FAKES: [&str; 3] = ["sys/net/core/somaxconn", "self/oom_score_adj", "self/attr/exec"];
    let mut bundle = lab.bundle()?;
    let fake = bundle.inside("/data");
    for name in FAKES {
        let file = fake.join(name);
        fs::create_dir_all(file.parent().context("a file without a directory")?)?;
        fs::write(file, "fake")?;
    }
    symlink("/data", bundle.inside("/link"))?;
    bundle.config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1234"});
    bundle.config["process"]["oomScoreAdj"] = json!(123);
    bundle.acts(&["read /proc/self/oom_score_adj"]);
    let _swapping = swapping(lab, &bundle.inside("/proc"), &bundle.inside("/link"))?;
    for _ in 0..lab.races {
        // A refusal is as good.
        attempt(lab, &bundle)?;
        for name in FAKES {
            let text = fs::read_to_string(fake.join(name))?;
            ensure!(text == "fake", "{name} of the image was written: {text:?}");
        }
    }
    Ok(())
}

fn cwd_is_a_link(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    symlink(&canary.0, bundle.inside("/link"))?;
    for cwd in ["/link/new", "/link"] {
        bundle.config["process"]["cwd"] = json!(cwd);
        bundle.acts(&["list ."]);
        if let Some(answers) = attempt(lab, &bundle)?
            && let Ok(names) = answers.value(0)
        {
            ensure!(
                !names.to_string().contains("\"file\""),
                "the working directory holds {names}"
            );
        }
        canary.lives()?;
    }
    Ok(())
}

fn device_through_a_link(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    symlink(&canary.0, bundle.inside("/link"))?;
    bundle.config["linux"]["devices"] = json!([{"path": "/link/node", "type": "c", "major": 1, "minor": 3}]);
    bundle.acts(&["cwd"]);
    attempt(lab, &bundle)?;
    canary.lives()
}

fn masked_through_a_link(lab: &Lab) -> Result<()> {
    let canary = Canary::make(lab)?;
    let mut bundle = lab.bundle()?;
    symlink(&canary.0, bundle.inside("/link"))?;
    bundle.config["linux"]["maskedPaths"] = json!(["/link", "/link/file"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/link"]);
    bundle.acts(&["cwd"]);
    attempt(lab, &bundle)?;
    canary.lives()?;
    // And it can still be written from outside.
    fs::write(canary.0.join("file"), "of the host").context("the host's file became read-only")
}
