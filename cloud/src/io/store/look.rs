//! Looking at a store's folder without the database, and without changing an octet of it.
//!
//! What each file is held against:
//!
//! | file | what holds it |
//! |---|---|
//! | `version` | the one text that it may have |
//! | `lock` | it is empty |
//! | `keyspaces/N/current` | names the file `vM` and the XXH3 of it |
//! | `keyspaces/N/vM` | that hash; it names each table and the XXH3 of it |
//! | `keyspaces/N/tables/T` | that hash |
//! | `N.jnl` | a checksum for each batch, the guard's hash over all of them, and zeros behind |
//! | `guard` | its own hash; its last entry is in the store, with that chain hash |
//!
//! Files that nothing names hold nothing: the database leaves an older `vM` until it opens the store again, a kill a table
//! that was not finished. They are noted.
//!
//! **What an altered octet does.** In a table: the database finds it when it reads that block; only an audit reads all.
//! In `current` or `vM`: the database does not check them, and could lose tables. In a log file: the database cuts the
//! log off there. So [`look`] runs before each opening, over all but the tables; an audit looks at those too.
//!
//! **What is never accused.** A store that was killed: behind what the guard names stands a batch that nobody was told of,
//! or a part of one. A store whose power was cut: the same, in any state, and the guard is older. Log files that the
//! guard names and that are gone: they are in tables; that the guard's last entry is there proves it. A copy that was
//! taken while nothing had the store open is as good as the store. A guard that can't be read: an audit names it, the
//! service goes on without it and writes it anew.
//!
//! **What is not found.** Behind the guard of a store that was killed, an altered octet can't be told from a batch that
//! was not finished: that is noted, and is no fault. But a row of the journal is begun when the one before is synced; so
//! where two rows stand whole behind a place that can't be read, what stood there was durable, and that is a fault,
//! with a guard or without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use simquota_shared::units::EntryNumber;
use xxhash_rust::xxh3::Xxh3;

use super::StoreError;
use super::guard::{self, Found, Guard, Guarded};
use super::log::{self, Log, Next};

const VERSION: &[u8] = b"FJL\x03";
const KEYSPACES: &str = "keyspaces";
const READ_OCTETS: usize = 1024 * 1024;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All but tables: what the database does not check by itself.
    Quick,
    /// Every octet.
    Whole,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Looked {
    /// What is not as it was written, in words, each with the entry or the file.
    pub(super) faults: Vec<String>,
    /// What is worth a word and proves nothing.
    pub(super) notes: Vec<String>,
    /// A list of tables is altered: the database believes it, and asks for memory until the process ends.
    pub(super) unreadable: bool,
    /// The guard, if there is one.
    pub(super) guard: Option<Guard>,
    /// The log files, each read to the end of its whole batches.
    pub(super) logs: Vec<Log>,
    /// All files but log files and guard, within the folder: what a copy needs. True: never written again.
    pub(super) files: Vec<(PathBuf, bool)>,
}

/// Looks at a folder that no process has open. One without a database shows nothing.
///
/// # Errors
/// [`StoreError::Io`] when a file can't be read.
pub(super) fn look(folder: &Path, depth: Depth) -> Result<Looked, StoreError> {
    let mut looked = Looked::default();
    looked
        .all(folder, depth)
        .map(|()| looked)
        .map_err(|source| StoreError::Io {
            folder: folder.to_owned(),
            done: "read",
            source,
        })
}

impl Looked {
    /// Cuts off what stands behind the last whole batch of a guarded store, as the database does; but the database
    /// takes a batch for damage that has both ends and a hole, which a power cut leaves. No fault may have been found.
    pub(super) fn cut_unfinished(&self) -> io::Result<()> {
        // Only the newest can have one: the others were synced before it was made.
        if let (Some(log), Some(_)) = (self.logs.last(), &self.guard)
            && log.not_zero_from(log.at())?.is_some()
        {
            tracing::info!(file = %log.path.display(), from = log.at(), "unfinished write cut off");
            let file = OpenOptions::new().write(true).open(&log.path)?;
            file.set_len(log.at())?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn all(&mut self, folder: &Path, depth: Depth) -> io::Result<()> {
        match Guard::read(folder)? {
            Found::Guard(guard) => self.guard = Some(guard),
            // Nobody can say what a disk makes of a sector that it was writing when its power went: the service goes on as
            // if there were none, and writes it anew.
            Found::Altered => {
                let found = format!(
                    "the file {} is not as it was written (its hash does not fit); no entry stands there: the service writes it anew",
                    guard::NAME
                );
                match depth {
                    Depth::Whole => self.faults.push(found),
                    Depth::Quick => self.notes.push(found),
                }
            }
            Found::None => self.notes.push(
                "there is no guard: the last entries of this store can't be proven to be the last"
                    .to_owned(),
            ),
        }
        self.exactly(folder, "version", VERSION)?;
        self.exactly(folder, "lock", b"")?;
        let mut keyspaces = Vec::new();
        for row in fs::read_dir(folder.join(KEYSPACES))? {
            let name = row?.file_name();
            keyspaces.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        keyspaces.sort_unstable();
        for id in keyspaces {
            self.keyspace(folder, id, depth)?;
        }
        for id in log::ids(folder)? {
            let log = self.log(folder, id)?;
            self.logs.push(log);
        }
        Ok(())
    }

    fn exactly(&mut self, folder: &Path, name: &str, expected: &[u8]) -> io::Result<()> {
        if fs::read(folder.join(name))? != expected {
            self.faults.push(format!(
                "the file {name} is not as it was written; no entry stands there"
            ));
        }
        self.files.push((PathBuf::from(name), false));
        Ok(())
    }

    fn keyspace(&mut self, folder: &Path, id: u64, depth: Depth) -> io::Result<()> {
        let place = Path::new(KEYSPACES).join(id.to_string());
        let current_name = place.join("current");
        let current = match fs::read(folder.join(&current_name)) {
            Ok(current) => current,
            // It was not finished when it was made, and holds nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let what = what_stands_in(id);
        let altered = |name: &Path, why: &str| {
            format!(
                "the file {} is not as it was written ({why}); no entry stands there: it names the tables of {what}",
                name.display()
            )
        };
        self.files.push((current_name.clone(), false));
        let Some((version, hash)) = named(&current) else {
            self.faults
                .push(altered(&current_name, "it is not of its form"));
            self.unreadable = true;
            return Ok(());
        };
        let version_name = place.join(format!("v{version}"));
        let found = match hashed(&folder.join(&version_name)) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = format!("it names v{version}, which is not there");
                self.faults.push(altered(&current_name, &why));
                self.unreadable = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.files.push((version_name.clone(), false));
        if found != hash {
            let why = format!("its hash is not the one in {}", current_name.display());
            self.faults.push(altered(&version_name, &why));
            self.unreadable = true;
            return Ok(());
        }
        for (table, hash) in tables(&folder.join(&version_name))? {
            let name = place.join("tables").join(table.to_string());
            let whole = match depth {
                Depth::Whole => hashed(&folder.join(&name)).map(|found| found == hash),
                Depth::Quick => fs::metadata(folder.join(&name)).map(|_| true),
            };
            match whole {
                Ok(true) => {}
                Ok(false) => self.faults.push(format!(
                    "the file {} is not as it was written (its hash is not the one in {}): {what} stands there",
                    name.display(),
                    version_name.display()
                )),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.faults.push(format!(
                    "the file {} is missing: {what} stood there",
                    name.display()
                )),
                Err(error) => return Err(error),
            }
            self.files.push((name, true));
        }
        if depth == Depth::Whole {
            self.unnamed(folder, &place)?;
            self.unnamed(folder, &place.join("tables"))?;
        }
        Ok(())
    }

    /// Notes files of a keyspace that nothing names.
    fn unnamed(&mut self, folder: &Path, place: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        let rows = match fs::read_dir(folder.join(place)) {
            // Not every copy has the folders that nothing is in.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            rows => rows?,
        };
        for row in rows {
            let row = row?;
            if row.file_type()?.is_file() {
                names.push(place.join(row.file_name()));
            }
        }
        names.sort();
        names.retain(|name| !self.files.iter().any(|(file, _)| file == name));
        self.notes.extend(names.iter().map(|name| {
            format!(
                "nothing names the file {}: it holds nothing, and the database removes it",
                name.display()
            )
        }));
        Ok(())
    }

    fn log(&mut self, folder: &Path, id: u64) -> io::Result<Log> {
        let mut log = Log::open(folder, id)?;
        let guarded = self.guarded(id);
        let mut hash_there = None;
        let stopped = loop {
            if guarded.is_some_and(|guarded| guarded.octets == log.at()) {
                hash_there = Some(log.hash());
            }
            match log.step()? {
                Next::Batch(_) => {}
                stopped => break stopped,
            }
        };
        // An older version does not know the guard: it leaves the promise where it is, and writes batches behind it.
        let closed = self.guard.as_ref().is_some_and(|guard| guard.closed)
            && guarded.is_some_and(|guarded| guarded.octets == log.at());
        match guarded {
            Some(Guarded { octets, .. }) if log.at() < octets => {
                let fault = altered_batch(&log, &stopped);
                self.faults.push(fault);
            }
            Some(Guarded { hash, .. }) if hash_there != Some(hash) => self.faults.push(format!(
                "the file {id}.jnl is not as it was written: the database's number of a batch in it was altered; no entry stands there"
            )),
            _ => {}
        }
        // Behind the last batch: zeros that the database put there in advance, or a batch that was not finished.
        if let Some(place) = log.not_zero_from(log.at())?
            && guarded.is_none_or(|guarded| guarded.octets <= log.at())
        {
            let rows = log.rows_behind(log.at())?;
            if rows > 1 {
                let fault = altered_batch(&log, &stopped);
                self.faults
                    .push(format!("{fault}, and {rows} whole batches stand behind it"));
                return Ok(log);
            }
            let found = format!(
                "the file {id}.jnl has octets behind its last batch, from {place} on; no entry stands there"
            );
            match closed {
                true => self.faults.push(format!("{found}: they were altered")),
                false => self.notes.push(format!(
                    "{found}: a write that was not finished, which nobody was told of"
                )),
            }
        }
        Ok(log)
    }

    fn guarded(&self, id: u64) -> Option<Guarded> {
        let logs = &self.guard.as_ref()?.logs;
        logs.iter().find(|log| log.id == id).copied()
    }
}

/// Names the batch that a log ends before and should not.
fn altered_batch(log: &Log, stopped: &Next) -> String {
    let (why, called) = match stopped {
        Next::Wrong(why, called) => (*why, *called),
        Next::Batch(_) | Next::Nothing => ("zeros", None),
        Next::Cut => ("a length", None),
    };
    let behind = log
        .last_entry()
        .map(|last| EntryNumber(last.value().saturating_add(1)));
    let name = match behind.or(called) {
        Some(entry) => format!(
            "entry {entry}, or one of the same batch, or what was written with it, can't be read"
        ),
        None => "the first batch can't be read".to_owned(),
    };
    format!(
        "{name}: the file {}.jnl is altered at octet {} or soon after ({why} is wrong)",
        log.id,
        log.at()
    )
}

fn what_stands_in(keyspace: u64) -> &'static str {
    match keyspace {
        log::JOURNAL => "the journal",
        log::CHECKPOINT => "checkpoints and cursors",
        _ => "the database's list of keyspaces",
    }
}

/// `version (8), XXH3 (16), 0`, little-endian: what a file `current` names.
fn named(current: &[u8]) -> Option<(u64, u128)> {
    let (version, rest) = current.split_at_checked(8)?;
    let (hash, kind) = rest.split_at_checked(16)?;
    if kind != [0] {
        return None;
    }
    Some((
        u64::from_le_bytes(version.try_into().ok()?),
        u128::from_le_bytes(hash.try_into().ok()?),
    ))
}

/// The tables that a version names, and their hashes. The file's own hash was found to fit.
fn tables(version: &Path) -> io::Result<Vec<(u64, u128)>> {
    let other = |error: sfa::Error| io::Error::other(error.to_string());
    let reader = sfa::Reader::new(version).map_err(other)?;
    let section = reader
        .toc()
        .section(b"tables")
        .ok_or_else(|| io::Error::other("a version without tables"))?;
    let mut octets = Vec::new();
    section.buf_reader(version)?.read_to_end(&mut octets)?;
    read_tables(&octets).ok_or_else(|| io::Error::other("a version of another form"))
}

/// `levels (1) [runs (1) [tables (4) [id (8), 0, XXH3 (16), number (8)]]]`, little-endian.
fn read_tables(octets: &[u8]) -> Option<Vec<(u64, u128)>> {
    let mut rest = octets;
    let mut piece = |count: usize| {
        let (piece, behind) = rest.split_at_checked(count)?;
        rest = behind;
        Some(piece)
    };
    let mut found = Vec::new();
    for _ in 0..*piece(1)?.first()? {
        for _ in 0..*piece(1)?.first()? {
            for _ in 0..u32::from_le_bytes(piece(4)?.try_into().ok()?) {
                let id = u64::from_le_bytes(piece(8)?.try_into().ok()?);
                piece(1)?;
                found.push((id, u128::from_le_bytes(piece(16)?.try_into().ok()?)));
                piece(8)?;
            }
        }
    }
    Some(found)
}

fn hashed(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut block = vec![0; READ_OCTETS];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(hash.digest128());
        }
        hash.update(block.get(..read).unwrap_or_default());
    }
}
