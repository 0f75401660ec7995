//! The store: the journal, and checkpoints of what it adds up to, in a fjall database.
//!
//! ```text
//! journal     first entry's number (8)            a batch: CBOR array of entries
//! checkpoint  "c" entry number (8) part (4)       part of a ledger's CBOR
//! checkpoint  "h" entry number (8)                [octets, parts, SHA-256]: the parts above are complete
//! checkpoint  "format"                            1
//! checkpoint  "test"                              zeros: written to see whether the disk takes writes
//! checkpoint  "hook/" name                        the entry up to which events were delivered to a web hook
//! checkpoint  "published"                         the entry up to which events were published
//! ```
//!
//! Only the journal is written in the hot path: one row and one sync for each batch, appended in key order. A
//! checkpoint spares a restart the journal before it and nothing else: it can be left out or thrown away. The one
//! before is kept until the new one is durable.
//!
//! **Nothing that was durable goes missing unnoticed.** Beside the database's files lies a guard that names the last
//! durable entry and the log files as they were after it (`guard.rs`); before the database opens a store, which makes it
//! cut off what it can't read, the folder is held against it (`look.rs`). A store that lost something is refused, with the
//! entry at which it ends, by `serve` as by everything else. An audit of a folder looks at every octet of every file and
//! opens a copy (`copy.rs`), so that the evidence stays.

#[cfg(test)]
mod altered;
mod checkpoint;
mod copy;
mod error;
mod guard;
mod journal;
mod log;
mod look;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rustix::fs::{Advice, fadvise};
use simquota_shared::ids::KeyId;
use simquota_shared::units::EntryNumber;

pub use copy::{Seen, see};
pub use error::StoreError;
pub use journal::{Entries, Reader};

use guard::{Guard, Keeper};
use look::{Depth, Looked, look};

use crate::ledger::Ledger;
use crate::ledger::chain::{GENESIS, Link};
use crate::ledger::entry::Entry;

const FORMAT_KEY: &[u8] = b"format";
const FORMAT: u64 = 1;
const TEST_KEY: &[u8] = b"test";
const TEST_OCTETS: usize = 64 * 1024;
const PUBLISHED_KEY: &[u8] = b"published";
const LOCK: &str = "lock";
/// Who just let go of a store may hold its lock for a moment.
const LOCK_TRIES: u32 = 3;
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Small memtables: a commit that waits for one to be written out waits for so much.
const MEMTABLE_OCTETS: u64 = 16 * 1024 * 1024;

fn hook_key(name: &KeyId) -> Vec<u8> {
    format!("hook/{name}").into_bytes()
}

/// An open store. It belongs to one thread; a [`Reader`] may read beside it.
pub struct Store {
    folder: PathBuf,
    database: Database,
    journal: Keyspace,
    checkpoints: Keyspace,
    last: EntryNumber,
    /// None for a copy that is only looked at.
    keeper: Option<Keeper>,
}

/// The lock that the database takes: while it is held nobody opens the store.
fn locked(folder: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::io(folder, "opened", source);
    let lock = File::open(folder.join(LOCK)).map_err(failed)?;
    for tried in 1.. {
        match lock.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            Err(fs::TryLockError::WouldBlock) if tried == LOCK_TRIES => {
                return Err(StoreError::Locked(folder.to_owned()));
            }
            Err(fs::TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
        }
    }
    Ok(lock)
}

fn link_of(entry: Option<&Entry>) -> Link {
    let octets = entry.map(|entry| entry.chain.0.as_slice());
    octets
        .and_then(|octets| octets.try_into().ok())
        .unwrap_or(GENESIS)
}

impl Store {
    /// Opens the store, or makes it. One that is there is held against its guard first.
    ///
    /// # Errors
    /// [`StoreError`]; each names the folder and says what to do.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::io(folder, "opened", source);
        // The database writes it last when it makes a store.
        let looked = if folder.join("version").exists() {
            let lock = locked(folder)?;
            let mut looked = look(folder, Depth::Quick)?;
            if let Some(fault) = looked.faults.first() {
                return Err(StoreError::damaged(folder, fault.clone()));
            }
            for note in &looked.notes {
                tracing::info!(folder = %folder.display(), note, "store looked at");
            }
            if let Some(guard) = looked.guard.as_mut().filter(|guard| guard.closed) {
                guard.reopen(folder).map_err(failed)?;
            }
            looked.cut_unfinished().map_err(failed)?;
            drop(lock);
            looked
        } else {
            Looked::default()
        };
        let mut store = Self::open_database(folder)?;
        let last = store.reader().entry(store.last)?;
        if let Some(guard) = &looked.guard {
            store.holds(guard)?;
        }
        let keeper = Keeper::begin(folder, looked.logs, store.last, link_of(last.as_ref()));
        store.keeper = Some(keeper.map_err(failed)?);
        Ok(store)
    }

    /// What was durable is there.
    fn holds(&self, guard: &Guard) -> Result<(), StoreError> {
        if guard.last > self.last {
            return Err(StoreError::Lost {
                folder: self.folder.clone(),
                missing: self.last.next().unwrap_or(self.last),
                last: guard.last,
            });
        }
        match self.reader().entry(guard.last)? {
            Some(entry) if link_of(Some(&entry)) != guard.link => Err(StoreError::Unreadable {
                folder: self.folder.clone(),
                entry: guard.last,
                why: "it is another one than was made durable".to_owned(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn open_database(folder: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_fjall(folder, "opened", error);
        let builder = Database::builder(folder);
        // Recovery takes some damage for a broken promise of its own and panics. That is a damaged store as well.
        let database = match catch_unwind(AssertUnwindSafe(|| builder.open())) {
            Ok(opened) => opened.map_err(failed)?,
            Err(_) => return Err(StoreError::damaged(folder, "recovery panicked")),
        };
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_OCTETS);
        let journal = database.keyspace("journal", options).map_err(failed)?;
        let checkpoints = database.keyspace("checkpoint", options).map_err(failed)?;
        let mut store = Self {
            folder: folder.to_owned(),
            database,
            journal,
            checkpoints,
            last: EntryNumber::ZERO,
            keeper: None,
        };
        store.check_format()?;
        store.last = store.reader().last()?;
        Ok(store)
    }

    /// Opens a store that must be there already: looking must not make one.
    ///
    /// # Errors
    /// As [`Store::open`], and [`StoreError::Missing`].
    pub fn open_existing(folder: &Path) -> Result<Self, StoreError> {
        if !folder.is_dir() {
            return Err(StoreError::Missing(folder.to_owned()));
        }
        Self::open(folder)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::from_fjall(&self.folder, "read", error);
        match self.checkpoints.get(FORMAT_KEY).map_err(failed)? {
            Some(octets) => match serde_cbor::from_slice(&octets) {
                Ok(FORMAT) => Ok(()),
                Ok(found) => Err(StoreError::Format {
                    folder: self.folder.clone(),
                    found,
                }),
                Err(_) => Err(StoreError::damaged(
                    &self.folder,
                    "its format number is not one",
                )),
            },
            None => {
                let octets = self.encoded(&FORMAT)?;
                self.put_durably(&self.checkpoints, FORMAT_KEY, octets)
            }
        }
    }

    /// The ledger that the journal adds up to: the latest checkpoint and the entries after it, each checked
    /// against numbers, times, hash chain and identities.
    ///
    /// # Errors
    /// [`StoreError`] naming the entry that can't be read or does not fit.
    pub fn load(&self) -> Result<Ledger, StoreError> {
        let mut ledger = self.latest_checkpoint()?.unwrap_or_default();
        if ledger.last > self.last {
            return Err(StoreError::damaged(
                &self.folder,
                format!(
                    "the journal ends at entry {}, before the checkpoint at {}",
                    self.last, ledger.last
                ),
            ));
        }
        let next = EntryNumber(ledger.last.value().saturating_add(1));
        for entry in self.reader().entries(next) {
            let entry = entry?;
            ledger
                .apply(&entry)
                .map_err(|broken| StoreError::DoesNotFit {
                    folder: self.folder.clone(),
                    entry: entry.number,
                    broken,
                })?;
        }
        Ok(ledger)
    }

    /// Writes a batch of entries, durably, as one: all of them are there after a power cut, or none.
    ///
    /// # Errors
    /// After any error nobody knows whether the batch is there: drop the store, open it again and look.
    pub fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        if Some(first.number) != self.last.next() {
            return Err(StoreError::NotNext {
                folder: self.folder.clone(),
                entry: first.number,
                last: self.last,
            });
        }
        let octets = self.encoded(&entries)?;
        self.put_durably(&self.journal, &first.number.value().to_be_bytes(), octets)?;
        self.last = last.number;
        if let Some(keeper) = &mut self.keeper {
            keeper.note(last.number, link_of(Some(last)));
        }
        Ok(())
    }

    /// Makes the system forget what it holds of a store's files in memory. After a sync that failed, pages may be
    /// there that never reached the disk, and a store opened on them would promise what a power cut takes away.
    pub fn forget_cached(folder: &Path) {
        let Ok(rows) = fs::read_dir(folder) else {
            return;
        };
        for path in rows.flatten().map(|row| row.path()) {
            if path.is_dir() {
                Self::forget_cached(&path);
            } else if let Ok(file) = File::open(&path) {
                // Advice: a file system that has no use for it ignores it.
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }

    /// Makes a row durable that means nothing, as large as a batch of many devices: whether the disk takes one.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub fn test_write(&mut self) -> Result<(), StoreError> {
        self.put_durably(&self.checkpoints, TEST_KEY, vec![0; TEST_OCTETS])
    }

    /// Up to which entry events were published.
    ///
    /// # Errors
    /// [`StoreError`] when the row can't be read.
    pub fn published(&self) -> Result<EntryNumber, StoreError> {
        Ok(self.cursor(PUBLISHED_KEY)?.unwrap_or(EntryNumber::ZERO))
    }

    /// Up to which entry events were delivered to a web hook; `None` when it is new.
    ///
    /// # Errors
    /// [`StoreError`] when the row can't be read.
    pub fn hook(&self, name: &KeyId) -> Result<Option<EntryNumber>, StoreError> {
        self.cursor(&hook_key(name))
    }

    fn cursor(&self, key: &[u8]) -> Result<Option<EntryNumber>, StoreError> {
        let row = self
            .checkpoints
            .get(key)
            .map_err(|error| StoreError::from_fjall(&self.folder, "read", error))?;
        let read = |octets: fjall::UserValue| {
            serde_cbor::from_slice(&octets)
                .map_err(|error| StoreError::damaged(&self.folder, error.to_string()))
        };
        row.map(read).transpose()
    }

    /// Keeps up to which entry events were published. It is durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError`]; the journal is not touched by it.
    pub fn keep_published(&mut self, entry: EntryNumber) -> Result<(), StoreError> {
        self.keep_cursor(PUBLISHED_KEY, entry)
    }

    /// Keeps up to which entry events were delivered to a web hook. It is durable with the next commit.
    ///
    /// # Errors
    /// [`StoreError`]; the journal is not touched by it.
    pub fn keep_hook(&mut self, name: &KeyId, entry: EntryNumber) -> Result<(), StoreError> {
        self.keep_cursor(&hook_key(name), entry)
    }

    fn keep_cursor(&self, key: &[u8], entry: EntryNumber) -> Result<(), StoreError> {
        let octets = self.encoded(&entry)?;
        self.checkpoints
            .insert(key, octets)
            .map_err(|error| StoreError::from_fjall(&self.folder, "written", error))
    }

    fn put_durably(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        octets: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        batch.insert(keyspace, key, octets);
        batch
            .commit()
            .map_err(|error| StoreError::from_fjall(&self.folder, "written", error))
    }

    fn encoded<T: serde::Serialize>(&self, row: &T) -> Result<Vec<u8>, StoreError> {
        serde_cbor::to_vec(row).map_err(|error| StoreError::Unwritable {
            folder: self.folder.clone(),
            why: error.to_string(),
        })
    }

    /// The last entry that is durable.
    #[must_use]
    pub fn last(&self) -> EntryNumber {
        self.last
    }

    /// Reads the journal beside this store, on any thread. The folder stays locked while one lives.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(
            self.folder.clone(),
            self.database.clone(),
            self.journal.clone(),
        )
    }
}

impl Drop for Store {
    /// An orderly end: nothing stands in the log files but what the guard names.
    fn drop(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let closed = match self.database.persist(PersistMode::SyncAll) {
            Ok(()) => keeper.close().map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = closed {
            // As after a kill: the guard names what was durable.
            tracing::debug!(error, "store not closed in order");
        }
    }
}
