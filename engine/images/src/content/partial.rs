//! A blob on its way: its bytes arrive in any order and by several connections, and what has arrived outlives the daemon.
//!
//! `content/partial/HEX` has the bytes at their places, `HEX.map` says which have arrived: pairs of offsets, 16 bytes each,
//! appended after the bytes they tell of. Nothing here is trusted: the blob gets its name only when its digest is right.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::Doing;
use crate::unpack::pipeline::Chunks;
use crate::{Error, Kind, Result};

/// Bytes that may arrive before the map is told: what a crash costs at most, for each connection.
const NOTED_EVERY: u64 = 256 << 10;
/// Read at a time by whoever unpacks the blob.
const CHUNK: u64 = 96 << 10;
/// Entries of a map we read; one that is larger is not ours.
const MAP_MAX: u64 = 16 << 20;

/// Ranges of offsets, sorted, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub fn add(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < new.start);
        let last = self.0.partition_point(|r| r.start <= new.end);
        let mut merged = new;
        for old in &self.0[first..last] {
            merged = merged.start.min(old.start)..merged.end.max(old.end);
        }
        self.0.splice(first..last, [merged]);
    }

    pub fn sub(&mut self, gone: &Range<u64>) {
        if gone.is_empty() {
            return;
        }
        let cut = |r: Range<u64>| [r.start..r.end.min(gone.start), r.start.max(gone.end)..r.end];
        let old = std::mem::take(&mut self.0);
        self.0 = old.into_iter().flat_map(cut).filter(|r| !r.is_empty()).collect();
    }

    /// Where the first gap at or after `at` begins.
    fn end_of(&self, at: u64) -> u64 {
        match self.0.iter().find(|r| r.contains(&at)) {
            Some(range) => range.end,
            None => at,
        }
    }

    /// The first gap below `size`.
    fn gap(&self, size: u64) -> Option<Range<u64>> {
        let start = self.end_of(0);
        let end = self.0.iter().map(|r| r.start).find(|s| *s > start);
        (start < size).then(|| start..end.unwrap_or(size).min(size))
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }
}

/// The blob being fetched. Who fetches claims ranges and writes them, who unpacks follows from the start.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(super) path: PathBuf,
    size: u64,
    file: File,
    map: File,
    /// Bytes that were here from an earlier time.
    resumed: u64,
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct State {
    have: Ranges,
    /// Being fetched, or here.
    claimed: Ranges,
    /// Arrived, not in the map yet.
    unnoted: Option<Range<u64>>,
    failed: Option<(Kind, String)>,
    /// Nobody follows any more.
    unwanted: bool,
}

pub(super) fn map_path(path: &Path) -> PathBuf {
    path.with_extension("map")
}

impl Partial {
    pub(super) fn open(path: PathBuf, size: u64) -> Result<Self> {
        let doing = || format!("open {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).doing(doing)?;
        let map = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(map_path(&path))
            .doing(doing)?;
        let mut have = Ranges::default();
        let mut noted = Vec::new();
        (&map).take(MAP_MAX).read_to_end(&mut noted).doing(doing)?;
        let here = file.metadata().doing(doing)?.len().min(size);
        for pair in noted.as_chunks::<8>().0.chunks_exact(2) {
            let (start, end) = (u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1]));
            have.add(start.min(here)..end.min(here));
        }
        // A crash may have cut the last entry, and a map may outlive its bytes: what is added must not be read wrongly.
        let whole = if have.sum() == 0 { 0 } else { noted.len() / 16 * 16 };
        if whole < noted.len() {
            map.set_len(whole as u64).doing(doing)?;
        }
        Ok(Self {
            path,
            size,
            file,
            map,
            resumed: have.sum(),
            state: Mutex::new(State {
                claimed: have.clone(),
                have,
                ..State::default()
            }),
            came: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that were here before this fetch began.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Takes the next range that nobody fetches, `most` bytes at the most.
    pub fn claim(&self, most: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        let gap = state.claimed.gap(self.size)?;
        let piece = gap.start..gap.end.min(gap.start.saturating_add(most));
        state.claimed.add(piece.clone());
        Some(piece)
    }

    /// Gives back what was claimed and did not come.
    pub fn release(&self, rest: &Range<u64>) {
        let mut state = self.state();
        state.claimed.sub(rest);
        let have = state.have.clone();
        have.0.into_iter().for_each(|range| state.claimed.add(range));
    }

    /// Claims everything: a registry without ranges sends it all.
    pub fn claim_all(&self) {
        self.state().claimed.add(0..self.size);
    }

    /// Stores bytes at their place. Blocking.
    ///
    /// # Errors
    /// `Internal` when the disk refuses; `Unavailable` when nobody wants the blob any more.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        if self.state().unwanted {
            return Err(Error::new(Kind::Unavailable, "the layer is no longer wanted"));
        }
        self.file.write_all_at(bytes, offset).doing(doing)?;
        let new = offset..offset + bytes.len() as u64;
        let mut state = self.state();
        state.have.add(new.clone());
        self.came.notify_all();
        let (unnoted, full) = match state.unnoted.take() {
            Some(old) if old.end == new.start => (old.start..new.end, None),
            other => (new, other),
        };
        let long = unnoted.end - unnoted.start >= NOTED_EVERY;
        let full = [full, long.then_some(unnoted.clone())];
        state.unnoted = (!long).then_some(unnoted);
        drop(state);
        full.into_iter().flatten().try_for_each(|range| self.note(&range))
    }

    /// Tells the map what it was not told yet. Blocking.
    pub fn note_all(&self) -> Result<()> {
        let rest = self.state().unnoted.take();
        rest.map_or(Ok(()), |range| self.note(&range))
    }

    fn note(&self, range: &Range<u64>) -> Result<()> {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&range.start.to_le_bytes());
        pair[8..].copy_from_slice(&range.end.to_le_bytes());
        (&self.map)
            .write_all(&pair)
            .doing(|| format!("write {}", self.path.display()))
    }

    /// Ends it for whoever follows. The first reason counts.
    pub fn fail(&self, error: &Error) {
        let mut state = self.state();
        state
            .failed
            .get_or_insert_with(|| (error.kind(), error.to_string()));
        self.came.notify_all();
    }
}

/// Follows a blob from its start while it arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    partial: Arc<Partial>,
    at: u64,
}

impl Arriving {
    pub fn new(partial: Arc<Partial>) -> Self {
        Self { partial, at: 0 }
    }
}

impl Chunks for Arriving {
    fn next(&mut self) -> Option<Result<Bytes>> {
        if self.at == self.partial.size {
            return None;
        }
        let mut state = self.partial.state();
        let end = loop {
            let end = state.have.end_of(self.at);
            if end > self.at {
                break end.min(self.at + CHUNK);
            }
            if let Some((kind, text)) = state.failed.clone() {
                return Some(Err(Error::new(kind, text)));
            }
            state = self
                .partial
                .came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let mut buffer = vec![0; usize::try_from(end - self.at).unwrap_or(0)];
        let read = self.partial.file.read_exact_at(&mut buffer, self.at);
        self.at = end;
        Some(
            read.doing(|| format!("read {}", self.partial.path.display()))
                .map(|()| buffer.into()),
        )
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.partial.state().unwanted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let mut ranges = Ranges::default();
        for range in [5..10, 20..30, 10..12, 0..2, 12..12, 28..40] {
            ranges.add(range);
        }
        assert_eq!(ranges, Ranges(vec![0..2, 5..12, 20..40]));
        assert_eq!((ranges.sum(), ranges.end_of(0), ranges.end_of(3)), (29, 2, 3));
        assert_eq!(ranges.gap(100), Some(2..5));
        ranges.sub(&(6..25));
        assert_eq!(ranges, Ranges(vec![0..2, 5..6, 25..40]));
        ranges.add(0..40);
        assert_eq!((ranges.gap(40), ranges.gap(41)), (None, Some(40..41)));
    }

    proptest::proptest! {
        #[test]
        fn ranges_are_sets(steps in proptest::collection::vec((0u64..64, 0u64..16, proptest::bool::ANY), 0..40)) {
            let mut ranges = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (start, len, add) in steps {
                let range = start..start + len;
                if add {
                    set.extend(range.clone());
                    ranges.add(range);
                } else {
                    set.retain(|n| !range.contains(n));
                    ranges.sub(&range);
                }
                let flat: Vec<u64> = ranges.0.iter().cloned().flatten().collect();
                assert_eq!(flat, set.iter().copied().collect::<Vec<_>>());
                assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
            }
        }
    }

    #[test]
    fn goes_on_where_it_was_and_never_trusts_a_torn_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ab");
        let partial = Partial::open(path.clone(), 100).unwrap();
        assert_eq!(partial.claim(30), Some(0..30));
        assert_eq!(partial.claim(30), Some(30..60));
        partial.write(0, &[1; 20]).unwrap();
        partial.write(40, &[2; 10]).unwrap();
        partial.release(&(20..30));
        assert_eq!(partial.claim(99), Some(20..30));
        partial.note_all().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(map_path(&path))
            .unwrap()
            .write_all(b"torn")
            .unwrap();
        let again = Arc::new(Partial::open(path.clone(), 100).unwrap());
        assert_eq!(again.resumed(), 30);
        assert_eq!(again.claim(99), Some(20..40));
        assert_eq!(again.claim(99), Some(50..100));
        let mut follow = Arriving::new(Arc::clone(&again));
        assert_eq!(follow.next().unwrap().unwrap(), vec![1; 20]);
        again.write(20, &[3; 20]).unwrap();
        assert_eq!(follow.next().unwrap().unwrap().len(), 30);
        again.fail(&Error::invalid("no more"));
        assert_eq!(follow.next().unwrap().unwrap_err().to_string(), "no more");
        drop(follow);
        assert!(again.write(50, &[4; 50]).is_err(), "nobody wants it");
        again.note_all().unwrap();
        assert_eq!(Partial::open(path, 100).unwrap().resumed(), 50);
    }
}
