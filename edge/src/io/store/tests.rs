#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use simquota_shared::ids::ZoneId;
use simquota_shared::units::{Boot, Octets};

use super::*;

fn state(epoch: u64) -> Durable {
    Durable::fresh(Epoch(epoch), None, ZoneId::home())
}

fn row(number: u64) -> Row {
    Row {
        seq: Seq(number),
        count: 1,
        end: 1_800_000_000 + number,
        clock: true,
        apart: false,
        boot: Boot(1),
        iccid: None,
        zone: ZoneId::home(),
        up: number,
        down: 1,
        own: 0,
        flags: 0,
        unsure: 0,
        total: Octets(number * (number + 1) / 2 + number),
    }
}

/// A state after `last` rows, of which `acked` are acknowledged.
fn at(epoch: u64, last: u64, acked: u64) -> Durable {
    Durable {
        next_seq: Seq(last + 1),
        acked: Seq(acked),
        ..state(epoch)
    }
}

fn commit(store: &mut Store, state: Durable, rows: impl IntoIterator<Item = u64>) {
    let rows = rows.into_iter().map(row).collect();
    store.commit(&Commit { state, rows }).unwrap();
}

fn numbers(store: &Store, from: u64, rows_max: usize) -> Vec<u64> {
    let load = Load {
        from: Seq(from),
        rows_max,
    };
    let rows = store.load(load).unwrap();
    rows.iter().map(|row| row.seq.0).collect()
}

fn open(path: &Path) -> (Store, Option<Durable>) {
    Store::open(path).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, none) = open(dir.path());
    assert!(none.is_none());
    commit(&mut store, at(7, 3, 0), 1..=3);
    commit(&mut store, at(7, 5, 1), 4..=5);
    // A copy of the files as they are, with the store still open, is what a kill leaves behind.
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    let (after, durable) = open(killed.path());
    assert_eq!(durable.unwrap(), at(7, 5, 1));
    assert_eq!(numbers(&after, 0, 10), [1, 2, 3, 4, 5]);
    drop(store);
    let (after, durable) = open(dir.path());
    assert_eq!(durable.unwrap(), at(7, 5, 1));
    assert_eq!(
        after
            .load(Load {
                from: Seq(5),
                rows_max: 9
            })
            .unwrap(),
        [row(5)]
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn rows_are_found_by_number_also_within_a_merged_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let merged = Row {
        count: 300,
        ..row(3)
    };
    store
        .commit(&Commit {
            state: at(7, 400, 0),
            rows: vec![row(1), row(2), merged.clone(), row(303)],
        })
        .unwrap();
    assert_eq!(numbers(&store, 0, 9), [1, 2, 3, 303]);
    assert_eq!(numbers(&store, 2, 2), [2, 3]);
    assert_eq!(
        store
            .load(Load {
                from: Seq(200),
                rows_max: 1
            })
            .unwrap(),
        [merged]
    );
    assert_eq!(numbers(&store, 302, 9), [3, 303]);
    assert_eq!(numbers(&store, 304, 9), [0; 0]);
}

#[test]
fn only_acknowledged_rows_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for batch in 0..10 {
        let first = batch * 1000 + 1;
        commit(&mut store, at(7, first + 999, 0), first..=first + 999);
    }
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 20_000).len(), 10_000);
    commit(&mut store, at(7, 10_000, 9_990), []);
    store.compact().unwrap();
    assert_eq!(
        numbers(&store, 0, 20_000),
        (9_991..=10_000).collect::<Vec<_>>()
    );
    drop(store);
    let (mut store, durable) = open(dir.path());
    assert_eq!(durable.unwrap().acked, Seq(9_990));
    store.compact().unwrap();
    assert_eq!(
        numbers(&store, 0, 20_000),
        (9_991..=10_000).collect::<Vec<_>>()
    );
}

#[test]
fn many_acknowledged_rows_are_dropped_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for batch in 0..25 {
        let first = batch * 1000 + 1;
        commit(&mut store, at(7, first + 999, 0), first..=first + 999);
    }
    commit(&mut store, at(7, 25_000, 24_999), []);
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(numbers(&store, 0, 30_000), [25_000]);
}

/// Rows that end at these times before now, one after the other.
fn aged(store: &mut Store, ages_s: &[u64]) {
    let now_s = clock::wall_ms() / 1000;
    let rows = (1..).zip(ages_s).map(|(number, age_s)| Row {
        end: now_s - age_s,
        ..row(number)
    });
    let last = ages_s.len() as u64;
    let commit = Commit {
        state: at(7, last, last),
        rows: rows.collect(),
    };
    store.commit(&commit).unwrap();
}

const DAY_S: u64 = 86_400;

#[test]
fn acknowledged_rows_are_kept_for_as_long_as_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.retain(Retention {
        keep_s: 7 * DAY_S,
        octets: Octets(1_000_000),
    });
    aged(&mut store, &[30 * DAY_S, 8 * DAY_S, 6 * DAY_S, 60, 0]);
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 9), [3, 4, 5]);
    // The cloud names a lower mark: what is beyond it goes out again, and stays.
    commit(&mut store, at(7, 5, 3), []);
    store.compact().unwrap();
    assert_eq!(numbers(&store, 4, 9), [4, 5]);
    drop(store);
    // Who only looks at a store drops nothing.
    let (mut store, _) = open(dir.path());
    assert_eq!(numbers(&store, 0, 9), [3, 4, 5]);
    store.retain(Retention::NONE);
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 9), [4, 5]);
}

#[test]
fn no_more_acknowledged_rows_are_kept_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let octets = row(1).encode().unwrap().len() as u64 + 16;
    store.retain(Retention {
        keep_s: 7 * DAY_S,
        octets: Octets(2 * octets + 4),
    });
    aged(&mut store, &[4, 3, 2, 1]);
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 9), [3, 4]);
    // A row without a date is bounded by its size alone.
    let undated = Row {
        clock: false,
        end: 5,
        ..row(5)
    };
    let commit = Commit {
        state: at(7, 5, 5),
        rows: vec![undated],
    };
    store.commit(&commit).unwrap();
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 9), [4, 5]);
}

#[test]
fn rows_of_another_epoch_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.retain(Retention {
        keep_s: 7 * DAY_S,
        octets: Octets(1_000_000),
    });
    aged(&mut store, &[2, 1]);
    commit(&mut store, state(8), []);
    store.compact().unwrap();
    // Back in the old epoch, which no agent does: they are gone.
    commit(&mut store, state(7), []);
    assert_eq!(numbers(&store, 0, 9), [0; 0]);
}

#[test]
fn the_next_epoch_begins_with_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, at(9, 5, 2), 1..=5);
    commit(&mut store, state(7), []);
    assert_eq!(numbers(&store, 0, 9), [0; 0]);
    commit(&mut store, at(7, 2, 0), 1..=2);
    store.compact().unwrap();
    assert_eq!(numbers(&store, 0, 9), [1, 2]);
    drop(store);
    let (store, durable) = open(dir.path());
    assert_eq!(durable.unwrap().epoch, Epoch(7));
    assert_eq!(numbers(&store, 0, 9), [1, 2]);
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, state(7), []);
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_damaged_state_row_is_said_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.state.insert(STATE_KEY, b"\x83\x01nonsense").unwrap();
    drop(store);
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn the_state_row_of_another_version_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(
        &mut store,
        Durable {
            version: 99,
            ..state(7)
        },
        [],
    );
    drop(store);
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Version { .. }), "{error}");
}

#[test]
fn damage_of_any_file_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for number in 1..200 {
        commit(&mut store, at(7, number, 0), [number]);
    }
    store.compact().unwrap();
    drop(store);
    let mut files = Vec::new();
    list(dir.path(), &mut files);
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for file in files {
        for damage in ["cut", "zeros", "gone"] {
            let copied = tempfile::tempdir().unwrap();
            copy(dir.path(), copied.path());
            let victim = copied.path().join(file.strip_prefix(dir.path()).unwrap());
            let octets = std::fs::read(&victim).unwrap();
            match damage {
                "cut" => std::fs::write(&victim, &octets[..octets.len() / 2]).unwrap(),
                "zeros" => std::fs::write(&victim, vec![0; octets.len()]).unwrap(),
                _ => std::fs::remove_file(&victim).unwrap(),
            }
            // What can't be told from a younger store is found by the numbers, elsewhere.
            let opened = Store::open(copied.path());
            let read = opened.map(|(store, _)| {
                store.load(Load {
                    from: Seq::ZERO,
                    rows_max: 999,
                })
            });
            if let Ok(Err(error)) | Err(error) = read {
                let known = matches!(
                    error,
                    StoreError::Damaged { .. } | StoreError::Failed { .. }
                );
                assert!(known, "{} {damage}: {error:?}", victim.display());
            }
        }
    }
    std::panic::set_hook(quiet);
}

fn list(path: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if std::fs::metadata(&path).unwrap().len() > 0 {
            files.push(path);
        }
    }
}
