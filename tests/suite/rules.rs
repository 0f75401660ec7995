//! Rules, money, records and audits from the command line, through the real service.

use std::fs;
use std::path::Path;
use std::process::Command;

use simquota_tests::process::LIMIT;

use crate::world::{World, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// A command's output as it is printed for people, and its exit code.
fn plain(world: &World, args: &[&str]) -> (String, String, i32) {
    let output = Command::new(DEMO)
        .args(["cloud", "--config"])
        .arg(world.folder.path().join("cloud.toml"))
        .args(["--wait-s", "30"])
        .args(args)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.code().unwrap(),
    )
}

fn done(world: &World, args: &[&str]) -> String {
    let (out, said, code) = plain(world, args);
    assert_eq!(code, 0, "{args:?}: {said}");
    out
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn plans_limits_rules_and_money_are_ordered_and_shown() {
    let world = World::start();
    let said = done(
        &world,
        &["money", "deposit", "buses", "1000", "--why", "invoice 7"],
    );
    assert!(said.contains("balance"), "{said}");
    let plan = done(
        &world,
        &[
            "plan",
            "begin",
            "--fleet",
            "buses",
            "--volume",
            "1GB",
            "--every",
            "month",
            "--on",
            "31",
            "--place",
            "Europe/Berlin",
            "--rollover-max",
            "200MB",
            "--price",
            "300",
            "--plan",
            "monthly",
        ],
    );
    assert!(plan.contains("monthly-1"), "{plan}");
    done(
        &world,
        &[
            "fleet",
            "limits",
            "buses",
            "--device-day",
            "5MB",
            "--pool-month",
            "10GB",
            "--place",
            "Asia/Tokyo",
        ],
    );
    done(&world, &["fleet", "thresholds", "buses", "25", "75"]);
    done(
        &world,
        &[
            "top-up",
            "set",
            "refill",
            "--fleet",
            "buses",
            "--percent",
            "90",
            "--volume",
            "1GB",
            "--most",
            "3",
            "--price",
            "200",
        ],
    );
    let shown = world.cloud(&["fleet", "show", "buses"]).remove(0);
    assert_eq!(shown["balance"], 700);
    assert_eq!(shown["device_day"], 5_000_000);
    assert_eq!(shown["place"], "Asia/Tokyo");
    assert_eq!(shown["percents"], serde_json::json!([25, 75]));
    assert_eq!(shown["rules"][0]["most"], 3);
    done(
        &world,
        &[
            "package",
            "debit",
            "monthly-1",
            "--fleet",
            "buses",
            "--volume",
            "950MB",
            "--why",
            "x",
        ],
    );
    let shown = world.cloud(&["fleet", "show", "buses"]).remove(0);
    assert_eq!(
        (&shown["balance"], &shown["rules"][0]["times"]),
        (&500.into(), &1.into())
    );
    assert_eq!(shown["available"], 1_050_000_000);
    done(&world, &["fleet", "suspend", "buses"]);
    done(&world, &["fleet", "resume", "buses"]);
    done(&world, &["top-up", "remove", "refill", "--fleet", "buses"]);
    done(&world, &["plan", "end", "monthly", "--fleet", "buses"]);
    let cancelled = world
        .cloud(&["package", "cancel", "monthly-1", "--fleet", "buses"])
        .remove(0);
    assert_eq!(cancelled["repaid"], 15, "50 MB of 1 GB for 300");
    let trail = done(&world, &["explain", "--fleet", "buses"]);
    for words in [
        "plan monthly began: 1.00 GB on day 31 of each month at 00:00 in Europe/Berlin",
        "rule refill: package refill-",
        "each device 5.00 MB a day",
        "package monthly-1 is used to 75 % (crossing 2)",
        "all devices were suspended",
    ] {
        assert!(trail.contains(words), "{words}\n{trail}");
    }
    let (_, said, code) = plain(
        &world,
        &["money", "withdraw", "buses", "9999", "--why", "x"],
    );
    assert_eq!(code, 1);
    assert!(
        said.contains("not-enough-money: the balance is 515"),
        "{said}"
    );
    world.audit();
}

#[test]
fn records_go_on_where_they_ended_and_a_copy_is_audited_while_the_service_is_stopped() {
    let mut world = World::start();
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "buses",
        "--volume",
        "10MB",
        "--package",
        "p",
    ]);
    let trace = steady(20, 4000);
    let mut device = world.device("tracker-1", &trace, 20, "1 MB");
    device.start();
    let process = device.process.as_mut().unwrap();
    process.wait_exit(LIMIT).unwrap();
    let charged = world.show(&device)["charged"].as_u64().unwrap();
    let (first, said, _) = plain(&world, &["export", "--fleet", "buses"]);
    assert!(
        first.starts_with("entry,row,at,cause,fleet,device,"),
        "{first}"
    );
    let used = |text: &str| -> u64 {
        text.lines()
            .filter(|line| line.contains(",p:used,"))
            .map(|line| line.split(',').nth(17).unwrap().parse::<u64>().unwrap())
            .sum()
    };
    assert_eq!(
        used(&first),
        charged,
        "what was charged is what was exported"
    );
    let next = said
        .trim()
        .strip_prefix("go on with --from ")
        .unwrap()
        .to_owned();
    let before = world
        .cloud(&["balance", "--fleet", "buses", "--at", "0s"])
        .remove(0);
    world.cloud(&[
        "package", "debit", "p", "--fleet", "buses", "--volume", "7kB", "--why", "x",
    ]);
    let more = done(
        &world,
        &[
            "export", "--fleet", "buses", "--from", &next, "--format", "jsonl",
        ],
    );
    let row: serde_json::Value = serde_json::from_str(more.trim()).unwrap();
    assert_eq!(
        (&row["cause"], &row["amount"]),
        (&"Debited".into(), &7000.into())
    );
    assert_eq!(before["packages"][0]["used"], charged, "as it was then");
    let day_before = done(&world, &["balance", "--fleet", "buses", "--at", "1d"]);
    assert!(day_before.contains("after entry 0"), "{day_before}");

    let audit = world.audit();
    let running = world.cloud.as_mut().unwrap();
    running.terminate().unwrap();
    running.wait_exit(LIMIT).unwrap();
    let copy = world.folder.path().join("copy");
    copied(&world.folder.path().join("cloud/ledger"), &copy);
    let copy = copy.to_str().unwrap();
    let again = world.cloud(&["audit", "--store", copy]).remove(0);
    assert_eq!(again, audit, "the copy says the same");
    let offline = done(&world, &["export", "--store", copy]);
    assert_eq!(used(&offline), charged + 7000);
    let (_, said, code) = plain(&world, &["audit", "--store", "/nowhere/at-all"]);
    assert_ne!(code, 0);
    assert!(said.contains("/nowhere/at-all"), "{said}");
}
