//! Backups: the journal as one file, written while the service runs, and read into a new store.
//!
//! ```text
//! ["simquota-journal", 1]        a CBOR sequence (RFC 8742): the head,
//! [1, number, at, …]             every entry from the first on,
//! ["end", entries, SHA-256]      and the hash of everything before
//! ```
//!
//! Balances are not in it: they are what the entries add up to, and restoring adds them up anew, through every check of
//! a running service. Keys are not in it either: they are files of their own, and few. A file that is not whole is none.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_cbor::Deserializer;
use serde_cbor::de::IoRead;
use sha2::{Digest as _, Sha256};
use simquota_shared::message::ops::Blob;
use simquota_shared::units::EntryNumber;

use super::store::{Reader, Store, StoreError};
use crate::ledger::Ledger;
use crate::ledger::entry::Entry;

const HEAD: &str = "simquota-journal";
const FORMAT: u64 = 1;
const END: &str = "end";
/// Entries that are made durable at a time when restoring.
const BATCH: usize = 1000;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Entries.
    pub entries: u64,
    /// Octets of the file.
    pub octets: u64,
}

/// Why there is no backup, or no store out of one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system said no.
    #[error("can't {action} {}: {source}: check the path and the space on the disk", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not as it was written.
    #[error("{} is not a whole backup ({why}): take another", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A store is there.
    #[error("there is a ledger in {}: move it away first, or give --replace, which keeps it beside", .0.display())]
    Exists(PathBuf),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io {
        action,
        path,
        source,
    }
}

/// Counts and hashes what passes.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
    octets: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            octets: 0,
        }
    }

    fn passed(&mut self, octets: &[u8]) {
        self.hash.update(octets);
        self.octets = self.octets.saturating_add(octets.len() as u64);
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(octets)?;
        self.passed(octets.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(room)?;
        self.passed(room.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Writes all entries that a reader sees, as they stand now, beside the file's place, and then renames it there.
///
/// # Errors
/// [`BackupError`]; then there is no file.
pub fn write(path: &Path, reader: &Reader) -> Result<Held, BackupError> {
    let beside = path.with_extension("part");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
    }
    let file = File::create(&beside).map_err(failed("write", &beside))?;
    let mut out = Hashed::new(BufWriter::new(file));
    let encode = |out: &mut Hashed<_>, row: Result<Vec<u8>, serde_cbor::Error>| {
        row.map_err(|error| io::Error::other(error.to_string()))
            .and_then(|octets| out.write_all(&octets))
            .map_err(failed("write", &beside))
    };
    encode(&mut out, serde_cbor::to_vec(&(HEAD, FORMAT)))?;
    let mut entries = 0_u64;
    for entry in reader.entries(EntryNumber::ZERO) {
        encode(&mut out, serde_cbor::to_vec(&entry?))?;
        entries = entries.saturating_add(1);
    }
    let hash = Blob(out.hash.clone().finalize().to_vec());
    encode(&mut out, serde_cbor::to_vec(&(END, entries, hash)))?;
    let octets = out.octets;
    out.inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed("write", path))?;
    Ok(Held { entries, octets })
}

/// Makes a store out of a backup. Each entry goes through every check of a running service, and nothing is left behind
/// if one fails. A store that is there is kept beside, when it may be replaced.
///
/// # Errors
/// [`BackupError`].
pub fn restore(path: &Path, store: &Path, replace: bool) -> Result<Held, BackupError> {
    if store.exists() && !replace {
        return Err(BackupError::Exists(store.to_owned()));
    }
    // Twice: a file that is cut short is found before anything is written.
    let held = read(path, |_| Ok(()))?;
    let beside = store.with_extension("restored");
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(failed("remove", &beside))?;
    }
    let filled = fill(path, &beside);
    if filled.is_err() {
        // What is half a store is of no use to anybody.
        drop(fs::remove_dir_all(&beside));
    }
    filled?;
    if store.exists() {
        let kept = (1_u32..)
            .map(|number| store.with_extension(format!("before-{number}")))
            .find(|kept| !kept.exists())
            .unwrap_or_else(|| store.with_extension("before"));
        fs::rename(store, &kept).map_err(failed("move away", store))?;
    }
    fs::rename(&beside, store).map_err(failed("move into its place", &beside))?;
    Ok(held)
}

fn fill(path: &Path, folder: &Path) -> Result<(), BackupError> {
    let mut store = Store::open(folder)?;
    let mut ledger = Ledger::default();
    let mut batch = Vec::new();
    read(path, |entry| {
        ledger.apply(&entry).map_err(|broken| broken.to_string())?;
        batch.push(entry);
        if batch.len() >= BATCH {
            store.commit(&batch).map_err(|error| error.to_string())?;
            batch.clear();
        }
        Ok(())
    })?;
    store.commit(&batch)?;
    store.checkpoint(&ledger)?;
    Ok(())
}

fn read(
    path: &Path,
    mut each: impl FnMut(Entry) -> Result<(), String>,
) -> Result<Held, BackupError> {
    let damaged = |why: String| BackupError::Damaged {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(failed("read", path))?;
    let mut input = Hashed::new(BufReader::new(file));
    let head: (String, u64) =
        item(&mut input).map_err(|error| damaged(format!("its head: {error}")))?;
    if head != (HEAD.to_owned(), FORMAT) {
        return Err(damaged(format!("it is {} {}", head.0, head.1)));
    }
    let mut entries = 0_u64;
    loop {
        let before = input.hash.clone();
        let value: serde_cbor::Value =
            item(&mut input).map_err(|error| damaged(format!("after entry {entries}: {error}")))?;
        if let Ok((end, count, hash)) =
            serde_cbor::value::from_value::<(String, u64, Blob)>(value.clone())
        {
            let whole = end == END && count == entries && hash.0 == before.finalize().as_slice();
            return match whole {
                true => Ok(Held {
                    entries,
                    octets: input.octets,
                }),
                false => Err(damaged("its hash does not fit".to_owned())),
            };
        }
        let entry = serde_cbor::value::from_value(value)
            .map_err(|error| damaged(format!("after entry {entries}: {error}")))?;
        each(entry).map_err(|why| damaged(format!("after entry {entries}: {why}")))?;
        entries = entries.saturating_add(1);
    }
}

/// The next item of the sequence; nothing behind it is read.
fn item<T: serde::de::DeserializeOwned>(
    input: &mut Hashed<BufReader<File>>,
) -> Result<T, serde_cbor::Error> {
    T::deserialize(&mut Deserializer::new(IoRead::new(input)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use simquota_shared::units::UnixMillis;

    use super::*;
    use crate::ledger::entry::{Cause, FleetCreated, Subject};

    /// A store of so many fleets.
    fn store(folder: &Path, fleets: u64) -> Store {
        let mut store = Store::open(folder).unwrap();
        let mut ledger = Ledger::default();
        for number in 1..=fleets {
            let fleet = format!("f-{number}").parse().unwrap();
            let cause = Cause::FleetCreated(FleetCreated { fleet });
            let entry = ledger.record(UnixMillis(number), Subject::Platform, cause, Vec::new());
            store.commit(&[entry.unwrap()]).unwrap();
        }
        store
    }

    #[test]
    fn what_is_restored_is_what_was_backed_up_and_half_of_it_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, place) = (
            folder.path().join("b.journal"),
            folder.path().join("ledger"),
        );
        let original = store(&folder.path().join("original"), 2500);
        let held = write(&path, &original.reader()).unwrap();
        assert_eq!(held.entries, 2500);
        assert_eq!(held.octets, fs::metadata(&path).unwrap().len());
        assert_eq!(restore(&path, &place, false).unwrap(), held);
        let restored = Store::open(&place).unwrap();
        assert_eq!(restored.load().unwrap(), original.load().unwrap());
        drop(restored);

        // Into a place that is taken: only when told, and what was there is kept.
        let error = restore(&path, &place, false).unwrap_err().to_string();
        assert!(error.contains("--replace"), "{error}");
        restore(&path, &place, true).unwrap();
        assert!(place.with_extension("before-1").is_dir());

        // A file that was cut or altered makes no store, and leaves nothing behind.
        let whole = fs::read(&path).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        for damaged in [
            &whole[..whole.len() / 2],
            &whole[..whole.len() - 1],
            &altered,
            &[],
        ] {
            fs::write(&path, damaged).unwrap();
            let error = restore(&path, &elsewhere, false).unwrap_err();
            assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
            assert!(!elsewhere.exists() && !elsewhere.with_extension("restored").exists());
        }
    }
}
