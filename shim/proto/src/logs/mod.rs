//! Where a process's output goes, and how it looks on disk.
//!
//! [`Output`] and [`Input`] are the addresses in the `stdin`, `stdout` and `stderr` fields of the Task calls;
//! [`format`] is how a log looks ([`json_file`], [`local`], [`cri`]), [`records`] reads it, [`rotate`] has its file names.
pub mod cri;
pub mod driver;
pub mod format;
pub mod json_file;
pub mod local;
pub mod records;
pub mod rotate;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Address of an output stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// `` (empty): nobody reads it; it goes to `/dev/null`.
    Null,
    /// `kelson-log:none`: attached clients see it, nothing is kept.
    Attached,
    /// `kelson-log:json-file?path=P&max-size=N&max-file=N&compress=1`: kept in docker's format; attached clients see it too.
    JsonFile(JsonFile),
    /// `kelson-log:local?...` with the same parameters: docker's compact format; rotated files are compressed.
    Local(JsonFile),
    /// `kelson-log:cri?...` with the same parameters: Kubernetes' format.
    Cri(JsonFile),
    /// `kelson-log:driver?...`: carried elsewhere by a program; attached clients see it too.
    Driver(driver::Driver),
    /// `kelson-attach:`: attached clients see it (exec processes).
    Attach,
    /// An absolute path, or `fifo://` and one: a fifo or file that the caller has made.
    Path(PathBuf),
    /// `file://` and an absolute path: appended to; the file and its directory are made if need be.
    File(PathBuf),
    /// `binary://PATH?KEY=VALUE&...`: containerd's logger, a program that reads stdout and stderr.
    Binary(Binary),
}

/// A logger: a program that is run beside a process, and reads its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The program.
    pub path: PathBuf,
    /// Its arguments: each key of the address, and its value.
    pub args: Vec<String>,
    /// Whether it must say that it is ready (`binary-v2://`), and not only close the descriptor.
    pub must_say_ready: bool,
}

/// A log file and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonFile {
    /// The current file; rotated ones lie beside it (see [`rotate`]).
    pub path: PathBuf,
    /// Size in bytes from which the file is rotated; `None` is without limit.
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

/// Address of an input stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `` (empty): the process reads `/dev/null`.
    Null,
    /// `kelson-attach:` or `kelson-attach:?once=1`: attached clients write it. With `once`, the end of one
    /// client's stdin is the end of the process's.
    Attach {
        /// Docker's `StdinOnce`.
        once: bool,
    },
    /// An absolute path: a fifo that the caller has made.
    Path(PathBuf),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, query) = text.split_once('?').unwrap_or((text, ""));
        match head {
            "" => Ok(Self::Null),
            "kelson-log:none" => Ok(Self::Attached),
            "kelson-log:json-file" => json_file_address(query, false).map(Self::JsonFile),
            "kelson-log:local" => json_file_address(query, true).map(Self::Local),
            "kelson-log:cri" => json_file_address(query, false).map(Self::Cri),
            "kelson-log:driver" => driver::Driver::parse(query).map(Self::Driver),
            "kelson-attach:" => Ok(Self::Attach),
            _ if text.starts_with('/') => Ok(Self::Path(PathBuf::from(text))),
            _ => Self::from_url(text),
        }
    }
}

impl Output {
    /// The addresses that containerd writes as URLs.
    fn from_url(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = unescape(path)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let absolute = || path.ok_or_else(|| format!("output address {text:?}: path is not absolute"));
        match scheme {
            "fifo" => absolute().map(Self::Path),
            "file" => absolute().map(Self::File),
            "binary" | "binary-v2" => Ok(Self::Binary(Binary {
                path: absolute()?,
                args: arguments(query).ok_or_else(|| format!("output address {text:?}: bad escape"))?,
                must_say_ready: scheme == "binary-v2",
            })),
            _ => Err(format!("output address {text:?}: unknown scheme")),
        }
    }

    /// Its log file and format, if it names one.
    #[must_use]
    pub fn log(&self) -> Option<(format::Format, &JsonFile)> {
        match self {
            Self::JsonFile(file) => Some((format::Format::JsonFile, file)),
            Self::Local(file) => Some((format::Format::Local, file)),
            Self::Cri(file) => Some((format::Format::Cri, file)),
            Self::Driver(driver) => driver.cache.as_ref().map(|file| (format::Format::Local, file)),
            _ => None,
        }
    }
}

/// `k=v&k2` as `k v k2`.
fn arguments(query: &str) -> Option<Vec<String>> {
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        args.push(unescape(key)?);
        if !value.is_empty() {
            args.push(unescape(&value.replace('+', " "))?);
        }
    }
    Some(args)
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Null),
            "kelson-attach:" | "kelson-attach:?once=0" => Ok(Self::Attach { once: false }),
            "kelson-attach:?once=1" => Ok(Self::Attach { once: true }),
            _ if text.starts_with('/') => Ok(Self::Path(PathBuf::from(text))),
            _ => Err(format!("input address {text:?}: unknown scheme")),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Attached => f.write_str("kelson-log:none"),
            Self::Attach => f.write_str("kelson-attach:"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::JsonFile(file) => write!(f, "kelson-log:json-file?{file}"),
            Self::Local(file) => write!(f, "kelson-log:local?{file}"),
            Self::Cri(file) => write!(f, "kelson-log:cri?{file}"),
            Self::Driver(driver) => write!(f, "kelson-log:driver?{driver}"),
            Self::File(path) => write!(f, "file://{}", Escaped(path)),
            Self::Binary(binary) => {
                let scheme = if binary.must_say_ready {
                    "binary-v2"
                } else {
                    "binary"
                };
                write!(f, "{scheme}://{}", Escaped(&binary.path))?;
                for (n, pair) in binary.args.chunks(2).enumerate() {
                    f.write_str(if n == 0 { "?" } else { "&" })?;
                    write!(f, "{}=", Escaped(Path::new(&pair[0])))?;
                    if let Some(value) = pair.get(1) {
                        write!(f, "{}", Escaped(Path::new(value)))?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for JsonFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path={}", Escaped(&self.path))?;
        if let Some(size) = self.max_size {
            write!(f, "&max-size={size}")?;
        }
        write!(
            f,
            "&max-file={}&compress={}",
            self.max_file,
            u8::from(self.compress)
        )
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Attach { once: false } => f.write_str("kelson-attach:"),
            Self::Attach { once: true } => f.write_str("kelson-attach:?once=1"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `compress`: what counts where the address does not say.
fn json_file_address(query: &str, compress: bool) -> Result<JsonFile, String> {
    let mut file = JsonFile {
        path: PathBuf::new(),
        max_size: None,
        max_file: 1,
        compress,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = || format!("log address: {key}={value}");
        match key {
            "path" => file.path = PathBuf::from(unescape(value).ok_or_else(bad)?),
            // docker's -1 and 0 both mean no limit.
            "max-size" => {
                file.max_size = u64::try_from(value.parse::<i64>().map_err(|_| bad())?)
                    .ok()
                    .filter(|n| *n > 0);
            }
            "max-file" => file.max_file = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?,
            "compress" => file.compress = value == "1",
            // An address written by a newer engine may say more.
            _ => {}
        }
    }
    if !file.path.is_absolute() {
        return Err("log address: path is not absolute".to_owned());
    }
    Ok(file)
}

struct Escaped<'a>(&'a Path);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::fmt::Write;
        for byte in self.0.as_os_str().as_encoded_bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    f.write_char(char::from(*byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let hex = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        let file = JsonFile {
            path: "/a b/&?=%ü.log".into(),
            max_size: Some(10),
            max_file: 3,
            compress: true,
        };
        for output in [
            Output::Null,
            Output::Attached,
            Output::Attach,
            Output::Path("/f".into()),
            Output::JsonFile(file.clone()),
            Output::Local(file.clone()),
            Output::Cri(file.clone()),
            Output::Driver(driver::Driver {
                program: "/bin/l".into(),
                args: vec!["k".into(), "v w/&".into(), String::new()],
                buffer: Some(5),
                cache: Some(file),
            }),
            Output::Driver(driver::Driver {
                program: "/bin/l".into(),
                args: Vec::new(),
                buffer: None,
                cache: None,
            }),
            Output::File("/a b".into()),
            Output::Binary(Binary {
                path: "/bin/l".into(),
                args: vec!["k".into(), "v w/&".into(), "k2".into(), "v2".into()],
                must_say_ready: true,
            }),
        ] {
            assert_eq!(output.to_string().parse(), Ok(output));
        }
        for input in [
            Input::Null,
            Input::Attach { once: true },
            Input::Attach { once: false },
            Input::Path("/f".into()),
        ] {
            assert_eq!(input.to_string().parse(), Ok(input));
        }
    }

    #[test]
    fn defaults_and_refusals() {
        let output: Output = "kelson-log:json-file?path=/l&max-size=-1&later=1"
            .parse()
            .unwrap();
        assert_eq!(
            output,
            Output::JsonFile(JsonFile {
                path: "/l".into(),
                max_size: None,
                max_file: 1,
                compress: false,
            })
        );
        let logger: Output = "binary:///l?a=b+c&flag&x=%2f".parse().unwrap();
        let Output::Binary(logger) = logger else {
            panic!("{logger:?}");
        };
        assert_eq!(logger.args, ["a", "b c", "flag", "x", "/"]);
        assert_eq!("fifo:///f".parse(), Ok(Output::Path("/f".into())));
        for bad in [
            "kelson-log:json-file",
            "kelson-log:json-file?path=l",
            "kelson-log:json-file?path=/l&max-file=0",
            "kelson-log:json-file?path=/%zz",
            "binary://x",
            "file://relative",
            "http:///x",
            "kelson-log:cri",
            "kelson-log:driver",
            "kelson-log:driver?program=l",
            "kelson-log:driver?program=/l&path=l",
            "relative",
        ] {
            assert!(bad.parse::<Output>().is_err(), "{bad}");
        }
    }
}
