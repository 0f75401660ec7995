//! The audit of a store that no service has open: its own folder, or a copy.
//!
//! Every octet of every file is held against a checksum, without the database and without a change; then a private copy
//! is read on one thread, applied on another, and booked on a third. See [`super::store`].

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use simquota_shared::units::EntryNumber;

use super::store::{Reader, Seen, StoreError, see};
use crate::ledger::audit::{Audit, Auditor};
use crate::ledger::entry::Entry;

/// Rows that were read and wait to be added up.
const AHEAD: usize = 64;
/// Entries between two words about how far it is.
const SAY_EVERY: u64 = 1000;

/// What an audit of a folder found.
#[derive(Debug)]
pub struct Proof {
    /// The books; what is wrong with the files is among its faults.
    pub audit: Audit,
    /// What is worth a word and proves nothing.
    pub notes: Vec<String>,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// Files are held against their checksums.
    Files,
    /// Entries are added up: so many of so many.
    Entries(u64, u64),
}

/// Audits a folder, and says from time to time how far it is.
///
/// # Errors
/// [`StoreError`] when there is no store, when it is in use, or when there is no place for a copy. What is wrong with
/// it is among the audit's faults.
pub fn audit(folder: &Path, mut progress: impl FnMut(Progress)) -> Result<Proof, StoreError> {
    progress(Progress::Files);
    let seen = see(folder)?;
    let Seen {
        faults,
        notes,
        store,
        ..
    } = &seen;
    let mut auditor = Auditor::default();
    if let Some(store) = store {
        add_up(&store.reader(), store.last(), &mut auditor, &mut progress);
    }
    let mut audit = auditor.end();
    // What is wrong with the files is why the rest is.
    audit.faults.splice(..0, faults.iter().cloned());
    Ok(Proof {
        audit,
        notes: notes.clone(),
    })
}

fn say(taken: u64, last: EntryNumber, progress: &mut impl FnMut(Progress)) {
    if taken.is_multiple_of(SAY_EVERY) || taken == last.value() {
        progress(Progress::Entries(taken, last.value()));
    }
}

fn add_up(
    reader: &Reader,
    last: EntryNumber,
    auditor: &mut Auditor,
    progress: &mut impl FnMut(Progress),
) {
    let (rows, read) = sync_channel::<Result<Vec<Entry>, StoreError>>(AHEAD);
    let (applied, to_book) = sync_channel::<Vec<Entry>>(AHEAD);
    let mut entries = reader.entries(EntryNumber::ZERO);
    let mut books = auditor.lend_books();
    let books = thread::scope(|scope| {
        scope.spawn(move || {
            while let Some(row) = entries.next_row() {
                let ended = row.is_err();
                // Nobody listens any more: it has found what is wrong.
                if rows.send(row).is_err() || ended {
                    return;
                }
            }
        });
        let booked = scope.spawn(move || {
            for entries in to_book {
                entries.iter().for_each(|entry| books.take(entry));
            }
            books
        });
        for row in read {
            match row {
                Ok(mut entries) => {
                    let sound = entries.iter().take_while(|entry| {
                        let sound = auditor.apply(entry);
                        if sound {
                            say(entry.number.value(), last, progress);
                        }
                        sound
                    });
                    let sound = sound.count();
                    let all = sound == entries.len();
                    entries.truncate(sound);
                    if applied.send(entries).is_err() || !all {
                        break;
                    }
                }
                Err(error) => {
                    auditor.fault(error.to_string());
                    break;
                }
            }
        }
        drop(applied);
        booked.join()
    });
    match books {
        Ok(books) => auditor.return_books(books),
        Err(_) => {
            auditor.fault("the books could not be kept: report this".to_owned());
        }
    }
}
