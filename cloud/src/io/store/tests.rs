#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::fs;
use std::io::Write;

use simquota_shared::ids::FleetId;
use simquota_shared::message::ops::Blob;
use simquota_shared::units::UnixMillis;

use super::*;
use crate::ledger::entry::{Cause, FleetCreated, Subject};

/// Entries that follow what the ledger has: each creates a fleet.
pub(super) fn entries(ledger: &mut Ledger, count: u64) -> Vec<Entry> {
    let mut made = Vec::new();
    for _ in 0..count {
        let fleet: FleetId = format!("fleet-{}", ledger.last.value() + 1)
            .parse()
            .unwrap();
        let cause = Cause::FleetCreated(FleetCreated { fleet });
        let at = UnixMillis(1000 + ledger.last.value());
        let entry = ledger.record(at, Subject::Platform, cause, Vec::new());
        made.push(entry.unwrap());
    }
    made
}

pub(super) struct Room {
    data: tempfile::TempDir,
    pub(super) ledger: Ledger,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            data: tempfile::tempdir().unwrap(),
            ledger: Ledger::default(),
        }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.data.path().join("ledger")
    }

    pub(super) fn open(&self) -> Store {
        Store::open(&self.folder()).unwrap()
    }

    /// A store with a batch of each size.
    fn filled(&mut self, sizes: &[u64]) -> Store {
        let mut store = self.open();
        for size in sizes {
            store.commit(&entries(&mut self.ledger, *size)).unwrap();
        }
        store
    }

    pub(super) fn text(&self, error: &StoreError) -> String {
        let line = error.to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line.replace(&self.folder().display().to_string(), "FOLDER")
    }
}

fn numbers(store: &Store, from: u64) -> Vec<u64> {
    store
        .reader()
        .entries(EntryNumber(from))
        .map(|entry| entry.unwrap().number.value())
        .collect()
}

#[test]
fn what_was_committed_is_there_after_reopening_and_a_reader_starts_anywhere() {
    let mut room = Room::new();
    drop(room.filled(&[1, 3, 2]));
    let store = room.open();
    assert_eq!(store.last(), EntryNumber(6));
    assert_eq!(store.load().unwrap(), room.ledger);
    for from in 0..=7 {
        let expected: Vec<u64> = (from.max(1)..=6).collect();
        assert_eq!(numbers(&store, from), expected, "from {from}");
    }
}

#[test]
fn a_reader_sees_the_journal_as_it_stood_when_it_began() {
    let mut room = Room::new();
    let mut store = room.filled(&[2]);
    let reader = store.reader();
    let mut before = reader.entries(EntryNumber(1));
    store.commit(&entries(&mut room.ledger, 2)).unwrap();
    assert_eq!(before.by_ref().count(), 2);
    assert_eq!(numbers(&store, 1).len(), 4);
}

#[test]
fn a_checkpoint_and_the_entries_after_it_make_the_same_ledger() {
    let mut room = Room::new();
    let mut store = room.filled(&[5]);
    store.checkpoint(&room.ledger).unwrap();
    store.commit(&entries(&mut room.ledger, 5)).unwrap();
    store.checkpoint(&room.ledger).unwrap();
    store.commit(&entries(&mut room.ledger, 1)).unwrap();
    drop(store);
    let store = room.open();
    let checkpoint = store.latest_checkpoint().unwrap().unwrap();
    assert_eq!(checkpoint.last, EntryNumber(10));
    assert_eq!(store.load().unwrap(), room.ledger);
    // The one before is gone once the newer is durable.
    let heads = store.checkpoints.prefix(b"h").count();
    assert_eq!(heads, 1);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_journal() {
    let mut room = Room::new();
    let mut store = room.filled(&[5]);
    store.checkpoint(&room.ledger).unwrap();
    let part = store.checkpoints.prefix(b"c").next().unwrap();
    let (key, octets) = part.into_inner().unwrap();
    let mut octets = octets.to_vec();
    octets[10] ^= 1;
    store.checkpoints.insert(key, octets).unwrap();
    assert!(store.latest_checkpoint().unwrap().is_none());
    assert_eq!(store.load().unwrap(), room.ledger);
}

#[test]
fn a_checkpoint_past_the_journals_end_is_damage() {
    let mut room = Room::new();
    let mut store = room.filled(&[2]);
    entries(&mut room.ledger, 1);
    store.checkpoint(&room.ledger).unwrap();
    let text = room.text(&store.load().unwrap_err());
    assert!(
        text.contains("the journal ends at entry 2, before the checkpoint at 3"),
        "{text}"
    );
}

#[test]
fn a_torn_write_takes_the_last_batch_whole_and_nothing_before_it() {
    let mut room = Room::new();
    drop(room.filled(&[2, 3]));
    let before = room.ledger.last;
    let mut store = room.open();
    let guard = room.folder().join(guard::NAME);
    let guard_before = fs::read(&guard).unwrap();
    store.commit(&entries(&mut room.ledger, 4)).unwrap();
    drop(store);
    // The cut comes before the sync, and so before the guard.
    fs::write(&guard, guard_before).unwrap();
    // The database's own journal is where a power cut tears. The newest file has our last batch at its end.
    let mut files: Vec<_> = fs::read_dir(room.folder())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "jnl"))
        .collect();
    files.sort();
    let newest = files.last().expect("a journal file");
    let octets = fs::read(newest).unwrap();
    let end = octets.iter().rposition(|octet| *octet != 0).unwrap();
    fs::write(newest, &octets[..end - 20]).unwrap();
    let store = room.open();
    assert_eq!(store.last(), before);
    assert_eq!(numbers(&store, 1), [1, 2, 3, 4, 5]);
    store.load().unwrap();
}

#[test]
fn a_second_process_is_told_who_is_first() {
    let mut room = Room::new();
    let store = room.filled(&[1]);
    let error = Store::open(&room.folder()).err().unwrap();
    assert!(matches!(error, StoreError::Locked(_)));
    insta::assert_snapshot!(room.text(&error));
    drop(store);
    room.open();
}

#[test]
fn an_entry_that_cannot_be_read_or_does_not_fit_is_named() {
    let mut room = Room::new();
    let store = room.filled(&[2]);
    let mut batch = entries(&mut room.ledger, 3);
    let key = 3_u64.to_be_bytes();
    let put = |octets: Vec<u8>| store.journal.insert(key, octets).unwrap();

    // Garbage within the batch: the second of its three entries.
    let mut values: Vec<serde_cbor::Value> =
        serde_cbor::from_slice(&serde_cbor::to_vec(&batch).unwrap()).unwrap();
    values[1] = serde_cbor::Value::Array(vec![serde_cbor::Value::Integer(1)]);
    put(serde_cbor::to_vec(&values).unwrap());
    let cut = room.text(&store.load().unwrap_err());

    // Not CBOR at all.
    put(vec![0xff; 40]);
    let garbage = room.text(&Store::open_after(store.reader()).unwrap_err());

    // Altered: still an entry, but its chain does not fit.
    batch[1].at = UnixMillis(batch[1].at.value() + 1);
    batch[2].at = batch[1].at;
    put(serde_cbor::to_vec(&batch).unwrap());
    let altered = room.text(&with_last(store, 5).load().unwrap_err());
    insta::assert_snapshot!([cut, garbage, altered].join("\n"));
}

impl Store {
    fn open_after(reader: Reader) -> Result<EntryNumber, StoreError> {
        reader.last()
    }
}

fn with_last(mut store: Store, last: u64) -> Store {
    store.last = EntryNumber(last);
    store
}

#[test]
fn entries_that_do_not_follow_are_never_written() {
    let mut room = Room::new();
    let mut store = room.filled(&[2]);
    let mut batch = entries(&mut room.ledger, 1);
    batch[0].number = EntryNumber(9);
    batch[0].chain = Blob(Vec::new());
    let text = room.text(&store.commit(&batch).unwrap_err());
    assert!(text.contains("entry 9 does not follow 2"), "{text}");
    assert_eq!(numbers(&store, 1), [1, 2]);
}

#[test]
fn looking_does_not_make_a_store_and_a_file_in_its_place_is_an_error() {
    let room = Room::new();
    let error = Store::open_existing(&room.folder()).err().unwrap();
    assert!(matches!(error, StoreError::Missing(_)));
    assert!(!room.folder().exists());
    fs::File::create(room.folder())
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let error = Store::open(&room.folder()).err().unwrap();
    let text = room.text(&error);
    assert!(text.starts_with("the store FOLDER"), "{text}");
}

#[test]
fn a_newer_format_is_refused() {
    let mut room = Room::new();
    let store = room.filled(&[1]);
    store.checkpoints.insert(FORMAT_KEY, [2]).unwrap();
    drop(store);
    let text = room.text(&Store::open(&room.folder()).err().unwrap());
    assert!(text.contains("format 2"), "{text}");
}
