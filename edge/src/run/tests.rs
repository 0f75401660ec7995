#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod cloud;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use simquota_shared::message::usage::flag;
use simquota_shared::message::{Kind, Reason};
use simquota_shared::units::{Boot, Octets};
use tokio::runtime::Runtime;

use super::*;
use crate::config::Config;
use crate::io::keyfile::Enrolment;
use cloud::{Cloud, Ledger};

/// One for all tests: dropping one while agents still say goodbye would cut them off.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| runtime().unwrap());

/// A device in a folder of its own, with a trace of 60 lines.
struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
}

/// Sums of [`trace`].
const SUM: u64 = 60 * (1_000 + 50_000);

fn trace(path: &Path) {
    let lines: Vec<String> = (1..=60)
        .map(|second| format!("{second},1000,50000"))
        .collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn enrolment() -> Enrolment {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    key_file(&path);
    Enrolment::read(&path).unwrap()
}

fn key_file(path: &Path) {
    let line = format!("csim1:tracker-1:batch-a/1:{}\n", "cd".repeat(32));
    std::fs::write(path, line).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Bench {
    fn new(port: u16, more: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        key_file(&dir.path().join("edge.key"));
        trace(&dir.path().join("t.csv"));
        let path = dir.path().join("edge.toml");
        let text = format!(
            "[broker]\nhost = \"127.0.0.1\"\nport = {port}\n\
             [source]\nkind = \"trace\"\nfile = \"t.csv\"\nspeed = 30\npoll_ms = 20\n\
             [quota]\nwant = \"800 kB\"\n[end]\nshutdown_s = 30\n{more}"
        );
        let settings = Config::parse(&text, &path)
            .unwrap()
            .settings(&path)
            .unwrap();
        Bench { dir, settings }
    }

    fn spawn(&self) -> Running {
        spawn(self.settings.clone(), RUNTIME.handle().clone()).unwrap()
    }

    fn data(&self) -> &Path {
        &self.settings.data
    }
}

/// Waits for a fact, for as long as anything may take.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

#[test]
fn a_trace_is_metered_charged_and_returned_to_the_octet() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    let ended = bench.spawn().join().unwrap();
    assert!(ended.settled(), "{ended:?}");
    let Ledger {
        charged,
        overrun,
        requests,
        statuses,
        flags,
        will,
        ..
    } = cloud.ledger().clone();
    assert_eq!(charged, SUM);
    assert_eq!(ended.last.agent.used, SUM);
    assert_eq!(
        (overrun, flags & flag::OVERRUN),
        (0, 0),
        "the trace waited at each ceiling"
    );
    assert_eq!(requests.first().unwrap().kind, Kind::Initial);
    assert!(requests.iter().any(|request| request.kind == Kind::Update));
    let last = requests.last().unwrap();
    assert_eq!(
        (last.kind, last.reason, last.used),
        (Kind::Final, Reason::SHUTDOWN, Octets(SUM))
    );
    assert!(statuses.first().unwrap().online);
    assert!(!statuses.last().unwrap().online);
    assert!(String::from_utf8_lossy(&will).contains("csim/v1/d/tracker-1/status"));
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&bench.settings.status_file).unwrap()).unwrap();
    assert_eq!(file.get("backlog"), Some(&serde_json::json!(0)));
    assert_eq!(
        file.get("pid"),
        Some(&serde_json::json!(std::process::id()))
    );
}

#[test]
fn a_second_start_goes_on_in_the_same_epoch_and_ends_at_once() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    bench.spawn().join().unwrap();
    let ended = bench.spawn().join().unwrap();
    assert!(ended.settled());
    assert_eq!(cloud.ledger().charged, SUM);
    let registrations = cloud.ledger().registrations.clone();
    let [first, second] = registrations.as_slice() else {
        panic!("{registrations:?}");
    };
    assert_eq!((first.epoch, first.boot), (second.epoch, Boot(1)));
    assert_eq!(second.boot, Boot(2));
}

#[test]
fn forged_and_damaged_messages_are_counted_and_change_nothing() {
    let cloud = Cloud::begin(enrolment());
    cloud.ledger().noise = true;
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    let ended = bench.spawn().join().unwrap();
    assert!(ended.settled());
    assert_eq!(cloud.ledger().charged, SUM);
    assert!(ended.last.refused_messages >= 9, "{ended:?}");
}

#[test]
fn without_a_broker_it_ends_in_its_time_and_keeps_what_it_has() {
    // A port that nobody listens on: bound, and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut bench = Bench::new(port, "");
    bench.settings.agent.shutdown_ms = 200;
    let running = bench.spawn();
    let control = running.control.clone();
    until("the first failure to connect", || {
        control
            .status()
            .is_some_and(|status| status.broker_error.is_some())
    });
    control.shutdown();
    let ended = running.join().unwrap();
    assert!(!ended.settled(), "its final request was never answered");
    let (_, state) = crate::io::store::Store::open(&bench.data().join("store")).unwrap();
    assert!(state.unwrap().clean);
}

#[test]
fn a_superseded_epoch_is_followed_by_a_new_one_that_closes_it() {
    let cloud = Cloud::begin(enrolment());
    cloud.ledger().supersede = 1;
    let mut bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    bench.settings.agent.new_epoch_ms = 0;
    let ended = bench.spawn().join().unwrap();
    assert!(ended.settled());
    let registrations = cloud.ledger().registrations.clone();
    let (first, last) = (
        registrations.first().unwrap(),
        registrations.last().unwrap(),
    );
    assert_ne!(first.epoch, last.epoch);
    let closes = last.closes.clone().unwrap();
    assert_eq!(closes.epoch, first.epoch);
    assert_eq!(closes.total.0 + cloud.ledger().charged, SUM);
    assert_eq!(ended.last.agent.epoch, last.epoch.0);
}

#[test]
fn a_damaged_store_is_moved_aside_and_its_epoch_closed() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "");
    let running = bench.spawn();
    until("some usage", || cloud.ledger().charged > 200_000);
    running.control.shutdown();
    let before = running.join().unwrap();
    assert!(before.settled());
    let charged = cloud.ledger().charged;
    damage(&bench.data().join("store/keyspaces"));
    let mut again = Bench::new(cloud.port(), "");
    again.settings = Settings {
        exit_at_end: true,
        ..bench.settings.clone()
    };
    let ended = again.spawn().join().unwrap();
    assert!(ended.settled());
    assert!(bench.data().join("store.bad-1").is_dir());
    let closes = cloud
        .ledger()
        .registrations
        .last()
        .unwrap()
        .closes
        .clone()
        .unwrap();
    assert_eq!(
        (closes.epoch.0, closes.total.0),
        (before.last.agent.epoch, charged)
    );
    // The meter's position was mirrored too: not an octet between the two epochs is lost or counted twice.
    assert_eq!(closes.total.0 + cloud.ledger().charged, SUM);
}

fn damage(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else {
            std::fs::write(path, [0; 64]).unwrap();
        }
    }
}

#[test]
fn a_store_that_fails_shuts_the_gate_and_is_opened_again() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    let running = bench.spawn();
    until("some usage", || cloud.ledger().charged > 200_000);
    // See `Store::commit`: the disk is full as long as this file is there.
    let full = bench.data().join("store.full");
    std::fs::write(&full, b"").unwrap();
    let control = running.control.clone();
    until("the failure", || {
        control
            .status()
            .is_some_and(|status| status.store_error.is_some())
    });
    let stopped = control.status().unwrap();
    assert!(!stopped.agent.gate_open);
    // Tried again at least once, and nothing was charged meanwhile.
    std::thread::sleep(Duration::from_millis(1_500));
    std::fs::remove_file(&full).unwrap();
    let ended = running.join().unwrap();
    assert!(ended.settled());
    assert_eq!(ended.last.store_error, None);
    assert_eq!(cloud.ledger().charged, SUM);
    assert_eq!(cloud.ledger().overrun, 0);
    assert!(
        cloud.ledger().flags & flag::UNCLEAN != 0,
        "the failed life did not end in order"
    );
}

#[test]
fn leaving_the_sim_is_a_switch_and_coming_back_asks_anew() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    let running = bench.spawn();
    until("some usage", || cloud.ledger().charged > 200_000);
    running.control.leave_sim();
    until("the switch", || {
        let requests = &cloud.ledger().requests;
        requests
            .iter()
            .any(|request| request.reason == Reason::SWITCH)
    });
    running.control.return_sim();
    let ended = running.join().unwrap();
    assert!(ended.settled());
    let requests = cloud.ledger().requests.clone();
    let switch = requests
        .iter()
        .position(|request| request.reason == Reason::SWITCH)
        .unwrap();
    assert_eq!(requests[switch].kind, Kind::Final);
    assert_eq!(requests[switch + 1].kind, Kind::Initial);
    assert_eq!(
        cloud.ledger().charged,
        SUM,
        "a trace waits while the SIM is left"
    );
}

#[test]
fn a_closed_meter_counts_nothing_more_and_all_of_it_is_reported() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "close_meter = true\n");
    let running = bench.spawn();
    until("some usage", || cloud.ledger().charged > 200_000);
    running.control.shutdown();
    let ended = running.join().unwrap();
    assert!(ended.settled() && ended.last.source_finished);
    assert_eq!(cloud.ledger().charged, ended.last.agent.used);
    assert!(ended.last.agent.used < SUM);
}

#[test]
fn a_broken_connection_is_made_again_with_the_next_will() {
    let cloud = Cloud::begin(enrolment());
    let bench = Bench::new(cloud.port(), "exit_at_end = true\n");
    let running = bench.spawn();
    until("some usage", || cloud.ledger().charged > 200_000);
    cloud.hang_up();
    until("another connection", || cloud.ledger().connections == 2);
    let ended = running.join().unwrap();
    assert!(ended.settled());
    assert_eq!(cloud.ledger().charged, SUM);
    let online: Vec<u64> = cloud
        .ledger()
        .statuses
        .iter()
        .filter(|status| status.online)
        .map(|status| status.connection)
        .collect();
    assert_eq!(online, [1, 2]);
    let wills = cloud.ledger().wills.clone();
    let numbers: Vec<u64> = wills.iter().map(|will| will.connection).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(
        wills
            .iter()
            .all(|will| !will.online && will.boot == Boot(1))
    );
}

#[test]
fn a_folder_in_use_and_a_missing_interface_are_errors_at_once() {
    let bench = Bench::new(1, "");
    let _taken = Folder::take(bench.data()).unwrap();
    let error = bench.spawn().join().unwrap_err();
    assert!(
        matches!(error, RunError::Folder(FolderError::Locked { .. })),
        "{error}"
    );

    let mut bench = Bench::new(1, "");
    bench.settings.source = crate::config::Metered::Interface {
        options: crate::io::counter::LinkOptions {
            interface: "sqtnone0".to_owned(),
            direction: crate::io::counter::Direction::Both,
            l2_overhead: 0,
        },
        wait: false,
    };
    let error = bench.spawn().join().unwrap_err();
    assert!(error.to_string().contains("sqtnone0"), "{error}");
    assert!(bench.dir.path().is_dir());
}
