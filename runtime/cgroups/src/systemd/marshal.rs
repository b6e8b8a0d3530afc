//! D-Bus values and messages as bytes (D-Bus specification, "Marshaling (Wire Format)"), as far as talking to systemd
//! takes them: little endian out, both orders in. No I/O.

use crate::error::{Error, Kind, Result};

/// A value of any type that systemd's properties and methods use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Byte(u8),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Path(String),
    /// The elements' signature, as an empty array has one, too.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub(crate) fn bytes(bytes: impl IntoIterator<Item = u8>) -> Self {
        Self::Array("y".to_owned(), bytes.into_iter().map(Self::Byte).collect())
    }

    pub(crate) fn strings<S: Into<String>>(list: impl IntoIterator<Item = S>) -> Self {
        Self::Array("s".to_owned(), list.into_iter().map(Self::str).collect())
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) | Self::Path(s) => Some(s),
            Self::Variant(v) => v.as_str(),
            _ => None,
        }
    }

    pub(crate) fn signature(&self) -> String {
        match self {
            Self::Bool(_) => "b".to_owned(),
            Self::Byte(_) => "y".to_owned(),
            Self::I32(_) => "i".to_owned(),
            Self::U32(_) => "u".to_owned(),
            Self::I64(_) => "x".to_owned(),
            Self::U64(_) => "t".to_owned(),
            Self::F64(_) => "d".to_owned(),
            Self::Str(_) => "s".to_owned(),
            Self::Path(_) => "o".to_owned(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => {
                let inner: String = fields.iter().map(Self::signature).collect();
                format!("({inner})")
            }
            Self::Variant(_) => "v".to_owned(),
        }
    }
}

/// The boundary at which a type begins.
fn alignment(first: u8) -> usize {
    match first {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Lengths are bounded by what is sent: a few kilobytes.
fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// Appends a value; `out` begins at a multiple of 8 in the message.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(b) => write(out, &Value::U32(u32::from(*b))),
        Value::Byte(b) => out.push(*b),
        Value::I32(n) => write(out, &Value::U32(n.cast_unsigned())),
        Value::U32(n) => {
            pad(out, 4);
            out.extend(n.to_le_bytes());
        }
        Value::I64(n) => write(out, &Value::U64(n.cast_unsigned())),
        Value::F64(n) => write(out, &Value::U64(n.to_bits())),
        Value::U64(n) => {
            pad(out, 8);
            out.extend(n.to_le_bytes());
        }
        Value::Str(s) | Value::Path(s) => {
            pad(out, 4);
            out.extend(length(s.len()));
            out.extend(s.as_bytes());
            out.push(0);
        }
        Value::Array(element, values) => {
            pad(out, 4);
            let at = out.len();
            out.extend([0; 4]);
            // The padding before the first element does not count, and is there without one, too.
            pad(out, alignment(element.bytes().next().unwrap_or(b'y')));
            let start = out.len();
            for v in values {
                write(out, v);
            }
            let len = length(out.len() - start);
            out[at..at + 4].copy_from_slice(&len);
        }
        Value::Struct(fields) => {
            pad(out, 8);
            for f in fields {
                write(out, f);
            }
        }
        Value::Variant(inner) => {
            write_signature(out, &inner.signature());
            write(out, inner);
        }
    }
}

fn write_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    out.extend(signature.as_bytes());
    out.push(0);
}

/// A method to call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// `None` on a connection without a bus between.
    pub destination: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub args: &'a [Value],
    /// Whether the answer is of interest.
    pub reply: bool,
}

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY: u8 = 1;

/// The call as a whole message.
pub(crate) fn call(serial: u32, call: Call<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for v in call.args {
        write(&mut body, v);
    }
    let signature: String = call.args.iter().map(Value::signature).collect();
    let mut out = vec![b'l', CALL, if call.reply { 0 } else { NO_REPLY }, 1];
    out.extend(length(body.len()));
    out.extend(serial.to_le_bytes());
    let at = out.len();
    out.extend([0; 4]);
    pad(&mut out, 8);
    let start = out.len();
    let text = |out: &mut Vec<u8>, code: u8, value: Value| {
        pad(out, 8);
        out.push(code);
        write(out, &Value::Variant(Box::new(value)));
    };
    text(&mut out, 1, Value::Path(call.path.to_owned()));
    text(&mut out, 3, Value::str(call.member));
    text(&mut out, 2, Value::str(call.interface));
    if let Some(destination) = call.destination {
        text(&mut out, 6, Value::str(destination));
    }
    if !signature.is_empty() {
        pad(&mut out, 8);
        out.push(8);
        write_signature(&mut out, "g");
        write_signature(&mut out, &signature);
    }
    let len = length(out.len() - start);
    out[at..at + 4].copy_from_slice(&len);
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// A message that came in, as far as anybody here looks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// The answer to a call.
    Return {
        to: u32,
        args: Vec<Value>,
    },
    /// The refusal of a call: a name, and a sentence.
    Refusal {
        to: u32,
        name: String,
        text: String,
    },
    Signal {
        member: String,
        args: Vec<Value>,
    },
    /// A call to us; nobody has reason to.
    Other,
}

/// Larger messages are refused: what systemd tells us has some hundred bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Bytes from which the length of the whole message can be told.
pub(crate) const PREFIX: usize = 16;
const MAX_DEPTH: usize = 32;

fn broken(why: &str) -> Error {
    Error::new(Kind::Internal, format!("broken D-Bus message: {why}"))
}

/// How long the message is that begins with these 16 bytes.
pub(crate) fn total(prefix: &[u8; PREFIX]) -> Result<usize> {
    let mut r = Reader::new(prefix)?;
    r.at = 4;
    let body = r.u32()? as usize;
    r.at = 12;
    let fields = r.u32()? as usize;
    let all = (PREFIX + fields)
        .checked_next_multiple_of(8)
        .and_then(|n| n.checked_add(body));
    all.filter(|n| *n <= MAX_MESSAGE)
        .ok_or_else(|| broken("too long"))
}

/// Takes a whole message apart.
pub(crate) fn parse(message: &[u8]) -> Result<Incoming> {
    let mut r = Reader::new(message)?;
    let kind = *message.get(1).ok_or_else(|| broken("too short"))?;
    r.at = 12;
    let Value::Array(_, fields) = r.value(b"a(yv)", 0)?.0 else {
        return Err(broken("no header"));
    };
    let mut to = 0;
    let (mut member, mut name, mut signature) = (String::new(), String::new(), String::new());
    for field in fields {
        let Value::Struct(pair) = field else { continue };
        let [Value::Byte(code), Value::Variant(value)] = &pair[..] else {
            continue;
        };
        match (code, &**value) {
            (3, Value::Str(s)) => member.clone_from(s),
            (4, Value::Str(s)) => name.clone_from(s),
            (5, Value::U32(n)) => to = *n,
            (8, Value::Str(s)) => signature.clone_from(s),
            _ => {}
        }
    }
    r.align(8)?;
    let mut args = Vec::new();
    let mut rest = signature.as_bytes();
    while !rest.is_empty() {
        let (value, used) = r.value(rest, 0)?;
        args.push(value);
        rest = &rest[used..];
    }
    Ok(match kind {
        RETURN => Incoming::Return { to, args },
        ERROR => Incoming::Refusal {
            to,
            name,
            text: args
                .first()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        },
        SIGNAL => Incoming::Signal { member, args },
        _ => Incoming::Other,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let big = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(broken("no byte order")),
        };
        Ok(Self { bytes, at: 0, big })
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self
            .at
            .checked_add(n)
            .ok_or_else(|| broken("a length beyond its end"))?;
        let part = self
            .bytes
            .get(self.at..end)
            .ok_or_else(|| broken("a length beyond its end"))?;
        self.at = end;
        Ok(part)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        let n = self.at.next_multiple_of(to) - self.at;
        self.take(n).map(drop)
    }

    fn u32(&mut self) -> Result<u32> {
        self.align(4)?;
        let mut raw = [0; 4];
        raw.copy_from_slice(self.take(4)?);
        Ok(if self.big {
            u32::from_be_bytes(raw)
        } else {
            u32::from_le_bytes(raw)
        })
    }

    fn u64(&mut self) -> Result<u64> {
        self.align(8)?;
        let mut raw = [0; 8];
        raw.copy_from_slice(self.take(8)?);
        Ok(if self.big {
            u64::from_be_bytes(raw)
        } else {
            u64::from_le_bytes(raw)
        })
    }

    fn text(&mut self, len: usize) -> Result<String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| broken("a string that is not UTF-8"))?;
        self.take(1)?;
        Ok(text.to_owned())
    }

    /// The value of the first type in `signature`, and how many of its bytes that type takes.
    fn value(&mut self, signature: &[u8], depth: usize) -> Result<(Value, usize)> {
        if depth > MAX_DEPTH {
            return Err(broken("nested too deeply"));
        }
        let first = *signature.first().ok_or_else(|| broken("a type is missing"))?;
        let value = match first {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            b'n' | b'q' => {
                self.align(2)?;
                let raw = self.take(2)?;
                let n = u16::from_le_bytes([raw[0], raw[1]]);
                Value::U32(u32::from(if self.big { n.swap_bytes() } else { n }))
            }
            b'i' => Value::I32(self.u32()?.cast_signed()),
            b'u' | b'h' => Value::U32(self.u32()?),
            b'x' => Value::I64(self.u64()?.cast_signed()),
            b't' => Value::U64(self.u64()?),
            b'd' => Value::F64(f64::from_bits(self.u64()?)),
            b's' | b'o' => {
                let len = self.u32()? as usize;
                let text = self.text(len)?;
                if first == b's' {
                    Value::Str(text)
                } else {
                    Value::Path(text)
                }
            }
            b'g' => {
                let len = usize::from(self.take(1)?[0]);
                Value::Str(self.text(len)?)
            }
            b'v' => {
                let len = usize::from(self.take(1)?[0]);
                let inner = self.text(len)?;
                Value::Variant(Box::new(self.value(inner.as_bytes(), depth + 1)?.0))
            }
            b'a' => return self.array(signature, depth),
            b'(' | b'{' => return self.structure(signature, depth),
            _ => return Err(broken("an unknown type")),
        };
        Ok((value, 1))
    }

    fn array(&mut self, signature: &[u8], depth: usize) -> Result<(Value, usize)> {
        let element = &signature[1..];
        let used = one_type(element, depth)?;
        let len = self.u32()? as usize;
        self.align(alignment(element[0]))?;
        let end = self
            .at
            .checked_add(len)
            .filter(|e| *e <= self.bytes.len())
            .ok_or_else(|| broken("an array beyond its end"))?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth + 1)?.0);
        }
        let name = String::from_utf8_lossy(&element[..used]).into_owned();
        Ok((Value::Array(name, values), 1 + used))
    }

    fn structure(&mut self, signature: &[u8], depth: usize) -> Result<(Value, usize)> {
        let used = one_type(signature, depth)?;
        self.align(8)?;
        let mut fields = Vec::new();
        let mut rest = &signature[1..used - 1];
        while !rest.is_empty() {
            let (value, n) = self.value(rest, depth + 1)?;
            fields.push(value);
            rest = &rest[n..];
        }
        Ok((Value::Struct(fields), used))
    }
}

/// How many bytes the first type of a signature takes.
fn one_type(signature: &[u8], depth: usize) -> Result<usize> {
    if depth > MAX_DEPTH {
        return Err(broken("nested too deeply"));
    }
    match signature.first() {
        None => Err(broken("a type is missing")),
        Some(b'a') => Ok(1 + one_type(&signature[1..], depth + 1)?),
        Some(b'(' | b'{') => {
            let mut at = 1;
            loop {
                match signature.get(at) {
                    None => return Err(broken("an open structure")),
                    Some(b')' | b'}') => return Ok(at + 1),
                    Some(_) => at += one_type(&signature[at..], depth + 1)?,
                }
            }
        }
        Some(_) => Ok(1),
    }
}

#[cfg(test)]
mod tests;
