//! C types and codecs that zcbor makes of protocol.cddl: compiled, they write every vector again and refuse the failing.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use simquota_tests::missing::missing_part;
use simquota_tests::tools;

const VECTORS: &str = include_str!("../../../shared/vectors.json");

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn compile(python: &Path, folder: &Path) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/protocol.cddl");
    run(Command::new(python)
        .arg(tools::client("generate_c.py"))
        .arg(schema)
        .arg(folder));
    let sources = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    run(Command::new("gcc")
        .args(["-std=c11", "-O1", "-Wall", "-Werror", "-DZCBOR_CANONICAL"])
        // In zcbor's own sources.
        .arg("-Wno-unused-but-set-variable")
        .arg("-I")
        .arg(folder)
        .arg("-o")
        .arg(folder.join("roundtrip"))
        .arg(tools::client("roundtrip.c"))
        .args(sources));
}

/// What the program made of the schema writes for lines of rule and octets; none when a part is missing to make it.
pub(crate) fn again(lines: &str) -> Option<String> {
    let gcc = Command::new("gcc").arg("--version").output().is_ok();
    let (true, Some(python), Some(_)) = (gcc, tools::python(), tools::zcbor()) else {
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    compile(&python, folder.path());
    let input = folder.path().join("lines");
    std::fs::write(&input, lines).unwrap();
    let output = Command::new(folder.path().join("roundtrip"))
        .stdin(std::fs::File::open(input).unwrap())
        .output()
        .unwrap();
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn c_made_of_the_schema_takes_what_passes_and_refuses_what_fails() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let of = |kind: &str| -> Vec<Value> {
        let rows = vectors[kind].as_array().unwrap().iter();
        rows.filter(|row| row["payload"].is_string())
            .cloned()
            .collect()
    };
    let (passes, fails) = (of("pass"), of("fail"));
    let mut lines = String::new();
    for row in passes.iter().chain(&fails) {
        let (rule, payload) = (
            row["rule"].as_str().unwrap(),
            row["payload"].as_str().unwrap(),
        );
        writeln!(lines, "{rule} {payload}").unwrap();
    }
    let Some(said) = again(&lines) else {
        return missing_part("gcc, and Python with zcbor (C of the schema)");
    };
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), passes.len() + fails.len());
    for (row, said) in passes.iter().chain(&fails).zip(said) {
        let name = row["name"].as_str().unwrap();
        let expected = if row.get("refused_by").is_some() {
            "refused"
        } else {
            row["payload"].as_str().unwrap()
        };
        assert_eq!(said, expected, "{name}");
    }
    println!(
        "C: {} messages written again octet for octet, {} refused",
        passes.len(),
        fails.len()
    );
}
