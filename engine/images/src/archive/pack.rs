//! Packing a plain layer for a registry: one gzip member or zstd frame for each piece, so that all processors share the work and
//! the bytes depend on nothing but the content (RFC 1952, 2.2 and RFC 8878, 3.1 allow any number of them).

use std::fs::File;
use std::io::{Read, Write};

use flate2::write::GzEncoder;
use futures_util::{TryStreamExt, stream};

use crate::config::Compression;
use crate::content::BlobDraft;
use crate::digest::{Digest, Hasher};
use crate::error::Doing;
use crate::store::blocking;
use crate::{Error, Kind, Result};

/// One member. Larger ones pack no better.
const PIECE: u64 = 1 << 20;
/// What the zstd command takes by default.
const ZSTD_LEVEL: i32 = 3;

/// A packed layer that has no name yet.
#[derive(Debug)]
pub(crate) struct Packed {
    pub draft: BlobDraft,
    pub digest: Digest,
    pub size: u64,
}

/// Packs what `plain` holds into `draft`.
///
/// # Errors
/// `Internal` when the disk refuses.
pub(crate) async fn pack(plain: File, draft: BlobDraft, how: Compression) -> Result<Packed> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let pieces = stream::try_unfold(plain, |mut file| async move {
        blocking(move || {
            let mut piece = Vec::new();
            (&mut file)
                .take(PIECE)
                .read_to_end(&mut piece)
                .doing(|| "read a layer to pack")?;
            Ok((!piece.is_empty()).then_some((piece, file)))
        })
        .await
    });
    let members = pieces
        .map_ok(|piece| blocking(move || member(&piece, how)))
        .try_buffered(workers);
    let (draft, hasher, size) = members
        .try_fold(
            (draft, Hasher::new(), 0),
            |(mut draft, mut hasher, size), bytes| {
                blocking(move || {
                    draft.write(&bytes)?;
                    hasher.update(&bytes);
                    Ok((draft, hasher, size + bytes.len() as u64))
                })
            },
        )
        .await?;
    Ok(Packed {
        draft,
        digest: hasher.finish(),
        size,
    })
}

fn member(piece: &[u8], how: Compression) -> Result<Vec<u8>> {
    let done = match how {
        // No time and no name in the header: the same piece gives the same member.
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(piece).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::bulk::compress(piece, ZSTD_LEVEL),
    };
    done.map_err(|e| Error::new(Kind::Internal, "pack a layer").caused_by(e))
}
