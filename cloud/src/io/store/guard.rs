//! The guard: what was durable, so that nothing of it can go missing unnoticed.
//!
//! It is the file `guard` in the store's folder, 512 octets (numbers big-endian):
//!
//! ```text
//!   0  "SQGUARD1"
//!   8  1: closed in order, nothing stands behind what is named here; 0: a store is or was open
//!   9  the last durable entry's number (8), its chain hash (8)
//!  25  log files that follow (1), at most 14
//!  26  for each: its number (8), octets of whole batches (8), their XXH3 (16)
//! 496  XXH3 of all before (16)
//! ```
//!
//! **When it is written.** After each commit, once the database has synced it, and without a sync of its own. It is
//! written in place and lies within one sector, so that no power cut tears it: a cut only makes it older, and what it
//! names stays durable for ever. Octet 8 alone is a promise about what is *not* there. It is set by an orderly end,
//! with a sync, and cleared, with a sync, before the database is opened and may write: it can't come back.
//!
//! **When it is read.** Before the database opens the store: fjall cuts a log off at the first batch that it can't
//! read, and takes the evidence with it (fjall #311).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use simquota_shared::units::EntryNumber;
use xxhash_rust::xxh3::xxh3_128;

use super::log::{Log, Next, ids};
use crate::ledger::chain::Link;

/// The file's name.
pub(super) const NAME: &str = "guard";
const MAGIC: &[u8] = b"SQGUARD1";
const OCTETS: usize = 512;
const BODY_OCTETS: usize = 496;
const LOGS_MAX: usize = 14;

/// What the guard says of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    /// Its number.
    pub(super) id: u64,
    /// Octets of whole batches, from its beginning.
    pub(super) octets: u64,
    /// Their hash.
    pub(super) hash: u128,
}

/// What was durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guard {
    /// The store was closed in order.
    pub(super) closed: bool,
    /// The last entry.
    pub(super) last: EntryNumber,
    /// Its chain hash.
    pub(super) link: Link,
    /// The log files, rising.
    pub(super) logs: Vec<Guarded>,
}

/// What was found in the guard's place.
pub(super) enum Found {
    /// None: the store was made by an older version.
    None,
    /// One.
    Guard(Guard),
    /// Octets that are none.
    Altered,
}

impl Guard {
    fn to_octets(&self) -> [u8; OCTETS] {
        let mut body = MAGIC.to_vec();
        body.push(u8::from(self.closed));
        body.extend(self.last.value().to_be_bytes());
        body.extend(self.link);
        // Of more files the newest count: the oldest are about to be in tables, which have checksums of their own.
        let logs = self
            .logs
            .get(self.logs.len().saturating_sub(LOGS_MAX)..)
            .unwrap_or_default();
        body.push(u8::try_from(logs.len()).unwrap_or_default());
        for Guarded { id, octets, hash } in logs {
            body.extend(id.to_be_bytes());
            body.extend(octets.to_be_bytes());
            body.extend(hash.to_be_bytes());
        }
        body.resize(BODY_OCTETS, 0);
        let hash = xxh3_128(&body);
        body.extend(hash.to_be_bytes());
        let mut all = [0; OCTETS];
        for (to, from) in all.iter_mut().zip(body) {
            *to = from;
        }
        all
    }

    fn from_octets(octets: &[u8]) -> Option<Self> {
        let (body, hash) = octets.split_at_checked(BODY_OCTETS)?;
        if u128::from_be_bytes(hash.try_into().ok()?) != xxh3_128(body) {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let mut piece = |count: usize| {
            let (piece, behind) = rest.split_at_checked(count)?;
            rest = behind;
            Some(piece)
        };
        let closed = piece(1)? == [1];
        let last = EntryNumber(u64::from_be_bytes(piece(8)?.try_into().ok()?));
        let link = piece(8)?.try_into().ok()?;
        let count = *piece(1)?.first()?;
        let mut logs = Vec::new();
        for _ in 0..count {
            logs.push(Guarded {
                id: u64::from_be_bytes(piece(8)?.try_into().ok()?),
                octets: u64::from_be_bytes(piece(8)?.try_into().ok()?),
                hash: u128::from_be_bytes(piece(16)?.try_into().ok()?),
            });
        }
        Some(Self {
            closed,
            last,
            link,
            logs,
        })
    }

    /// Reads a folder's guard.
    pub(super) fn read(folder: &Path) -> io::Result<Found> {
        match fs::read(folder.join(NAME)) {
            Ok(octets) => Ok(Self::from_octets(&octets).map_or(Found::Altered, Found::Guard)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::None),
            Err(error) => Err(error),
        }
    }

    /// Takes back the promise that nothing stands behind what is named, before anything may.
    pub(super) fn reopen(&mut self, folder: &Path) -> io::Result<()> {
        self.closed = false;
        let file = OpenOptions::new().write(true).open(folder.join(NAME))?;
        file.write_all_at(&self.to_octets(), 0)?;
        file.sync_data()
    }

    /// Makes the file, durably, or writes it anew.
    fn make(&self, folder: &Path) -> io::Result<File> {
        let (path, beside) = (folder.join(NAME), folder.join("guard.part"));
        let file = File::create(&beside)?;
        file.write_all_at(&self.to_octets(), 0)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(folder)?.sync_all()?;
        Ok(file)
    }
}

/// Keeps the guard of an open store.
pub(super) struct Keeper {
    folder: PathBuf,
    file: File,
    guard: Guard,
    /// The log file that is written now; none after it could not be read.
    log: Option<Log>,
    /// The last write did not succeed; it was said.
    behind: bool,
}

impl Keeper {
    /// Begins, with the log files as they were read before the database opened them, or as a new store has them.
    pub(super) fn begin(
        folder: &Path,
        logs: Vec<Log>,
        last: EntryNumber,
        link: Link,
    ) -> io::Result<Self> {
        let mut logs = logs;
        if logs.is_empty() {
            for id in ids(folder)? {
                logs.push(Log::open(folder, id)?);
            }
        }
        let log = logs
            .pop()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no log file"))?;
        let mut guard = Guard {
            closed: false,
            last,
            link,
            logs: logs.iter().chain([&log]).map(guarded).collect(),
        };
        let log = follow(folder, log, &mut guard.logs)?;
        // In place where it is there: a disk that is full takes no new file, and the store can still be read.
        let file = match OpenOptions::new().write(true).open(folder.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => guard.make(folder)?,
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() > OCTETS as u64 {
            file.set_len(OCTETS as u64)?;
        }
        let mut keeper = Self {
            folder: folder.to_owned(),
            file,
            guard,
            log: Some(log),
            behind: false,
        };
        keeper.note(last, link);
        Ok(keeper)
    }

    /// Notes what a commit has made durable. When that fails the guard is older than it could be, and not wrong.
    pub(super) fn note(&mut self, last: EntryNumber, link: Link) {
        (self.guard.last, self.guard.link) = (last, link);
        match self.write() {
            Ok(()) => self.behind = false,
            Err(error) if !self.behind => {
                self.behind = true;
                tracing::warn!(%error, "the store's guard is not written, it guards less than it could");
            }
            Err(_) => {}
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let log = match self.log.take() {
            Some(log) => log,
            // The last try failed on the way: from the beginning of the newest file that is noted.
            None => {
                let newest = self.guard.logs.pop().map_or(0, |newest| newest.id);
                Log::open(&self.folder, newest)?
            }
        };
        self.log = Some(follow(&self.folder, log, &mut self.guard.logs)?);
        self.file.write_all_at(&self.guard.to_octets(), 0)
    }

    /// Promises that nothing stands behind what is named. All of it must be synced.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.write()?;
        let behind = self.log.as_ref().map(|log| log.not_zero_from(log.at()));
        if behind.transpose()? != Some(None) {
            return Err(io::Error::other("a write was not finished"));
        }
        self.guard.closed = true;
        self.file.write_all_at(&self.guard.to_octets(), 0)?;
        self.file.sync_data()
    }
}

fn guarded(log: &Log) -> Guarded {
    Guarded {
        id: log.id,
        octets: log.at(),
        hash: log.hash(),
    }
}

/// Steps over all whole batches, from file to file, and notes them.
fn follow(folder: &Path, mut log: Log, noted: &mut Vec<Guarded>) -> io::Result<Log> {
    loop {
        while let Next::Batch(_) = log.step()? {}
        noted.retain(|old| old.id != log.id);
        noted.push(guarded(&log));
        // The database writes into the highest one, and removes the lowest when all of it is in tables.
        let next = match Log::open(folder, log.id + 1) {
            Ok(next) => next,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if log.path.exists() => return Ok(log),
            Err(_) => match ids(folder)?.into_iter().find(|id| *id > log.id) {
                Some(id) => Log::open(folder, id)?,
                None => return Ok(log),
            },
        };
        noted.retain(|old| folder.join(format!("{}.jnl", old.id)).exists());
        log = next;
    }
}
