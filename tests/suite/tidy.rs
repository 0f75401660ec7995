//! House rules that a compiler does not know: what the pure folders never touch, and who never imports whom.

use std::fs;
use std::path::{Path, PathBuf};

/// What no pure folder may name: clocks, I/O, async, logs, randomness, maps whose order differs from run to run.
const NEVER_PURE: &[&str] = &[
    "std::time",
    "std::fs",
    "std::net",
    "std::io",
    "std::thread",
    "std::env",
    "tokio",
    "tracing::",
    "rumqttc",
    "fjall",
    "getrandom",
    "SystemTime",
    "Instant::now",
    "HashMap",
    "HashSet",
    "async fn",
    ".await",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every line of code (not of documentation) below a folder that names one of `words`.
fn lines_with(folder: &str, words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    sources(&root.join(folder), &mut files);
    assert!(files.len() > 3, "{folder} has sources");
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let named = words.iter().any(|word| code.contains(word));
            if named && !code.starts_with("//") {
                found.push(format!("{}:{}: {code}", file.display(), number + 1));
            }
        }
    }
    found
}

#[test]
fn the_pure_folders_touch_neither_clock_nor_world() {
    for folder in [
        "shared/src",
        "edge/src/agent",
        "cloud/src/charging",
        "cloud/src/ledger",
    ] {
        let found = lines_with(folder, NEVER_PURE);
        assert!(found.is_empty(), "{folder} is pure:\n{}", found.join("\n"));
    }
}

#[test]
fn edge_and_cloud_never_import_each_other() {
    let found = lines_with("edge/src", &["simquota_cloud"]);
    assert!(found.is_empty(), "{found:#?}");
    let found = lines_with("cloud/src", &["simquota_edge"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn clocks_are_read_in_one_place_of_each_crate() {
    for folder in ["edge/src", "cloud/src"] {
        let found: Vec<String> = lines_with(
            folder,
            &["SystemTime::now", "Instant::now", "clock_gettime("],
        )
        .into_iter()
        .filter(|line| {
            !line.contains("io/clock.rs") && !line.contains("tests.rs") && !line.contains("/tests/")
        })
        .collect();
        assert!(
            found.is_empty(),
            "{folder} reads clocks outside io/clock.rs:\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn each_dependency_says_why_it_is_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut silent = Vec::new();
    for file in [
        "Cargo.toml",
        "shared/Cargo.toml",
        "edge/Cargo.toml",
        "cloud/Cargo.toml",
        "tests/Cargo.toml",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let (mut inside, mut said) = (false, false);
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.contains("dependencies]");
            }
            // A comment speaks for the line below it, and for those of the same family right after that.
            let elsewhere = line.contains("workspace = true") || line.contains("path = ");
            let family = line.starts_with("netlink-");
            if inside
                && line.contains(" = ")
                && !line.starts_with('#')
                && !elsewhere
                && !said
                && !family
            {
                silent.push(format!("{file}: {line}"));
            }
            said = line.starts_with('#');
        }
    }
    assert!(
        silent.is_empty(),
        "why are these here?\n{}",
        silent.join("\n")
    );
}
