//! Taking off the compression, told by the first bytes and not by what a manifest claims (docker does the same).

use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::limits::EXPANSION_MAX;
use crate::{Error, Kind, Result};

/// Small inputs may expand more: a tar of one empty file is kilobytes of zeros.
const EXPANSION_SLACK: u64 = 64 << 20;

/// The longest mark a packing begins with.
const MARK: usize = 6;

/// The input with the bytes that were looked at put back.
type Rest<R> = Counted<Chain<Cursor<Vec<u8>>, R>>;

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Looks at the first bytes.
///
/// # Errors
/// `Unsupported` for packings docker takes in `load` and `import` and we do not.
pub(crate) fn sniff(start: &[u8]) -> Result<Packing> {
    let unsupported = |what| {
        Err(Error::new(
            Kind::Unsupported,
            format!("{what} compression is not supported"),
        ))
    };
    match start {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Packing::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
        _ => Ok(Packing::Plain),
    }
}

/// Reads the unpacked bytes; counts what goes in and refuses bombs.
pub(crate) struct Inflate<R: BufRead> {
    inner: Decoder<R>,
    out: u64,
}

enum Decoder<R: BufRead> {
    Plain(Rest<R>),
    Gzip(Box<MultiGzDecoder<Rest<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Rest<R>>>),
}

/// Counts consumed input.
struct Counted<R> {
    inner: R,
    used: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.used += n as u64;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.used += n as u64;
        self.inner.consume(n);
    }
}

impl<R: BufRead> Inflate<R> {
    /// Begins; looks at the first bytes. A network may bring them one by one.
    pub fn new(mut input: R) -> Result<(Self, Packing)> {
        let mut start = Vec::with_capacity(MARK);
        let read = input.by_ref().take(MARK as u64).read_to_end(&mut start);
        read.map_err(crate::archive::tar::input_error)?;
        let packing = sniff(&start)?;
        let input = Counted {
            inner: Cursor::new(start).chain(input),
            used: 0,
        };
        let inner = match packing {
            Packing::Plain => Decoder::Plain(input),
            Packing::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|e| Error::new(Kind::Internal, "start zstd").caused_by(e))?;
                // 128 MiB of window is what the zstd command accepts by default; more is memory an image can demand.
                decoder
                    .window_log_max(27)
                    .map_err(|e| Error::new(Kind::Internal, "start zstd").caused_by(e))?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok((Self { inner, out: 0 }, packing))
    }

    fn used(&self) -> u64 {
        match &self.inner {
            Decoder::Plain(input) => input.used,
            Decoder::Gzip(decoder) => decoder.get_ref().used,
            Decoder::Zstd(decoder) => decoder.get_ref().used,
        }
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.inner {
            Decoder::Plain(input) => input.read(into)?,
            Decoder::Gzip(decoder) => decoder.read(into)?,
            Decoder::Zstd(decoder) => decoder.read(into)?,
        };
        self.out += n as u64;
        if self.out
            > self
                .used()
                .saturating_mul(EXPANSION_MAX)
                .saturating_add(EXPANSION_SLACK)
        {
            let what = format!("it expands more than {EXPANSION_MAX} times: refused as a compression bomb");
            return Err(io::Error::other(Error::invalid(what)));
        }
        Ok(n)
    }
}

impl<R: BufRead> std::fmt::Debug for Inflate<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate")
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn inflate(bytes: &[u8]) -> io::Result<u64> {
        let (mut reader, _) = Inflate::new(bytes).unwrap();
        io::copy(&mut reader, &mut io::sink())
    }

    #[test]
    fn packings() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"hello").unwrap();
        let gzip = gzip.finish().unwrap();
        let twice = [gzip.clone(), gzip.clone()].concat();
        let zstd = zstd::encode_all(b"hello".as_slice(), 1).unwrap();
        assert_eq!(inflate(&gzip).unwrap(), 5);
        assert_eq!(inflate(&twice).unwrap(), 10, "members follow each other");
        assert_eq!(inflate(&zstd).unwrap(), 5);
        assert_eq!(inflate(b"hello").unwrap(), 5);
        assert_eq!(inflate(b"").unwrap(), 0);
        assert!(inflate(&gzip[..gzip.len() - 1]).is_err());
        assert!(inflate(&zstd[..zstd.len() - 1]).is_err());
        assert!(sniff(b"BZh9").is_err() && sniff(b"\xfd7zXZ\0").is_err());
    }

    #[test]
    fn a_packing_is_known_however_short_the_first_read_is() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"hello").unwrap();
        let gzip = gzip.finish().unwrap();
        let (first, rest) = gzip.split_at(1);
        let (mut reader, packing) = Inflate::new(first.chain(rest)).unwrap();
        assert_eq!(packing, Packing::Gzip);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::encode_all(io::repeat(0).take(1 << 28), 19).unwrap();
        let error = inflate(&bomb).unwrap_err().to_string();
        assert!(error.contains("bomb"), "{error}");
    }
}
