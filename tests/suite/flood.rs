//! Many messages at once, meant well or not: neither the client library's window nor the broker's may hold the service up for ever.

use std::process::Command;

use simquota_tests::broker::Mosquitto;
use simquota_tests::missing::missing_part;

/// Each device has one report under way at a time, and ten in all.
fn flood(over: &str, devices: u32) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["flood", "--over", over, "--reports", "10"])
        .args(["--devices", &devices.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The first device's first report was for knocking; who listens is sure after it.
    let answered = format!("{} reports answered", devices * 10 - 10);
    assert!(said.contains(&answered), "{answered}: {said}");
}

#[test]
fn four_hundred_reports_at_once_are_answered_over_rumqttd() {
    flood("rumqttd", 400);
}

#[test]
fn two_thousand_reports_at_once_are_answered_over_mosquitto() {
    if Mosquitto::find().is_none() {
        return missing_part("mosquitto (flood)");
    }
    flood("mosquitto", 2000);
}

/// The short form of `cargo prove --only hostile`: nobody is lost, nothing ends. What it costs is measured there.
#[test]
fn beside_a_hostile_client_every_other_device_is_answered() {
    if Mosquitto::find().is_none() {
        return missing_part("mosquitto (a hostile client)");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_prove"))
        .args(["--only", "hostile", "--attack-s", "3"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let hostile = &figures["hostile"];
    assert_eq!(hostile["lost"], 0, "{hostile}");
    for part in ["share", "full"] {
        assert!(
            hostile[part]["hostile_per_s"].as_u64() > Some(0),
            "{hostile}"
        );
    }
}
