use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt;
use kelson_shim_proto::logs::json_file;
use kelson_shim_proto::time::Time;

use super::*;
use crate::containers::record::{Record, State, Status};

fn container(dir: &std::path::Path, status: Status) -> Arc<Container> {
    let record = Record {
        format: 1,
        id: "c".repeat(64),
        name: "c".into(),
        created: String::new(),
        image: String::new(),
        image_id: String::new(),
        path: String::new(),
        args: vec![],
        config: Default::default(),
        host: Default::default(),
        networks: Default::default(),
        mounts: vec![],
        runtime: String::new(),
        unknown: Default::default(),
    };
    Arc::new(Container::new(
        record,
        State {
            status,
            ..State::default()
        },
        dir.to_owned(),
    ))
}

fn append(path: &std::path::Path, numbers: std::ops::Range<i64>) {
    let mut out = Vec::new();
    for n in numbers {
        let source = if n % 2 == 0 {
            Source::Stdout
        } else {
            Source::Stderr
        };
        json_file::write(
            &mut out,
            format!("line {n}\n").as_bytes(),
            source,
            Time { secs: n, nanos: 0 },
        );
    }
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap()
        .write_all(&out)
        .unwrap();
}

fn both() -> LogOptions {
    LogOptions {
        stdout: true,
        stderr: true,
        ..LogOptions::default()
    }
}

async fn read(
    container: &Arc<Container>,
    path: &std::path::Path,
    max_file: u32,
    options: LogOptions,
) -> Vec<String> {
    let frames = stream(container.clone(), path.to_owned(), max_file, options);
    frames
        .map(|f| {
            String::from_utf8(f.unwrap().data.to_vec())
                .unwrap()
                .trim_end()
                .to_owned()
        })
        .collect()
        .await
}

#[tokio::test]
async fn the_last_lines_across_rotated_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let c = container(dir.path(), Status::Exited);
    assert!(read(&c, &path, 3, both()).await.is_empty());
    append(&rotate::name(&path, 2), 0..5000);
    append(&rotate::name(&path, 1), 5000..5010);
    append(&path, 5010..5013);
    assert_eq!(read(&c, &path, 3, both()).await.len(), 5013);
    for (tail, first) in [
        (0, None),
        (1, Some(5012)),
        (3, Some(5010)),
        (4, Some(5009)),
        (14, Some(4999)),
        (9999, Some(0)),
    ] {
        let lines = read(
            &c,
            &path,
            3,
            LogOptions {
                tail: Some(tail),
                ..both()
            },
        )
        .await;
        assert_eq!(
            lines.first().cloned(),
            first.map(|n| format!("line {n}")),
            "tail {tail}"
        );
        assert_eq!(lines.len() as u64, tail.min(5013));
    }
}

#[tokio::test]
async fn streams_times_and_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let c = container(dir.path(), Status::Exited);
    append(&path, 0..4);
    std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"{\"log\":\"torn\n")
        .unwrap();
    append(&path, 4..6);
    assert_eq!(read(&c, &path, 1, both()).await.len(), 6);
    let errors = read(
        &c,
        &path,
        1,
        LogOptions {
            stderr: true,
            ..LogOptions::default()
        },
    )
    .await;
    assert_eq!(errors, ["line 1", "line 3", "line 5"]);
    let second = 1_000_000_000;
    let some = LogOptions {
        since: Some(2 * second),
        until: Some(4 * second),
        timestamps: true,
        ..both()
    };
    let lines = read(&c, &path, 1, some).await;
    assert_eq!(lines[0], "1970-01-01T00:00:02.000000000Z line 2");
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn following_goes_across_rotations_and_ends_with_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let c = container(dir.path(), Status::Running);
    append(&path, 0..10);
    let mut frames = stream(
        c.clone(),
        path.clone(),
        2,
        LogOptions {
            follow: true,
            ..both()
        },
    );
    let mut next = 0;
    for round in 1..30i64 {
        while next < round * 10 {
            let frame = tokio::time::timeout(Duration::from_secs(10), frames.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(frame.data, format!("line {next}\n"));
            next += 1;
        }
        if round % 3 == 0 {
            std::fs::rename(&path, rotate::name(&path, 1)).unwrap();
        }
        append(&path, round * 10..round * 10 + 10);
    }
    // The last lines are written, and the end is told, at the same moment.
    c.end_run(|s| s.status = Status::Exited);
    let rest = tokio::time::timeout(Duration::from_secs(10), frames.count())
        .await
        .unwrap();
    assert_eq!(next + i64::try_from(rest).unwrap(), 300);
}

#[tokio::test]
async fn following_waits_for_the_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let c = container(dir.path(), Status::Running);
    let mut frames = stream(
        c.clone(),
        path.clone(),
        1,
        LogOptions {
            follow: true,
            ..both()
        },
    );
    append(&path, 7..8);
    let first = tokio::time::timeout(Duration::from_secs(10), frames.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(first.data, "line 7\n");
    c.mark_removed(None);
    assert!(
        tokio::time::timeout(Duration::from_secs(10), frames.next())
            .await
            .unwrap()
            .is_none()
    );
}
