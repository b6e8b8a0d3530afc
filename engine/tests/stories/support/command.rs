//! Running a program with a deadline.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

/// No command of the stories takes longer, but for those that get a limit of their own.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// 128 plus the signal for a killed one.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The output, without the last line's end; fails unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}: {self:#?}", self.line);
        self.stdout.trim_end().to_owned()
    }

    /// The error text; fails unless the exit code is `code`.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}: {self:#?}", self.line);
        self.stderr.trim_end().to_owned()
    }
}

/// Runs to the end, without input.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Outcome {
    run_on(command, Stdio::null(), limit)
}

/// Runs to the end, with `text` and its end as input.
#[track_caller]
pub fn feed(command: &mut Command, text: &str) -> Outcome {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Short enough for the pipe to hold it.
    writer.write_all(text.as_bytes()).unwrap();
    drop(writer);
    run_on(command, Stdio::from(reader), LIMIT)
}

/// Runs to the end on an input of the caller's.
#[track_caller]
pub fn run_on(command: &mut Command, stdin: Stdio, limit: Duration) -> Outcome {
    let line = format!("{command:?}");
    let child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{line}: {error}"));
    let read = |mut stream: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).ok();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let status = eventually(&line, limit, || Ok(child.try_wait()?));
    if status.is_err() {
        child.kill().ok();
        child.wait().ok();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = status.unwrap_or_else(|error| panic!("{error:#}\nstdout: {stdout}\nstderr: {stderr}"));
    Outcome {
        line,
        code: code_of(status),
        stdout,
        stderr,
    }
}

/// As a shell gives it.
pub fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
