//! Every command of managers and admins by the real program over a real broker: tried first, expired, carried out once,
//! at a version that was looked at, and in the audit trail with who and when.

use std::collections::BTreeMap;

use serde_json::Value;
use simquota_tests::process::LIMIT;

use crate::world::{World, steady};

/// A world with four devices that were on their way once and are at rest.
fn world() -> World {
    let world = World::start();
    world.cloud(&words(
        "package buy --fleet buses --volume 10MB --package pool",
    ));
    let mut devices = ["t-1", "t-2", "t-3", "t-4"].map(|id| {
        let mut device = world.device(id, &steady(3, 1_000), 5, "10 kB");
        device.start();
        device
    });
    for device in &mut devices {
        let process = device.process.as_mut().unwrap();
        assert!(
            process.wait_exit(LIMIT).unwrap().success(),
            "{}",
            process.tail()
        );
    }
    world
}

/// Words of a command line; none of them has a space.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// A command that has to be refused; why.
fn refused(world: &World, args: &[&str]) -> String {
    let (_, code, said) = world.command(args);
    assert_eq!(code, 1, "{args:?}: {said}");
    said
}

/// What the list calls a command, and how it is given. Those that can't be undone come last.
const CHANGES: [(&str, &str); 34] = [
    ("buy", "package buy --fleet buses --volume 1MB --package p"),
    (
        "buy for a device",
        "package buy --device t-1 --fleet buses --volume 1MB --package own",
    ),
    (
        "credit",
        "package credit p --fleet buses --volume 2kB --why gift",
    ),
    (
        "debit",
        "package debit p --fleet buses --volume 1kB --why test",
    ),
    (
        "move to a device",
        "package move p --fleet buses --device t-2 --volume 5kB --why trip",
    ),
    (
        "move to a package",
        "package move p --fleet buses --to own --volume 5kB --why trip",
    ),
    (
        "refund",
        "refund ENTRY --fleet buses --volume 10B --why zone",
    ),
    (
        "cap of a fleet",
        "fleet limits buses --device-day 5MB --pool-month 1GB --place Europe/Berlin",
    ),
    ("cap of a device", "device limits t-1 --day 4MB"),
    ("policy", "device policy t-1 --report-s 60"),
    ("threshold", "fleet thresholds buses 40 90"),
    (
        "auto top-up",
        "top-up set refill --fleet buses --percent 80 --volume 1MB --most 2",
    ),
    (
        "auto top-up taken back",
        "top-up remove refill --fleet buses",
    ),
    (
        "plan",
        "plan begin --fleet buses --volume 1MB --every month --on 1 --plan monthly",
    ),
    ("plan ended", "plan end monthly --fleet buses"),
    ("suspend", "device suspend t-1"),
    ("resume", "device resume t-1"),
    ("revoke", "device revoke t-1"),
    ("report now", "device report t-1"),
    ("next key", "device rotate-key t-1"),
    ("shut out", "device shut-out t-1 --why stolen"),
    ("readmit", "device readmit t-1"),
    ("tag", "device tag t-1 night"),
    ("suspend a fleet", "fleet suspend buses"),
    ("resume a fleet", "fleet resume buses"),
    ("pay in", "money deposit buses 500 --why invoice"),
    ("pay out", "money withdraw buses 200 --why closed"),
    ("close a batch", "enrol batch close spring"),
    ("release a SIM", "device release-sim t-3"),
    ("assign a SIM", "device assign-sim t-3 8988303000000000019"),
    ("cancel", "package cancel p --fleet buses"),
    ("replace a device", "device replace t-3 --by t-4"),
    ("decommission", "device decommission t-2 --why scrapped"),
    ("revoke a batch", "enrol batch revoke spring"),
];

/// Rows of CommandDone, by the id that their words name.
fn trail(world: &World) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for whose in [
        ["explain", "--fleet", "buses"].as_slice(),
        &["explain", "--platform"],
    ] {
        let rows = world.cloud(whose).remove(0);
        for row in rows.as_array().unwrap() {
            if row["cause"] == "CommandDone" {
                let words = row["words"].as_str().unwrap();
                let id = words.split(' ').nth(1).unwrap().to_owned();
                found.entry(id).or_default().push(row.clone());
            }
        }
    }
    found
}

#[test]
fn every_command_is_tried_expires_is_done_once_and_leaves_who_and_when() {
    let world = world();
    let explained = world.cloud(&["explain", "t-1"]).remove(0);
    let mut rows = explained.as_array().unwrap().iter();
    let entry = rows.find(|row| row["cause"] == "Usage").unwrap()["entry"].to_string();
    for (number, (name, line)) in CHANGES.iter().enumerate() {
        let line = line.replace("ENTRY", &entry);
        let (id, late) = (format!("step-{number}"), format!("late-{number}"));
        let with = |more: &[&str]| {
            let mut args: Vec<String> = more.iter().map(ToString::to_string).collect();
            args.extend(words(&line).iter().map(ToString::to_string));
            args
        };
        let run = |args: Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            world.command(&args)
        };
        let (values, code, said) = run(with(&["--id", &id, "--dry-run"]));
        assert_eq!(code, 0, "{name}, tried: {said}");
        assert_eq!(
            values,
            [serde_json::json!({ "dry": true })],
            "{name}, tried"
        );
        let (_, code, said) = run(with(&["--id", &late, "--expires-s", "0"]));
        assert_eq!(code, 1, "{name}, late: {said}");
        assert!(said.contains("expired: "), "{name}, late: {said}");
        let first = run(with(&["--id", &id]));
        assert_eq!(first.1, 0, "{name}: {}", first.2);
        let again = run(with(&["--id", &id]));
        assert_eq!(again, first, "{name}: the same id is the same command");
    }
    let trail = trail(&world);
    for (number, (name, _)) in CHANGES.iter().enumerate() {
        for (id, code) in [
            (format!("step-{number}"), "2001"),
            (format!("late-{number}"), "4010"),
        ] {
            let rows = trail.get(&id).map(Vec::as_slice).unwrap_or_default();
            let [row] = rows else {
                panic!("{name}: {} entries of {id}: {rows:?}", rows.len());
            };
            let told = row["words"].as_str().unwrap();
            assert!(
                told.contains(" by key admin: ") && told.contains(code),
                "{name}: {told}"
            );
            assert!(
                row["at"].as_u64() > Some(1_700_000_000_000),
                "{name}: {row}"
            );
        }
    }
    world.audit();
}

#[test]
fn a_list_and_each_selection_take_every_bulk_command() {
    let world = world();
    world.cloud(&words("device tag t-1 night"));
    // Which devices each selection finds, of the four.
    let selections = [
        ("--device t-1 --device t-2", vec!["t-1", "t-2"]),
        ("--all", vec!["t-1", "t-2", "t-3", "t-4"]),
        ("--tag night", vec!["t-1"]),
        ("--zone home", vec!["t-1", "t-2", "t-3", "t-4"]),
        ("--model unknown", vec!["t-1", "t-2", "t-3", "t-4"]),
        ("--state closed", vec!["t-1", "t-2", "t-3", "t-4"]),
        ("--below 1MB", vec!["t-1", "t-2", "t-3", "t-4"]),
        ("--tag night --state closed --below 1MB", vec!["t-1"]),
        ("--tag day", vec![]),
    ];
    let model = world.cloud(&["device", "show", "t-1"])[0]["model"]
        .as_str()
        .unwrap()
        .to_owned();
    let devices = |rows: &Value| -> Vec<String> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["device"].as_str().unwrap().to_owned())
            .collect()
    };
    for (select, found) in &selections {
        let select = select.replace("unknown", &model);
        let line = format!("bulk report --fleet buses {select}");
        let mut tried = words(&line);
        tried.insert(0, "--dry-run");
        let would = world.cloud(&tried);
        assert_eq!(devices(&would[0]), *found, "{select}");
        let done = world.cloud(&words(&line));
        assert_eq!(done[0]["of"], found.len(), "{select}");
        assert_eq!(done[0]["refused"], 0, "{select}");
    }
    let commands = [
        "suspend",
        "resume",
        "revoke",
        "report",
        "reauthorise",
        "rotate-key",
        "tag --set blue",
        "limits --day 5MB",
        "policy --report-s 60",
        "buy --volume 1kB",
        "release-sim",
        "shut-out --why test",
        "decommission --why scrapped",
    ];
    for (number, command) in commands.iter().enumerate() {
        let id = format!("many-{number}");
        let line = format!("--id {id} bulk {command} --fleet buses --device t-1 --device t-2");
        let begun = world.cloud(&words(&line));
        assert_eq!(
            (&begun[0]["of"], &begun[0]["done"]),
            (&2.into(), &2.into()),
            "{command}"
        );
        let outcomes = world.cloud(&["bulk", "outcomes", &id, "--fleet", "buses"]);
        assert_eq!(devices(&outcomes[0]), ["t-1", "t-2"], "{command}");
        for row in outcomes[0].as_array().unwrap() {
            assert_eq!(row["code"], 2001, "{command}: {row}");
        }
    }
    let listed = world.cloud(&["bulk", "list", "--fleet", "buses"]);
    assert!(
        listed[0]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["author"] == "admin")
    );
    world.audit();
}

#[test]
fn what_was_looked_at_is_named_and_a_stale_look_is_refused() {
    let world = world();
    let version = |show: &str| {
        let row = world.cloud(&words(show)).remove(0);
        row["version"]
            .as_u64()
            .unwrap_or_else(|| panic!("{show}: {row}"))
            .to_string()
    };
    for (show, change) in [
        ("device show t-1", "device tag t-1 night"),
        ("device show t-1", "device suspend t-1"),
        ("device show t-2", "device release-sim t-2"),
        ("fleet show buses", "fleet thresholds buses 40 90"),
        ("fleet show buses", "package buy --fleet buses --volume 1kB"),
        (
            "package show pool --fleet buses",
            "package credit pool --fleet buses --volume 2kB --why gift",
        ),
        (
            "package show pool --fleet buses",
            "package cancel pool --fleet buses",
        ),
    ] {
        let seen = version(show);
        let expecting = |version: &str| {
            let line = format!("--expected {version} {change}");
            line.split(' ').map(str::to_owned).collect::<Vec<_>>()
        };
        let args = expecting("999999");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let why = refused(&world, &args);
        assert!(why.contains("other-version: "), "{change}: {why}");
        assert!(
            why.contains(&format!("has version {seen}")),
            "{change}: {why}"
        );
        assert!(why.contains("not 999999"), "{change}: {why}");
        let args = expecting(&seen);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        world.cloud(&args);
        assert_ne!(version(show), seen, "{change}");
    }
    let why = refused(&world, &words("--expected 1 enrol batch close spring"));
    assert!(why.contains("no-versions: "), "{why}");
}

#[test]
fn everything_is_shown_as_a_table_with_units_and_as_json() {
    let world = world();
    world.cloud(&words("--id some bulk report --fleet buses --all"));
    world.cloud(&words(
        "plan begin --fleet buses --volume 1MB --every month --on 1 --plan monthly",
    ));
    let entry = world.cloud(&["explain", "t-1"]).remove(0)[0]["entry"].to_string();
    let mut missed = Vec::new();
    for (line, says) in [
        ("device list", "3.75 kB"),
        ("device list --fleet buses", "t-4"),
        ("device show t-1", "3.75 kB"),
        ("package list", "10.00 MB"),
        ("package list --fleet buses", "pool of buses"),
        ("package show pool --fleet buses", "10.00 MB"),
        ("plan list --fleet buses", "monthly"),
        ("fleet list", "buses"),
        ("fleet show buses", "MB"),
        ("sim list", "8988303000000000019"),
        ("sim show 8988303000000000019", "CloudMobile"),
        ("key list", "buses-manager"),
        ("enrol batch list", "spring"),
        ("explain t-1", "S21 S22 S23"),
        ("explain --fleet buses", "by key admin"),
        ("explain --platform", "by key admin"),
        ("usage --fleet buses --by day", "3.75 kB"),
        ("usage --device t-1 --by hour --since 2d", "3.75 kB"),
        ("statement --fleet buses", "statement of fleet buses"),
        ("balance --at 0s", "10.00 MB"),
        ("bulk list --fleet buses", "some"),
        ("bulk show some --fleet buses", "device-report"),
        ("bulk outcomes some --fleet buses", "2001"),
        ("audit", "holds"),
        ("top --once --fleet buses", "t-1"),
        ("watch --topic ops/node/+ --count 1", "verified"),
    ] {
        let text = world.text(&words(line));
        if !text.contains(says) {
            missed.push(format!("{line} says no '{says}':\n{text}"));
        }
        if line.starts_with("top") {
            continue;
        }
        let (values, code, said) = world.command(&words(line));
        assert_eq!(code, 0, "{line}: {said}");
        assert!(!values.is_empty(), "{line} --json prints JSON");
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    for format in ["csv", "jsonl"] {
        let line = format!("export --fleet buses --from {entry} --format {format}");
        let text = world.text(&words(&line));
        assert!(
            text.contains("Usage") && text.contains("t-1"),
            "{line}: {text}"
        );
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            world.text(&["completion", shell]).contains("decommission"),
            "{shell}"
        );
    }
    // 1: the service said no. 2: it was never asked, or can't be.
    assert_eq!(
        world.command(&words("package show nope --fleet buses")).1,
        1
    );
    assert_eq!(
        world.command(&words("device suspend nope --fleet buses")).1,
        1
    );
    assert_eq!(world.command(&words("package frobnicate")).1, 2);
    assert_eq!(world.command(&words("--key nobody device list")).1, 2);
}
