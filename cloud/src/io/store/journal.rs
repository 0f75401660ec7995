//! Reading the journal, from any entry on, without holding it in memory.

use std::path::{Path, PathBuf};

use fjall::{Database, Guard, Keyspace, Readable};
use serde_cbor::Value;
use simquota_shared::units::EntryNumber;

use super::StoreError;
use crate::ledger::entry::Entry;

/// Reads the journal.
#[derive(Clone)]
pub struct Reader {
    folder: PathBuf,
    database: Database,
    journal: Keyspace,
}

impl Reader {
    pub(super) fn new(folder: PathBuf, database: Database, journal: Keyspace) -> Self {
        Self {
            folder,
            database,
            journal,
        }
    }

    /// The entries from a number on, as they stand now: later commits do not appear.
    #[must_use]
    pub fn entries(&self, from: EntryNumber) -> Entries {
        // A row is named after its first entry, so the one that `from` is in may have a lower name.
        let from_key = from.value().to_be_bytes();
        // A range of the keyspace itself would go on into later commits.
        let snapshot = self.database.snapshot();
        let before = snapshot.range(&self.journal, ..=from_key).next_back();
        let start = match before.map(Guard::key) {
            Some(Ok(key)) => key.to_vec(),
            Some(Err(_)) | None => from_key.to_vec(),
        };
        Entries {
            folder: self.folder.clone(),
            rows: snapshot.range(&self.journal, start..),
            batch: Vec::new().into_iter(),
            from,
            next: None,
            failed: false,
        }
    }

    /// One entry; none when the journal has no such number.
    ///
    /// # Errors
    /// [`StoreError`] when its row can't be read.
    pub fn entry(&self, number: EntryNumber) -> Result<Option<Entry>, StoreError> {
        let found = self.entries(number).next().transpose()?;
        Ok(found.filter(|entry| entry.number == number))
    }

    /// The last entry's number; 0 for an empty journal.
    ///
    /// # Errors
    /// [`StoreError`] when the last row can't be read.
    pub fn last(&self) -> Result<EntryNumber, StoreError> {
        match self.journal.last_key_value() {
            Some(row) => {
                let batch = read(&self.folder, row)?;
                Ok(batch.last().map_or(EntryNumber::ZERO, |entry| entry.number))
            }
            None => Ok(EntryNumber::ZERO),
        }
    }
}

/// Entries of the journal in order. It ends after the first error.
pub struct Entries {
    folder: PathBuf,
    rows: fjall::Iter,
    batch: std::vec::IntoIter<Entry>,
    from: EntryNumber,
    /// The entry after the last row that was read.
    next: Option<EntryNumber>,
    failed: bool,
}

impl Iterator for Entries {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            let from = self.from;
            if let Some(entry) = self.batch.find(|entry| entry.number >= from) {
                return Some(Ok(entry));
            }
            match self.next_row()? {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Entries {
    /// All entries of the next row, whatever number they were to begin with.
    pub fn next_row(&mut self) -> Option<Result<Vec<Entry>, StoreError>> {
        let row = read(&self.folder, self.rows.next()?).map_err(|error| self.named(error));
        if let Ok(batch) = &row {
            self.next = batch.last().and_then(|last| last.number.next());
        }
        Some(row)
    }

    /// The database says only that something can't be read: it is the entry that comes next.
    fn named(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Damaged { folder, why } => StoreError::Unreadable {
                folder,
                entry: self.next.unwrap_or(self.from.max(EntryNumber(1))),
                why,
            },
            other => other,
        }
    }
}

fn read(folder: &Path, row: Guard) -> Result<Vec<Entry>, StoreError> {
    let (key, octets) = row
        .into_inner()
        .map_err(|error| StoreError::from_fjall(folder, "read", error))?;
    let key: [u8; 8] = key
        .as_ref()
        .try_into()
        .map_err(|_| StoreError::damaged(folder, "a row of the journal has another's name"))?;
    let first = EntryNumber(u64::from_be_bytes(key));
    let batch: Vec<Entry> = serde_cbor::from_slice(&octets)
        .map_err(|error| unreadable(folder, first, &octets, &error.to_string()))?;
    if batch.first().map(|entry| entry.number) != Some(first) {
        return Err(StoreError::Unreadable {
            folder: folder.to_owned(),
            entry: first,
            why: "the row begins with another entry".to_owned(),
        });
    }
    Ok(batch)
}

/// Names the entry of a row that can't be read.
fn unreadable(folder: &Path, first: EntryNumber, octets: &[u8], why: &str) -> StoreError {
    let found = |index: usize, why: String| StoreError::Unreadable {
        folder: folder.to_owned(),
        entry: EntryNumber(first.value().saturating_add(index as u64)),
        why,
    };
    let values: Vec<Value> = match serde_cbor::from_slice(octets) {
        Ok(values) => values,
        Err(_) => return found(0, why.to_owned()),
    };
    for (index, value) in values.into_iter().enumerate() {
        if let Err(error) = serde_cbor::value::from_value::<Entry>(value) {
            return found(index, error.to_string());
        }
    }
    found(0, why.to_owned())
}
