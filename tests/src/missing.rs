//! Parts that a test needs and the machine may lack: root, nft, mosquitto, PostgreSQL, a browser.
//!
//! On CI a missing part fails the test. Elsewhere the test says that it did not run, and the suite's last test
//! calls [`report`], which names all of them in one line and keeps that line in `target/tmp/not-run.txt`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

static NOT_RUN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Says that a test did not run because `what` is missing, for example `"mosquitto (broker contract)"`. The
/// test returns after it.
///
/// # Panics
/// When `CI=true`: there the part has to be present.
#[track_caller]
#[allow(
    clippy::panic,
    reason = "it is called by tests, and there it fails them"
)]
pub fn missing_part(what: &str) {
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        panic!("CI must have {what}; install it");
    }
    NOT_RUN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(what.to_owned());
    say(&format!("NOT RUN, missing here: {what}"));
    // Kept at once: a filtered run may never come to the last test.
    keep();
}

/// Prints what did not run, in one line, and keeps it in `target/tmp/not-run.txt` (removed when everything ran).
pub fn report() {
    keep();
    match line() {
        Some(line) => say(&line),
        None => say("every test had the parts it needs"),
    }
}

fn line() -> Option<String> {
    let parts = NOT_RUN.lock().unwrap_or_else(PoisonError::into_inner);
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| format!("NOT RUN, missing here: {}", names.join("; ")))
}

/// Past the test runner, which swallows what a passing test prints by `eprintln!`.
fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "\n{line}");
}

/// The record is a courtesy: a test never fails because it could not be written.
fn keep() {
    let Some(path) = record() else { return };
    let _ = match line() {
        Some(line) => path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, line + "\n")),
        None => fs::remove_file(&path),
    };
}

/// `tmp/not-run.txt` in the build directory, which cargo marks by a file of this name.
fn record() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let target = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())?;
    Some(target.join("tmp/not-run.txt"))
}
