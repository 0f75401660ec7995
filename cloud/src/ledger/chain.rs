//! The hash chain: an entry that was altered, left out or put in is named by an audit.

use serde::Serialize;
use serde_cbor::ser::Serializer;
use sha2::{Digest, Sha256};
use simquota_shared::codec::CodecError;
use simquota_shared::message::ops::Blob;
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::account::Move;
use super::entry::{Cause, Entry, Subject};

/// A truncated SHA-256: 64 bits name an accident with certainty enough, and cost 8 octets an entry.
pub type Link = [u8; 8];

/// The link before the first entry of a chain.
pub const GENESIS: Link = [0; 8];

/// About what an entry takes; a longer one only costs another allocation.
const ENTRY_OCTETS: usize = 512;

#[derive(Serialize)]
struct Hashed<'a>(EntryNumber, UnixMillis, &'a Subject, &'a Cause, &'a [Move]);

/// The link of an entry that follows `before` in its chain.
///
/// # Errors
/// [`CodecError::Encode`] for an entry that can't be written.
pub fn link(before: Link, entry: &Entry) -> Result<Link, CodecError> {
    let Entry {
        number,
        at,
        subject,
        cause,
        moves,
        chain: _,
    } = entry;
    // Only hashed, never read: it needs one form for one entry, and no walk that checks what a reader would accept.
    let mut body = Vec::with_capacity(ENTRY_OCTETS);
    Hashed(*number, *at, subject, cause, moves)
        .serialize(&mut Serializer::new(&mut body))
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    Ok(truncated(
        Sha256::new().chain_update(before).chain_update(body),
    ))
}

/// The truncated hash of any octets: of a request or a command, to tell a repeat from a reuse.
#[must_use]
pub fn digest(octets: &[u8]) -> Blob {
    Blob(truncated(Sha256::new().chain_update(octets)).to_vec())
}

fn truncated(hash: Sha256) -> Link {
    let mut link = GENESIS;
    for (to, from) in link.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    link
}
