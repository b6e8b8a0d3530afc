use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt;
use kelson_shim_proto::logs::format::{Format, Stamp};
use kelson_shim_proto::logs::rotate;

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
    append_as(Format::JsonFile, path, numbers);
}

fn append_as(format: Format, path: &std::path::Path, numbers: std::ops::Range<i64>) {
    let mut out = Vec::new();
    for n in numbers {
        let source = if n % 2 == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let stamp = Stamp::new(format, Time { secs: n, nanos: 0 });
        format.write(&mut out, format!("line {n}\n").as_bytes(), source, &stamp, false);
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

fn source(path: &std::path::Path, max_file: u32) -> Source {
    Source {
        format: Format::JsonFile,
        path: path.to_owned(),
        max_file,
    }
}

async fn read(
    container: &Arc<Container>,
    path: &std::path::Path,
    max_file: u32,
    options: LogOptions,
) -> Vec<String> {
    read_source(container, source(path, max_file), options).await
}

async fn read_source(container: &Arc<Container>, source: Source, options: LogOptions) -> Vec<String> {
    let frames = stream(container.clone(), source, options);
    let text: Vec<String> = frames
        .map(|f| String::from_utf8(f.unwrap().data.to_vec()).unwrap())
        .collect()
        .await;
    text.concat().lines().map(str::to_owned).collect()
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
        source(&path, 2),
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
            for line in std::str::from_utf8(&frame.data).unwrap().lines() {
                assert_eq!(line, format!("line {next}"));
                next += 1;
            }
        }
        if round % 3 == 0 {
            std::fs::rename(&path, rotate::name(&path, 1)).unwrap();
        }
        append(&path, round * 10..round * 10 + 10);
    }
    // The last lines are written, and the end is told, at the same moment.
    c.end_run(|s| s.status = Status::Exited);
    let rest = frames.map(|f| f.unwrap().data.iter().filter(|b| **b == b'\n').count());
    let rest: Vec<usize> = tokio::time::timeout(Duration::from_secs(10), rest.collect())
        .await
        .unwrap();
    let rest: usize = rest.into_iter().sum();
    assert_eq!(next + i64::try_from(rest).unwrap(), 300);
}

#[tokio::test]
async fn following_waits_for_the_first_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let c = container(dir.path(), Status::Running);
    let mut frames = stream(
        c.clone(),
        source(&path, 1),
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

#[tokio::test]
async fn every_format_compressed_or_not() {
    for format in [Format::JsonFile, Format::Local, Format::Cri] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let c = container(dir.path(), Status::Exited);
        append_as(format, &rotate::name(&path, 1), 0..30_000);
        append_as(format, &path, 30_000..60_000);
        let plain = rotate::name(&path, 1);
        let packed = std::fs::File::create(rotate::compressed(&plain)).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        encoder.write_all(&std::fs::read(&plain).unwrap()).unwrap();
        encoder.finish().unwrap();
        std::fs::remove_file(plain).unwrap();
        let source = Source {
            format,
            path: path.clone(),
            max_file: 3,
        };
        for (tail, since, first) in [
            (None, None, 0),
            (Some(1), None, 59_999),
            (Some(29_999), None, 30_001),
            (Some(30_001), None, 29_999),
            (Some(59_999), None, 1),
            (None, Some(17), 17),
            (None, Some(29_999), 29_999),
            (None, Some(30_000), 30_000),
            (None, Some(45_678), 45_678),
            (None, Some(59_999), 59_999),
        ] {
            let options = LogOptions {
                tail,
                since: since.map(|secs: Nanos| secs * 1_000_000_000),
                ..both()
            };
            let lines = read_source(&c, source.clone(), options).await;
            assert_eq!(lines.len(), 60_000 - first, "{format:?} {tail:?} {since:?}");
            assert_eq!(lines[0], format!("line {first}"));
        }
    }
}

#[tokio::test]
async fn a_file_that_is_compressed_while_it_is_read_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&rotate::name(&path, 2), 0..5);
    append(&rotate::name(&path, 1), 5..10);
    append(&path, 10..15);
    let mut reader = Reader::new(source(&path, 4), both());
    let mut frames = Vec::new();
    while reader.step(&mut frames).unwrap() {}
    // Rotated twice, and compressed each time.
    for back in (0..3).rev() {
        std::fs::rename(rotate::name(&path, back), rotate::name(&path, back + 1)).unwrap();
    }
    let plain = rotate::name(&path, 1);
    let packed = std::fs::File::create(rotate::compressed(&plain)).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    encoder.write_all(&std::fs::read(&plain).unwrap()).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(plain).unwrap();
    append(&path, 15..20);
    while reader.step(&mut frames).unwrap() {}
    let text: Vec<u8> = frames.iter().flat_map(|f| f.data.to_vec()).collect();
    let lines: Vec<String> = String::from_utf8(text)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let expected: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
}
