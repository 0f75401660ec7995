//! The demo is a test of everything together: it ends with 0 only if its own proof holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use simquota_tests::missing::missing_part;
use simquota_tests::netns::Lab;
use simquota_tests::process::{Child, LIMIT};

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

/// What a process has made in the kernel.
fn namespaces_of(pid: u32) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = names.flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    names
        .filter(|name| name.starts_with(&format!("sqt{pid}-")))
        .collect()
}

#[test]
fn the_demo_shows_a_download_that_the_kernel_stops_and_a_top_up_that_releases_it() {
    if let Err(why) = Lab::make(true) {
        return missing_part(&format!("root, ip, nft, nsenter and veth (demo: {why:#})"));
    }
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.args([
        "--devices",
        "4",
        "--seconds",
        "6",
        "--gate",
        "nft",
        "--json",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped());
    let demo = demo.spawn().unwrap();
    let pid = demo.id();
    let output = demo.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}");
    let proof: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(proof["holds"], true, "{told}");
    let gate = &proof["gate"];
    let stopped = |name: &str| gate["stopped"][name].as_u64().unwrap();
    let grant = gate["grant"].as_u64().unwrap();
    assert_eq!(stopped("passed"), stopped("metered"), "{told}");
    // It stopped at the grant: less than a packet is left of it, and what was over it is counted.
    assert!(stopped("metered") + 1_500 > grant, "{told}");
    assert_eq!(
        stopped("overrun"),
        stopped("metered").saturating_sub(grant),
        "{told}"
    );
    let passed = gate["passed"].as_u64().unwrap();
    assert!(passed > stopped("passed") + 200_000, "it went on: {told}");
    let devices = proof["per_device"].as_array().unwrap();
    let modem = devices.iter().find(|row| row["device"] == "modem-1");
    let modem = modem.unwrap();
    assert_eq!(modem["metered"], modem["charged"], "{told}");
    for line in ["  kernel ", "GATE nft", "at its grant", "modems-top-up"] {
        assert!(text.contains(line), "no {line:?}: {told}");
    }
    assert_eq!(namespaces_of(pid), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_no_namespace_behind() {
    if let Err(why) = Lab::make(true) {
        return missing_part(&format!("root, ip, nft, nsenter and veth (demo: {why:#})"));
    }
    let args = ["--devices", "4", "--seconds", "60", "--gate", "nft"];
    let program = env!("CARGO_BIN_EXE_demo");
    let mut demo = Child::spawn(Path::new(program), &args, &[]).unwrap();
    demo.wait_line(|line| line.contains("prepaid data flows"), LIMIT)
        .unwrap();
    assert_eq!(namespaces_of(demo.id()).len(), 2);
    demo.interrupt().unwrap();
    let ended = demo.wait_exit(2 * LIMIT).unwrap();
    assert!(ended.success(), "{ended}: {}", demo.tail());
    assert_eq!(namespaces_of(demo.id()), Vec::<String>::new());
}

#[test]
fn a_gate_that_cannot_be_made_says_what_to_do() {
    // Without a search path no program is found.
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--gate", "nft"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = match std::fs::metadata("/proc/self").unwrap().uid() {
        0 => "error: --gate nft needs the program ip: install iproute2",
        _ => {
            "error: --gate nft makes network namespaces and a table in the kernel, which takes root: run it by `sudo`"
        }
    };
    assert!(said.starts_with(expected), "{said}");
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
