//! Everything that a run of the demo puts on its broker, held against the schema: kills, an amnesia and all.

use std::path::Path;
use std::process::Command;

use rumqttc::v5::MqttOptions;
use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, LIMIT, await_fact};

use super::codec::again;
use super::sniffer::Sniffer;

/// The port in the demo's cloud.toml, once it has begun.
fn port(folder: &Path) -> Option<u16> {
    let config = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cloud.toml")).ok())
        .next()?;
    let line = config.lines().find(|line| line.starts_with("port = "))?;
    line.strip_prefix("port = ")?.parse().ok()
}

#[test]
fn every_message_of_a_demo_fits_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command
        .args(["--devices", "4", "--seconds", "6", "--seed", "8", "--json"])
        .env("TMPDIR", folder.path());
    let mut demo = Child::start("demo", &mut command).unwrap();
    let port = await_fact(LIMIT, "the demo's broker", || port(folder.path())).unwrap();
    let mut options = MqttOptions::new("sniffer", "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 20));
    let sniffer = Sniffer::with(options);
    let status = demo.wait_exit(4 * LIMIT).unwrap();
    assert!(status.success(), "{:#?}", demo.tail());
    let (heard, lines) = sniffer.check_after();
    println!("demo: {heard:?} fit the schema");
    match again(&lines) {
        Some(said) => {
            let payloads = lines.lines().map(|line| line.split_once(' ').unwrap().1);
            assert!(payloads.eq(said.lines()), "C writes other octets");
            println!("C: {} messages of it written again", said.lines().count());
        }
        None => missing_part("gcc, and Python with zcbor (C of the schema)"),
    }
    for rule in [
        "on-up-register",
        "on-up-usage",
        "on-up-credit",
        "on-status",
        "on-down-credit",
    ] {
        assert!(heard.get(rule).is_some_and(|count| *count > 4), "{heard:?}");
    }
}
