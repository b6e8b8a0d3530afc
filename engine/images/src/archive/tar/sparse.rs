//! Sparse files: GNU tar's old map in header blocks, and the three forms in PAX records (0.0, 0.1, 1.0).

use std::collections::BTreeMap;
use std::io::BufRead;

use tar::Header;

use super::{BLOCK, TarReader, broken, decimal, input_error};
use crate::Result;

/// Regions of one sparse file.
const SPARSE_MAX: usize = 65_536;

/// Offset and length of what has data.
type Regions = Vec<(u64, u64)>;

/// What PAX records say of a sparse file.
#[derive(Debug)]
pub(super) struct Pax {
    /// Its real name, where the header has a made-up one.
    pub name: Option<Vec<u8>>,
    real_size: Option<u64>,
    /// `OFFSET,LENGTH,...`; without it the map comes first in the data.
    map: Option<Vec<u8>>,
}

impl Pax {
    /// Takes the records out; `None` for an ordinary file.
    pub fn take(pax: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<Self>> {
        let keys: Vec<Vec<u8>> = pax
            .keys()
            .filter(|k| k.starts_with(b"GNU.sparse."))
            .cloned()
            .collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> =
            keys.into_iter().filter_map(|k| pax.remove_entry(&k)).collect();
        let mut take = |key: &str| records.remove(format!("GNU.sparse.{key}").as_bytes());
        let (major, minor) = (take("major"), take("minor"));
        let map = match (major.as_deref(), minor.as_deref()) {
            (Some(b"1"), Some(b"0")) => None,
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => {
                Some(take("map").ok_or_else(|| broken("sparse file without a map"))?)
            }
            _ => return Err(broken("unknown form of a sparse file")),
        };
        let real_size = match take("realsize").or_else(|| take("size")) {
            Some(text) => Some(decimal(&text).ok_or_else(|| broken("bad size of a sparse file"))?),
            None => None,
        };
        Ok(Some(Self {
            name: take("name"),
            real_size,
            map,
        }))
    }

    /// The regions and the file's size. Reads the map where it comes first in the data, which must have been set.
    pub fn regions<R: BufRead>(&self, tar: &mut TarReader<R>) -> Result<(Regions, u64)> {
        let numbers = match &self.map {
            Some(text) => text
                .split(|b| *b == b',')
                .map(|n| decimal(n).ok_or_else(|| broken("bad sparse map")))
                .take(2 * SPARSE_MAX + 1)
                .collect::<Result<Vec<u64>>>()?,
            None => leading_map(tar)?,
        };
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(broken("bad sparse map"));
        }
        let regions: Regions = pairs.iter().map(|[offset, length]| (*offset, *length)).collect();
        let end = regions
            .last()
            .map_or(0, |(offset, length)| offset.saturating_add(*length));
        let real_size = self.real_size.unwrap_or(end);
        check(&regions, real_size, tar.left)?;
        Ok((regions, real_size))
    }
}

/// Form 1.0: the number of regions, then their offsets and lengths, a line each, filled up to whole blocks.
fn leading_map<R: BufRead>(tar: &mut TarReader<R>) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut line = Vec::new();
    let mut wanted = None;
    loop {
        let mut block = [0; BLOCK];
        tar.data_block(&mut block)?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(broken("bad sparse map"));
                }
                continue;
            }
            let number = decimal(&line).ok_or_else(|| broken("bad sparse map"))?;
            line.clear();
            match wanted {
                None => wanted = Some(usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(2)),
                Some(_) => numbers.push(number),
            }
            if wanted.is_some_and(|n| n > 2 * SPARSE_MAX) {
                return Err(broken("too many sparse regions"));
            }
            if wanted == Some(numbers.len()) {
                return Ok(numbers);
            }
        }
    }
}

fn check(regions: &[(u64, u64)], real_size: u64, data_size: u64) -> Result<()> {
    if regions.len() > SPARSE_MAX {
        return Err(broken("too many sparse regions"));
    }
    let (mut end, mut data) = (0u64, 0u64);
    for &(offset, length) in regions {
        if offset < end {
            return Err(broken("overlapping sparse regions"));
        }
        end = offset
            .checked_add(length)
            .ok_or_else(|| broken("size overflow"))?;
        data += length;
    }
    if end > real_size || data != data_size {
        return Err(broken("sparse map does not match the size"));
    }
    Ok(())
}

impl<R: BufRead> TarReader<R> {
    /// A whole block of the present member's data.
    fn data_block(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        let mut done = 0;
        while done < BLOCK {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Err(broken("it ends in a sparse map"));
            }
            let n = chunk.len().min(BLOCK - done);
            block[done..done + n].copy_from_slice(&chunk[..n]);
            self.consume(n);
            done += n;
        }
        Ok(())
    }

    /// GNU's old form: regions in the header and in blocks behind it.
    pub(super) fn old_map(&mut self, header: &Header, size: u64) -> Result<(Regions, u64)> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| broken("sparse file without a GNU header"))?;
        let mut regions = Vec::new();
        let mut add = |block: &tar::GnuSparseHeader| -> Result<()> {
            if !block.is_empty() {
                regions.push((
                    block.offset().map_err(input_error)?,
                    block.length().map_err(input_error)?,
                ));
            }
            if regions.len() > SPARSE_MAX {
                Err(broken("too many sparse regions"))
            } else {
                Ok(())
            }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            if !self.block(extension.as_mut_bytes())? {
                return Err(broken("it ends in a sparse map"));
            }
            extension.sparse.iter().try_for_each(&mut add)?;
            more = extension.is_extended();
        }
        let real_size = gnu.real_size().map_err(input_error)?;
        check(&regions, real_size, size)?;
        Ok((regions, real_size))
    }
}
