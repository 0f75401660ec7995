//! One name follows a request and a sample from the device's log to the entry of the journal.

use super::http::await_ready;
use super::*;
use crate::world::steady;

/// What `trace=` says in a line of the log.
fn name(line: &str) -> Option<&str> {
    let rest = line.split("trace=").nth(1)?;
    Some(rest.split(' ').next()?.trim_matches('"'))
}

#[test]
fn a_request_and_its_samples_have_one_name_in_both_logs_and_in_the_journal() {
    let mut world = World::start();
    let at = restart_with(&mut world, "");
    await_ready(at);
    let admin = token(&world, "admin");
    assert_eq!(
        request(at, "PUT", "/log", Some(&admin), "info,simquota_cloud=debug").status,
        204
    );
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    let mut device = world.device("t-1", &steady(5, 100), 5, "1 kB");
    device.start_logging("debug");
    let process = device.process.as_mut().unwrap();
    process.wait_exit(LIMIT).unwrap();
    let cloud = world.cloud.as_ref().unwrap();
    let explained = world.cloud(&["explain", "t-1"]).remove(0);
    let rows = explained.as_array().unwrap();
    for kind in ["c-", "u-"] {
        let lines = process.lines();
        let sent: Vec<&str> = lines
            .iter()
            .filter(|line| line.text.contains("published"))
            .filter_map(|line| name(&line.text))
            .filter(|name| name.starts_with(kind))
            .collect();
        assert!(
            !sent.is_empty(),
            "the device's log names nothing {kind}: {}",
            process.tail()
        );
        let row = rows
            .iter()
            .find(|row| {
                row["trace"]
                    .as_str()
                    .is_some_and(|trace| sent.contains(&trace))
            })
            .unwrap_or_else(|| panic!("no entry is named one of {sent:?}: {explained}"));
        let (trace, entry) = (row["trace"].as_str().unwrap(), row["entry"].to_string());
        let line = cloud
            .wait_line(
                |line| line.contains("decided and durable") && name(line) == Some(trace),
                LIMIT,
            )
            .unwrap();
        assert!(
            line.text.contains(&format!("entry={entry} ")),
            "{}",
            line.text
        );
    }
}
