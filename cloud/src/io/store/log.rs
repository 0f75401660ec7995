//! The database's log files (`N.jnl`), read without the database, which cuts off what it can't read.
//!
//! A file is batches and then zeros. What fjall 3 writes for a batch (numbers little-endian):
//!
//! ```text
//! 1, items (4), sequence number (8)
//! 2, kind (1), compression (1), keyspace (8), key's length (2), value's length (4), stored length (4), key, value
//! 4, keyspace (8)                                     a keyspace was cleared
//! 3, XXH3 of all items (8), "FJL" 3
//! ```
//!
//! The sequence number is in no checksum, and a wrong tag or length looks to the database like the end of the log. So
//! a hash of all that was read is kept on the way, which [`super::guard`] remembers.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use simquota_shared::units::EntryNumber;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::ledger::entry::Entry;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
/// How much is read at a time; more when a batch is longer.
const READ_OCTETS: usize = 32 * 1024;
/// How much is read at a time where only zeros are expected.
const SKIP_OCTETS: usize = 1024 * 1024;

/// The keyspaces in the order in which a new store makes them; a test holds that.
pub(super) const JOURNAL: u64 = 1;
pub(super) const CHECKPOINT: u64 = 2;

/// A whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Octets of it.
    pub(super) octets: usize,
    /// The keyspace of its first item.
    pub(super) keyspace: Option<u64>,
    /// The first entry's number, if a row of the journal is in it, and where its octets are.
    pub(super) row: Option<Row>,
}

/// A row of the journal within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its name.
    pub(super) first: EntryNumber,
    from: usize,
    octets: usize,
}

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A batch; the log stands behind it now.
    Batch(Batch),
    /// Zeros, or the file's end.
    Nothing,
    /// The beginning of a batch whose end is not there.
    Cut,
    /// No batch: why, and which row it calls itself, as far as that can be read.
    Wrong(&'static str, Option<EntryNumber>),
}

/// A log file, read from its beginning.
pub(super) struct Log {
    /// The file's number: later files have higher ones.
    pub(super) id: u64,
    /// Where it is.
    pub(super) path: PathBuf,
    file: File,
    at: u64,
    hash: Xxh3,
    read: Vec<u8>,
    from: usize,
    /// Where the last row of the journal is in the file.
    last_row: Option<(u64, usize)>,
}

impl Log {
    /// Opens one, at its beginning.
    pub(super) fn open(folder: &Path, id: u64) -> io::Result<Self> {
        let path = folder.join(format!("{id}.jnl"));
        Ok(Self {
            id,
            file: File::open(&path)?,
            path,
            at: 0,
            hash: Xxh3::new(),
            read: Vec::new(),
            from: 0,
            last_row: None,
        })
    }

    /// Where it stands.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The hash of all octets before.
    pub(super) fn hash(&self) -> u128 {
        self.hash.digest128()
    }

    /// Steps over the next batch, if there is a whole one.
    pub(super) fn step(&mut self) -> io::Result<Next> {
        loop {
            let parsed = parse(self.read.get(self.from..).unwrap_or_default());
            if matches!(parsed, Parsed::Short) && self.read_more()? {
                continue;
            }
            let rest = self.read.get(self.from..).unwrap_or_default();
            let next = match parsed {
                Parsed::Short if self.from >= self.read.len() => Next::Nothing,
                Parsed::Short => Next::Cut,
                Parsed::Wrong("tag", _) if rest.first() == Some(&0) => Next::Nothing,
                Parsed::Wrong(why, first) => Next::Wrong(why, first),
                Parsed::Whole(batch) => {
                    self.hash
                        .update(rest.get(..batch.octets).unwrap_or_default());
                    if let Some(row) = batch.row {
                        self.last_row = Some((self.at + row.from as u64, row.octets));
                    }
                    self.at += batch.octets as u64;
                    self.from += batch.octets;
                    return Ok(Next::Batch(batch));
                }
            };
            // What stands here may be another thing the next time.
            self.read.clear();
            self.from = 0;
            return Ok(next);
        }
    }

    fn read_more(&mut self) -> io::Result<bool> {
        self.read.drain(..self.from);
        self.from = 0;
        let had = self.read.len();
        self.read.resize(had + READ_OCTETS.max(had), 0);
        let room = self.read.get_mut(had..).unwrap_or_default();
        let read = self.file.read_at(room, self.at + had as u64)?;
        self.read.truncate(had + read);
        Ok(read > 0)
    }

    /// The last entry of the last row that was stepped over.
    pub(super) fn last_entry(&self) -> Option<EntryNumber> {
        let (at, octets) = self.last_row?;
        let mut row = vec![0; octets];
        self.file.read_exact_at(&mut row, at).ok()?;
        let entries: Vec<Entry> = serde_cbor::from_slice(&row).ok()?;
        entries.last().map(|entry| entry.number)
    }

    /// The first octet at or after a place that is not zero.
    pub(super) fn not_zero_from(&self, from: u64) -> io::Result<Option<u64>> {
        let zeros = vec![0; SKIP_OCTETS];
        let mut block = zeros.clone();
        let mut at = from;
        loop {
            let read = self.file.read_at(&mut block, at)?;
            let octets = block.get(..read).unwrap_or_default();
            // Most of a file: compared as a whole.
            if zeros.get(..read) != Some(octets)
                && let Some(index) = octets.iter().position(|octet| *octet != 0)
            {
                return Ok(Some(at + index as u64));
            }
            if read == 0 {
                return Ok(None);
            }
            at += read as u64;
        }
    }

    /// The rows of the journal in whole batches behind a place where none could be read.
    ///
    /// A batch of the journal is begun when the one before is synced. So where two stand behind such a place, what stood
    /// there was durable.
    pub(super) fn rows_behind(&self, from: u64) -> io::Result<usize> {
        let mut octets = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut octets)?;
        octets.truncate(written(&octets));
        let (mut at, mut rows) = (1, 0);
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
            at += match may_begin(rest).then(|| parse(rest)) {
                Some(Parsed::Whole(batch)) => {
                    rows += usize::from(batch.row.is_some());
                    batch.octets
                }
                _ => 1,
            };
        }
        Ok(rows)
    }

    /// Copies what was stepped over.
    pub(super) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut out = File::create(path)?;
        let mut input = io::Read::take(File::open(&self.path)?, self.at);
        io::copy(&mut input, &mut out).map(|_| ())
    }
}

/// How much there is without the zeros at the end.
pub(super) fn written(octets: &[u8]) -> usize {
    let zeros = [0; 4096];
    let mut rest = octets;
    while let Some(shorter) = rest.strip_suffix(&zeros) {
        rest = shorter;
    }
    let last = rest.iter().rposition(|octet| *octet != 0);
    last.map_or(0, |last| last.saturating_add(1))
}

/// Whether a batch may begin here: both tags are where they should be.
fn may_begin(octets: &[u8]) -> bool {
    octets.first() == Some(&START) && matches!(octets.get(13), Some(&ITEM | &CLEAR))
}

/// The log files of a folder, by number.
pub(super) fn ids(folder: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for row in std::fs::read_dir(folder)? {
        let name = row?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".jnl"));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

enum Parsed {
    Whole(Batch),
    Short,
    Wrong(&'static str, Option<EntryNumber>),
}

/// Reads numbers and pieces off the front.
struct Pieces<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let piece = self.all.get(self.at..end)?;
        self.at = end;
        Some(piece)
    }

    fn number<const N: usize>(&mut self) -> Option<u64> {
        let piece = self.take(N)?;
        let little_end_first = piece.iter().rev();
        Some(little_end_first.fold(0, |sum, octet| (sum << 8) | u64::from(*octet)))
    }

    fn size<const N: usize>(&mut self) -> Option<usize> {
        usize::try_from(self.number::<N>()?).ok()
    }
}

fn parse(octets: &[u8]) -> Parsed {
    let mut pieces = Pieces { all: octets, at: 0 };
    let mut first = None;
    match whole(&mut pieces, &mut first) {
        Some(Ok(batch)) => Parsed::Whole(batch),
        Some(Err(why)) => Parsed::Wrong(why, first),
        None => Parsed::Short,
    }
}

/// A batch, or why it is none; nothing when more octets are needed to say so.
fn whole(
    pieces: &mut Pieces<'_>,
    first: &mut Option<EntryNumber>,
) -> Option<Result<Batch, &'static str>> {
    if pieces.number::<1>()? != u64::from(START) {
        return Some(Err("tag"));
    }
    let items = pieces.number::<4>()?;
    let _seqno = pieces.number::<8>()?;
    let (mut keyspace, mut row) = (None, None);
    let items_from = pieces.at;
    for _ in 0..items {
        match u8::try_from(pieces.number::<1>()?) {
            Ok(ITEM) => {}
            Ok(CLEAR) => {
                pieces.number::<8>()?;
                continue;
            }
            _ => return Some(Err("an item's tag")),
        }
        let (kind, compression) = (pieces.number::<1>()?, pieces.number::<1>()?);
        if kind > 4 || compression != 0 {
            return Some(Err("an item's kind"));
        }
        let id = pieces.number::<8>()?;
        let key_octets = pieces.size::<2>()?;
        let (value_octets, stored_octets) = (pieces.size::<4>()?, pieces.size::<4>()?);
        if value_octets != stored_octets {
            return Some(Err("a length"));
        }
        let key = pieces.take(key_octets)?;
        let from = pieces.at;
        keyspace = keyspace.or(Some(id));
        if let (JOURNAL, Ok(key)) = (id, <[u8; 8]>::try_from(key)) {
            let number = EntryNumber(u64::from_be_bytes(key));
            *first = first.or(Some(number));
            row = row.or(Some(Row {
                first: number,
                from,
                octets: value_octets,
            }));
        }
        pieces.take(value_octets)?;
    }
    let hashed = pieces.all.get(items_from..pieces.at).unwrap_or_default();
    let end = pieces.number::<1>()?;
    let checksum = pieces.number::<8>()?;
    let trailer = pieces.take(TRAILER.len())?;
    Some(if end != u64::from(END) || trailer != TRAILER {
        Err("its end")
    } else if checksum != xxh3_64(hashed) {
        Err("its checksum")
    } else {
        Ok(Batch {
            octets: pieces.at,
            keyspace,
            row,
        })
    })
}
