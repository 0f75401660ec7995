//! A copy of a store with one octet altered, at hundreds of places: each is found. And stores that were killed or lost
//! their power: none is accused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::collections::BTreeMap;
use std::fs;

use super::tests::{Room, entries};
use super::*;
use crate::io::audit::{Proof, audit};

/// Places in each file, besides its first and its last octet.
const PLACES: u64 = 40;

fn audited(folder: &Path) -> Proof {
    audit(folder, |_| ()).unwrap()
}

/// All files of a folder, named from there.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for row in fs::read_dir(next).unwrap() {
            let path = row.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn put(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, octets) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Log files are long and mostly zeros: those are not written out.
        fs::write(&path, &octets[..log::written(octets)]).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(octets.len() as u64).unwrap();
        // A folder that may be empty, and is none of the files.
        if path.ends_with("current") {
            fs::create_dir_all(path.with_file_name("tables")).unwrap();
        }
    }
}

/// Entries in tables, entries in a log file, a checkpoint in both, a cursor.
fn full(room: &mut Room) -> Store {
    let mut store = room.open();
    for _ in 0..6 {
        for size in [1, 7, 30] {
            store.commit(&entries(&mut room.ledger, size)).unwrap();
        }
        store.checkpoint(&room.ledger).unwrap();
    }
    store.journal.rotate_memtable_and_wait().unwrap();
    store.checkpoints.rotate_memtable_and_wait().unwrap();
    for size in [3, 40, 1] {
        store.commit(&entries(&mut room.ledger, size)).unwrap();
    }
    store.checkpoint(&room.ledger).unwrap();
    store.keep_published(EntryNumber(5)).unwrap();
    store.commit(&entries(&mut room.ledger, 2)).unwrap();
    store
}

/// Numbers that look random and are the same in each run.
fn drawn(seed: &mut u64, end: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*seed >> 33) % end
}

#[test]
fn an_octet_altered_anywhere_in_a_copy_is_found_and_named_and_the_copy_stays_as_it_is() {
    let mut room = Room::new();
    // As `serve` leaves it: opened twice, so that the log file ends where its last batch does, and closed in order.
    drop(full(&mut room));
    let mut store = room.open();
    store.commit(&entries(&mut room.ledger, 2)).unwrap();
    drop(store);
    let sound = files(&room.folder());
    let proof = audited(&room.folder());
    assert!(proof.audit.holds(), "{:?}", proof.audit.faults);
    assert_eq!(proof.audit.last, room.ledger.last);
    assert_eq!(files(&room.folder()), sound, "an audit changes nothing");
    // Older lists of tables, which the database has not removed yet.
    let unnamed = |name: &Path| {
        let told = format!("nothing names the file {}:", name.display());
        proof.notes.iter().any(|note| note.starts_with(&told))
    };

    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy");
    let mut seed = 1;
    let mut named: BTreeMap<String, u32> = BTreeMap::new();
    for (name, octets) in &sound {
        let length = octets.len() as u64;
        if length == 0 || unnamed(name) {
            continue;
        }
        let mut places: Vec<u64> = (0..PLACES).map(|_| drawn(&mut seed, length)).collect();
        places.extend([0, length - 1]);
        for place in places {
            let mut altered = octets.clone();
            altered[usize::try_from(place).unwrap()] ^= 1 << drawn(&mut seed, 8);
            put(&copy, &sound);
            put(&copy, &BTreeMap::from([(name.clone(), altered.clone())]));
            let proof = audited(&copy);
            let said = proof.audit.faults.join("\n");
            let what = format!("octet {place} of {}: {said}", name.display());
            assert!(!proof.audit.holds(), "{what}");
            let entry = said.contains("entry ") && !said.contains("no entry");
            assert!(entry || said.contains(name.to_str().unwrap()), "{what}");
            // What is found is not destroyed by looking.
            assert_eq!(fs::read(copy.join(name)).unwrap(), altered, "{what}");
            let kind = if entry { "an entry" } else { "a file" };
            *named.entry(kind.to_owned()).or_default() += 1;
            // The service does not go on from it either, where the database alone would cut something off.
            if name.extension().is_some_and(|kind| kind == "jnl") {
                let refused = Store::open(&copy).err().expect(&what).to_string();
                assert!(refused.contains("backup"), "{refused}");
            }
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(named.values().sum::<u32>() > 300, "{named:?}");
    assert!(named.len() == 2, "{named:?}");
}

/// The folder of a store that is open, as a kill would leave it.
fn killed(room: &Room) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files(&room.folder());
    files.remove(Path::new("guard.part"));
    files
}

/// What a folder holds is `last` entries, by an audit and by the service, and nobody complains.
fn sound(files: &BTreeMap<PathBuf, Vec<u8>>, last: EntryNumber, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    put(&copy, files);
    let proof = audited(&copy);
    assert!(proof.audit.holds(), "{what}: {:?}", proof.audit.faults);
    assert_eq!(proof.audit.last, last, "{what}");
    for _ in 0..2 {
        let store = Store::open(&copy).expect(what);
        assert_eq!(store.load().unwrap().last, last, "{what}");
    }
    let proof = audited(&copy);
    assert!(proof.audit.holds(), "{what}: {:?}", proof.audit.faults);
    let unnamed = |note: &String| note.starts_with("nothing names the file keyspaces/");
    assert!(proof.notes.iter().all(unnamed), "{what}: {:?}", proof.notes);
}

fn log_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> PathBuf {
    let is_log = |name: &&PathBuf| name.extension().is_some_and(|kind| kind == "jnl");
    files.keys().rfind(is_log).expect("a log file").clone()
}

#[test]
fn a_store_that_was_killed_or_lost_its_power_is_never_accused() {
    let mut room = Room::new();
    let guard = PathBuf::from(guard::NAME);
    let mut store = room.open();
    let mut guards = vec![fs::read(room.folder().join(&guard)).unwrap()];
    let mut lengths = Vec::new();
    for size in [1, 5, 2, 9] {
        store.commit(&entries(&mut room.ledger, size)).unwrap();
        guards.push(fs::read(room.folder().join(&guard)).unwrap());
        let log = fs::read(room.folder().join(log_of(&killed(&room)))).unwrap();
        lengths.push(log::written(&log));
        sound(&killed(&room), room.ledger.last, "killed after a commit");
    }
    let all = killed(&room);
    let log = log_of(&all);
    // The guard has no sync of its own: a cut makes it older, down to the one that was there at the start.
    for (age, old) in guards.iter().rev().enumerate() {
        let mut cut = all.clone();
        cut.insert(guard.clone(), old.clone());
        sound(
            &cut,
            room.ledger.last,
            &format!("a guard {age} commits old"),
        );
    }
    // A batch under way when the kill or the cut came: any part of it, with or without what was written in advance.
    let (before, end) = (lengths[2], lengths[3]);
    let last = EntryNumber(8);
    for kept in [
        before,
        before + 1,
        before + 14,
        before + 60,
        end - 13,
        end - 1,
    ] {
        for advance in [false, true] {
            let mut cut = all.clone();
            cut.insert(guard.clone(), guards[3].clone());
            let octets = cut.get_mut(&log).unwrap();
            match advance {
                true => octets[kept..].fill(0),
                false => octets.truncate(kept),
            }
            sound(&cut, last, &format!("{kept} of {end} octets written"));
        }
    }
    // A version before the guard wrote behind a closed one, and its power was cut.
    drop(store);
    let closed = fs::read(room.folder().join(&guard)).unwrap();
    let mut store = room.open();
    store.commit(&entries(&mut room.ledger, 1)).unwrap();
    let last_written = room.ledger.last;
    store.commit(&entries(&mut room.ledger, 1)).unwrap();
    let mut cut = killed(&room);
    cut.insert(guard.clone(), closed);
    let octets = cut.get_mut(&log_of(&killed(&room))).unwrap();
    octets.truncate(log::written(octets) - 5);
    sound(&cut, last_written, "written by an older version");
    // A guard that can't be read is written anew.
    let mut cut = killed(&room);
    cut.get_mut(&guard).unwrap()[20] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &cut);
    assert_eq!(Store::open(folder.path()).unwrap().last(), room.ledger.last);
    sound(&files(folder.path()), room.ledger.last, "guarded anew");

    // The disk wrote the end and not the middle: both tags are there, the checksum is wrong, and nobody was told of it.
    let mut cut = all.clone();
    cut.insert(guard.clone(), guards[3].clone());
    cut.get_mut(&log).unwrap()[before + 60..before + 90].fill(0);
    sound(&cut, last, "a hole in what was not synced");
}

#[test]
fn what_was_durable_and_is_gone_is_named_and_the_service_does_not_go_on() {
    let mut room = Room::new();
    let mut store = room.open();
    store.commit(&entries(&mut room.ledger, 3)).unwrap();
    let old = killed(&room);
    store.commit(&entries(&mut room.ledger, 4)).unwrap();
    let new = killed(&room);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    // The log of before beside the guard of now: as a disk does that says it has synced and has not.
    let mut lost = old.clone();
    lost.insert(guard::NAME.into(), new[Path::new(guard::NAME)].clone());
    put(&copy, &lost);
    let said = audited(&copy).audit.faults.join("\n");
    assert!(said.contains("entry 4, or one of the same batch"), "{said}");
    let refused = Store::open(&copy).err().unwrap().to_string();
    assert!(
        refused.contains("entry 4, or one of the same batch"),
        "{refused}"
    );

    // The guard is old, as after a power cut, and a batch is altered that others stand behind: it was durable.
    let second = log::written(&old[&log_of(&old)]);
    let mut cut = killed(&room);
    cut.insert(guard::NAME.into(), old[Path::new(guard::NAME)].clone());
    for size in [1, 1] {
        store.commit(&entries(&mut room.ledger, size)).unwrap();
        cut.insert(log_of(&old), killed(&room)[&log_of(&old)].clone());
    }
    cut.get_mut(&log_of(&old)).unwrap()[second + 60] ^= 1;
    fs::remove_dir_all(&copy).unwrap();
    put(&copy, &cut);
    let said = audited(&copy).audit.faults.join("\n");
    assert!(said.contains("2 whole batches stand behind it"), "{said}");
    let refused = Store::open(&copy).err().unwrap().to_string();
    assert!(
        refused.contains("entry 4, or one of the same batch"),
        "{refused}"
    );

    // The log file is gone, as if it were in a table: the entries are what shows that it is not.
    lost.remove(&log_of(&old));
    fs::remove_dir_all(&copy).unwrap();
    put(&copy, &lost);
    let said = audited(&copy).audit.faults.join("\n");
    assert!(
        said.contains("the first that is missing is 1, the last that was durable 7"),
        "{said}"
    );
    let refused = room.text(&Store::open(&copy).err().unwrap());
    assert!(
        refused.contains("the first that is missing is 1, the last that was durable 7"),
        "{refused}"
    );
    drop(store);
}
