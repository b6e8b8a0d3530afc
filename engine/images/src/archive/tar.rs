//! Walking a tar stream: headers, GNU long names, PAX records, sparse files. Bounded, and nothing is written here.
//!
//! Only the header block's fields come from the `tar` crate. Its entry iterator reads extension records of any size into
//! memory and splits PAX records at newlines, which breaks binary attribute values (`security.capability`).
//! Where archives are read differently by different programs (CVE-2025-62518 and kin) we follow Go's reader, docker's.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use tar::{EntryType, Header};

use crate::limits::{NAME_MAX, PAX_MAX};
use crate::{Error, Result};

const BLOCK: usize = 512;

/// A numeric field of the header block.
type Field = std::ops::Range<usize>;
const MODE: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;

/// One member, its data still unread.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As written: may be absolute, may hold `..`.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the file, holes included.
    pub size: u64,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of the regions that have data; none for an ordinary file.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// Reads members one after another.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    /// Bytes of the present member not yet read, and its padding.
    left: u64,
    padding: u64,
    ended: bool,
}

fn broken(what: &'static str) -> Error {
    Error::invalid(format!("malformed tar: {what}"))
}

/// Errors of the input that are ours travel inside `io::Error`; everything else becomes `Invalid` (truncated, bad gzip).
pub(crate) fn input_error(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            broken("it ends in the middle of a member").caused_by(e)
        }
        Err(e) => Error::invalid("read the archive").caused_by(e),
    }
}

/// Octal, or binary when the first bit is set; an empty field is 0 (the `tar` crate refuses that, Go does not).
fn signed(header: &Header, field: Field) -> Result<i64> {
    let bytes = &header.as_bytes()[field];
    let bad = || broken("bad number in a header");
    if bytes[0] & 0x80 != 0 {
        // Two's complement; the first bit only marks the form, the second is the sign.
        let start = if bytes[0] & 0x40 != 0 { -1i64 } else { 0 };
        let first = if start == 0 { bytes[0] & 0x7f } else { bytes[0] };
        let mut value = if start == 0 {
            i64::from(first)
        } else {
            i64::from(first) - 256
        };
        for &byte in &bytes[1..] {
            value = value
                .checked_mul(256)
                .and_then(|v| v.checked_add(i64::from(byte)))
                .ok_or_else(bad)?;
        }
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| bad())?
        .trim_matches([' ', '\0']);
    let text = text.split('\0').next().unwrap_or(text);
    if text.is_empty() {
        Ok(0)
    } else {
        i64::from_str_radix(text, 8).map_err(|_| bad())
    }
}

fn number(header: &Header, field: Field) -> Result<u64> {
    u64::try_from(signed(header, field)?).map_err(|_| broken("negative number in a header"))
}

impl<R: BufRead> TarReader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next member; what was not read of the last is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut long_name = None;
        let mut long_link = None;
        let mut pax = BTreeMap::new();
        let mut extended = false;
        loop {
            let Some(header) = self.header()? else {
                return if extended {
                    Err(broken("extension header without a member"))
                } else {
                    Ok(None)
                };
            };
            let size = number(&header, SIZE)?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.text(size)?),
                EntryType::GNULongLink => long_link = Some(self.text(size)?),
                EntryType::XHeader => pax = parse_pax(&self.record(size)?)?,
                // Global records (git's commit id) do not describe a file; docker ignores them too.
                EntryType::XGlobalHeader => drop(self.record(size)?),
                _ => return self.member(&header, long_name, long_link, pax).map(Some),
            }
            extended = true;
        }
    }

    /// The present member's remaining data, a piece at a time; empty at its end.
    pub fn fill(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf().map_err(input_error)?;
        if chunk.is_empty() {
            return Err(broken("it ends in the middle of a member"));
        }
        let n = usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
        Ok(&chunk[..n])
    }

    /// Marks bytes of [`Self::fill`] as used.
    pub fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.left = self.left.saturating_sub(n as u64);
    }

    /// Reads to the end of the input, which may go on after the archive's end.
    pub fn drain(&mut self) -> Result<()> {
        loop {
            let n = self.input.fill_buf().map_err(input_error)?.len();
            if n == 0 {
                return Ok(());
            }
            self.input.consume(n);
        }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        while self.left > 0 {
            let n = self.fill()?.len();
            self.consume(n);
        }
        self.left = std::mem::take(&mut self.padding);
        while self.left > 0 {
            let n = self.fill()?.len();
            self.consume(n);
        }
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|&b| b == 0) {
            // The end is two blocks of zeros. One alone, with more behind it, is read differently by every program.
            let mut second = [0u8; BLOCK];
            if self.block(&mut second)? && second.iter().any(|&b| b != 0) {
                return Err(broken("data after a lone block of zeros"));
            }
            self.ended = true;
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
            .sum();
        if number(&header, CHECKSUM)? != u64::from(sum) {
            return Err(broken("header checksum does not match"));
        }
        Ok(Some(header))
    }

    /// Reads one block; false at a clean end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut done = 0;
        while done < BLOCK {
            let n = self.input.read(&mut block[done..]).map_err(input_error)?;
            if n == 0 {
                return if done == 0 {
                    Ok(false)
                } else {
                    Err(broken("it ends in the middle of a header"))
                };
            }
            done += n;
        }
        Ok(true)
    }

    fn set_data(&mut self, size: u64) -> Result<()> {
        self.left = size;
        self.padding = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| broken("size overflow"))?
            - size;
        Ok(())
    }

    /// Reads a whole extension record.
    fn record(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > PAX_MAX {
            return Err(broken("extension record too large"));
        }
        self.set_data(size)?;
        let mut bytes = Vec::new();
        while self.left > 0 {
            let chunk = self.fill()?;
            bytes.extend_from_slice(chunk);
            let n = chunk.len();
            self.consume(n);
        }
        Ok(bytes)
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut bytes = self.record(size)?;
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn member(
        &mut self,
        header: &Header,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut pax: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Entry> {
        let sparse = sparse::Pax::take(&mut pax)?;
        let mut take = |key: &str| pax.remove(key.as_bytes());
        let path = take("path").or(long_name);
        let path = sparse
            .as_ref()
            .and_then(|s| s.name.clone())
            .or(path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = take("linkpath").or(long_link);
        let link = link.unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map(|l| l.into_owned())
                .unwrap_or_default()
        });
        if path.len() > NAME_MAX || link.len() > NAME_MAX {
            return Err(broken("a name is longer than 4096 bytes"));
        }
        let size = match take("size") {
            Some(text) => decimal(&text).ok_or_else(|| broken("bad size"))?,
            None => number(header, SIZE)?,
        };
        let id = |pax: Option<Vec<u8>>, field: Field| -> Result<u32> {
            let value = match pax {
                Some(text) => decimal(&text).ok_or_else(|| broken("bad owner"))?,
                None => number(header, field)?,
            };
            u32::try_from(value).map_err(|_| broken("owner out of range"))
        };
        let (uid, gid) = (id(take("uid"), UID)?, id(take("gid"), GID)?);
        let mtime = match take("mtime") {
            Some(text) => pax_time(&text).ok_or_else(|| broken("bad time"))?,
            None => (signed(header, MTIME)?, 0),
        };
        let mut kind = header.entry_type();
        if matches!(kind, EntryType::Regular | EntryType::Continuous) {
            // The oldest tars (type NUL) mark a directory by its name only.
            let old_dir = header.as_bytes()[156] == 0 && path.ends_with(b"/");
            kind = if old_dir {
                EntryType::Directory
            } else {
                EntryType::Regular
            };
        }
        let has_data = matches!(kind, EntryType::Regular | EntryType::GNUSparse);
        let device = match kind {
            EntryType::Char | EntryType::Block => {
                let part =
                    |field| u32::try_from(number(header, field)?).map_err(|_| broken("bad device number"));
                (part(MAJOR)?, part(MINOR)?)
            }
            _ => (0, 0),
        };
        let mut entry = Entry {
            path,
            link,
            kind,
            mode: u32::try_from(number(header, MODE)? & 0o7777).unwrap_or(0),
            uid,
            gid,
            mtime,
            size: if has_data { size } else { 0 },
            device,
            xattrs: xattrs_of(pax),
            sparse: None,
        };
        if kind == EntryType::GNUSparse {
            let (regions, real_size) = self.old_map(header, size)?;
            (entry.sparse, entry.size, entry.kind) = (Some(regions), real_size, EntryType::Regular);
        }
        // As Go: a link, device or directory has no data whatever its size says, but other types skip theirs.
        let no_data = matches!(
            kind,
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Directory
                | EntryType::Fifo
        );
        self.set_data(if no_data { 0 } else { size })?;
        if let Some(sparse) = sparse.filter(|_| kind == EntryType::Regular) {
            let (regions, real_size) = sparse.regions(self)?;
            (entry.sparse, entry.size) = (Some(regions), real_size);
        }
        Ok(entry)
    }
}

/// Records are `LENGTH KEY=VALUE\n`, LENGTH counting itself; values are any bytes. The last of a key counts.
fn parse_pax(mut bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    // Some writers pad with NUL.
    while bytes.first().is_some_and(|&b| b != 0) {
        let bad = || broken("bad PAX record");
        let space = bytes.iter().position(|&b| b == b' ').ok_or_else(bad)?;
        let length = decimal(&bytes[..space])
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(bad)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if matches!(key, b"path" | b"linkpath") && value.contains(&0) {
            return Err(bad());
        }
        // Sparse files in form 0.0 repeat two keys, and their order is the map (as Go reads it).
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            let map: &mut Vec<u8> = records.entry(b"GNU.sparse.map".to_vec()).or_default();
            if !map.is_empty() {
                map.push(b',');
            }
            map.extend_from_slice(value);
            bytes = &bytes[length..];
            continue;
        }
        // An empty value removes the record (POSIX), so that the header's field counts.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            records.remove(key);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
        bytes = &bytes[length..];
    }
    Ok(records)
}

fn xattrs_of(pax: BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let name = |key: &[u8]| key.strip_prefix(b"SCHILY.xattr.".as_slice()).map(<[u8]>::to_vec);
    pax.into_iter()
        .filter_map(|(key, value)| name(&key).map(|n| (n, value)))
        .collect()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `SECONDS[.FRACTION]`, maybe negative.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}

/// Entry point for fuzzing: any bytes, no panic, no endless loop.
#[cfg(test)]
pub(crate) fn fuzz(data: &[u8]) {
    let mut reader = TarReader::new(data);
    while let Ok(Some(_)) = reader.next_entry() {}
}

mod sparse;
#[cfg(test)]
mod tests;
