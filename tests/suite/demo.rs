//! The demo is a test of everything together: it ends with 0 only if its own proof holds.

use std::process::Command;

use serde_json::Value;

/// Long enough for each act, with few devices: what is tested is the proof, not the show.
#[test]
fn the_demo_proves_that_every_octet_is_accounted_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--devices", "4", "--seconds", "6", "--seed", "7", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}");
    let proof: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let number = |name: &str| proof[name].as_u64().unwrap();
    assert_eq!(proof["holds"], true, "{told}");
    assert_eq!((number("lost"), number("doubled")), (0, 0), "{told}");
    assert_eq!(number("metered"), number("charged"), "{told}");
    // Two parts of the demo's own traffic: six seconds of datagrams alone are more than a megabyte.
    assert!(number("charged_on_lo") > 1_000_000, "{told}");
    assert!(number("charged") > number("charged_on_lo"), "{told}");
    let devices = proof["per_device"].as_array().unwrap();
    assert_eq!(devices.len(), 4);
    for device in devices {
        assert!(device["charged"].as_u64().unwrap() > 0, "{device}");
        assert_eq!(device["metered"], device["charged"], "{device}");
    }
    for identity in proof["identities"].as_array().unwrap() {
        assert_eq!(identity["holds"], true, "{identity}");
    }
    let steps: Vec<&str> = proof["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step.as_str().unwrap())
        .collect();
    let all = [
        "S11", "S12", "S13", "S21", "S22", "S23", "S31", "S32", "S33", "S41", "S43", "S5",
    ];
    assert_eq!(steps, all, "{told}");
}

#[test]
fn a_demo_that_cannot_begin_says_why_and_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--trace", "/no/such/trace.csv"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("error: cannot open /no/such/trace.csv: give --trace a trace file"),
        "{said}"
    );
    let kept = said
        .lines()
        .find_map(|line| line.strip_prefix("kept: "))
        .unwrap();
    std::fs::remove_dir_all(kept).unwrap();
}

/// The two programs are in it: what `--keep` prints can be typed.
#[test]
fn its_program_is_the_agent_and_the_service_too() {
    for (role, name) in [("edge", "simquota-edge"), ("cloud", "simquota-cloud")] {
        let output = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args([role, "--version"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with(name), "{said}");
    }
}
