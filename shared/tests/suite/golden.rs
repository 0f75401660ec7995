//! Octets of each message as they once were: what was ever sent must stay readable.
//!
//! A file is named `{rule of protocol.cddl}.{variant}.cbor`. To write those that are missing, run the tests with
//! `SIMQUOTA_GOLDEN=write`. One that is there already is never changed: delete it by hand, and say why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::samples;
use crate::schema::Schema;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn files() -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name
                .strip_suffix(".cbor")
                .expect("only .cbor files are golden");
            (name.to_owned(), std::fs::read(&path).unwrap())
        })
        .collect()
}

fn write_missing() {
    if std::env::var("SIMQUOTA_GOLDEN").as_deref() != Ok("write") {
        return;
    }
    for sample in samples::all() {
        let path = folder().join(format!("{}.cbor", sample.name()));
        if !path.exists() {
            std::fs::write(path, &sample.octets).unwrap();
        }
    }
}

#[test]
fn golden_octets_are_read_and_written_again_the_same() {
    write_missing();
    let readers: BTreeMap<&str, samples::Again> = samples::all()
        .iter()
        .map(|sample| (sample.rule, sample.again))
        .collect();
    for (name, octets) in files() {
        let rule = name.split('.').next().unwrap();
        let again = readers
            .get(rule)
            .unwrap_or_else(|| panic!("no message for {name}"));
        assert_eq!(again(&octets).unwrap(), octets, "{name}");
    }
}

#[test]
fn each_message_and_each_sample_has_a_golden_file() {
    write_missing();
    let golden: BTreeSet<String> = files().into_keys().collect();
    for sample in samples::all() {
        assert!(
            golden.contains(&sample.name()),
            "no golden file for {}: run with SIMQUOTA_GOLDEN=write, and commit it",
            sample.name()
        );
    }
    // Every versioned message that the crate declares is among the samples.
    let sampled: BTreeSet<&str> = samples::all().iter().map(|sample| sample.message).collect();
    let declared = crate::source::messages();
    assert_eq!(sampled, declared.iter().map(String::as_str).collect());
}

#[test]
fn golden_octets_are_valid_against_the_schema() {
    write_missing();
    for (name, octets) in files() {
        let rule = name.split('.').next().unwrap();
        Schema::of(rule)
            .valid(&octets)
            .unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}
