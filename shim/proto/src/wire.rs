//! Protobuf's wire format, for messages that are only written or of which a few fields are read. Generated code
//! would cost every shim more memory than the whole of this, as text.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

/// Writes one message. Fields at their default are left out, as proto3 has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// The message's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
    }

    /// A number without its field, as packed repeated fields hold them.
    pub fn varint_alone(&mut self, value: u64) {
        self.varint(value);
    }

    fn tag(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// A number or a bool.
    pub fn uint(&mut self, field: u32, value: impl Into<u64>) -> &mut Self {
        let value = value.into();
        if value != 0 {
            self.tag(field, 0);
            self.varint(value);
        }
        self
    }

    /// A signed number of the plain kinds (`int32`, `int64`).
    pub fn int(&mut self, field: u32, value: i64) -> &mut Self {
        self.uint(field, value.cast_unsigned())
    }

    /// A `double`.
    pub fn double(&mut self, field: u32, value: f64) -> &mut Self {
        if value != 0.0 {
            self.tag(field, 1);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// A string or bytes.
    pub fn bytes(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Self {
        match value.as_ref() {
            [] => self,
            value => self.element(field, value),
        }
    }

    /// A string or bytes of a repeated field, or a message that is there: written even when empty.
    pub fn element(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
        self
    }

    /// A message inside this one.
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.element(field, inner.out)
    }

    /// A `google.protobuf.Any`.
    pub fn any(&mut self, field: u32, type_url: &str, value: &[u8]) -> &mut Self {
        self.message(field, |any| {
            any.bytes(1, type_url).bytes(2, value);
        })
    }

    /// A `google.protobuf.Timestamp`.
    pub fn time(&mut self, field: u32, at: crate::time::Time) -> &mut Self {
        self.message(field, |time| {
            time.int(1, at.secs).uint(2, at.nanos);
        })
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number or bool.
    Number(u64),
    /// A string, bytes or message.
    Bytes(&'a [u8]),
    /// A kind that no message here has.
    Other,
}

impl<'a> Value<'a> {
    /// The number; 0 for anything else.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            _ => 0,
        }
    }

    /// The number as 32 bits, which is how protobuf reads a longer one.
    #[must_use]
    pub fn number32(self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// The bytes; none for anything else.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// The string; what is not UTF-8 in it is replaced.
    #[must_use]
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Reads a message field by field.
///
/// # Errors
/// Bytes that are no message; fields before the fault were handed out.
pub fn read<'a>(mut bytes: &'a [u8], mut field: impl FnMut(u32, Value<'a>)) -> Result<(), String> {
    let broken = || "not a protobuf message".to_owned();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes).ok_or_else(broken)?;
        let number = u32::try_from(tag >> 3).map_err(|_| broken())?;
        if number == 0 {
            return Err(broken());
        }
        let value = match tag & 7 {
            0 => Value::Number(take_varint(&mut bytes).ok_or_else(broken)?),
            1 => {
                bytes = bytes.get(8..).ok_or_else(broken)?;
                Value::Other
            }
            2 => {
                let len = take_varint(&mut bytes).and_then(|len| usize::try_from(len).ok());
                let (value, rest) = len
                    .and_then(|len| bytes.split_at_checked(len))
                    .ok_or_else(broken)?;
                bytes = rest;
                Value::Bytes(value)
            }
            5 => {
                bytes = bytes.get(4..).ok_or_else(broken)?;
                Value::Other
            }
            _ => return Err(broken()),
        };
        field(number, value);
    }
    Ok(())
}

/// Reads a `google.protobuf.Any`: its type and its value.
///
/// # Errors
/// Bytes that are no message.
pub fn read_any(bytes: &[u8]) -> Result<(String, Vec<u8>), String> {
    let mut any = (String::new(), Vec::new());
    read(bytes, |field, value| match field {
        1 => any.0 = value.text(),
        2 => any.1 = value.bytes().to_vec(),
        _ => {}
    })?;
    Ok(any)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_specification() {
        let mut writer = Writer::default();
        writer
            .uint(1, 150_u32)
            .bytes(2, "testing")
            .int(3, -2)
            .uint(4, false);
        let bytes = writer.finish();
        assert_eq!(&bytes[..12], b"\x08\x96\x01\x12\x07testing");
        assert_eq!(&bytes[12..], b"\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    }

    #[test]
    fn what_is_no_message() {
        for bad in [
            &b"\x08"[..],
            b"\x12\x05abc",
            b"\x0b",
            b"\x00\x01",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"unix:///a",
        ] {
            assert!(read(bad, |_, _| ()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(number: u64, text in ".*", fraction in 1.0_f64..9.0) {
            let mut writer = Writer::default();
            writer.uint(5, number).double(6, fraction).any(7, "t", text.as_bytes());
            let mut seen = (0, None);
            read(&writer.finish(), |field, value| match field {
                5 => seen.0 = value.number(),
                7 => seen.1 = Some(read_any(value.bytes()).unwrap()),
                other => assert_eq!((other, value), (6, Value::Other)),
            }).unwrap();
            prop_assert_eq!(seen, (number, Some(("t".to_owned(), text.into_bytes()))));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, |_, value| { let _ = read_any(value.bytes()); });
        }
    }
}
