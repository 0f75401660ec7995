//! The ledger's rules from outside: by the command line, and by a device that is made by hand, through the real service.

use serde_json::Value;
use simquota_shared::code::Code;
use simquota_shared::message::{Ack, Body, Command, FinalAction, Kind, Outcome, Reason};
use simquota_shared::topic::{Down, Up};
use simquota_shared::units::{Epoch, Octets};
use simquota_tests::process::{LIMIT, await_fact};

use crate::flow::Flow;
use crate::hand::answer;
use crate::world::{World, steady};

/// All that is said of a device, a line each.
fn explained(world: &World, device: &str) -> String {
    let rows = world.cloud(&["explain", device, "--fleet", "buses"]);
    let rows = rows[0].as_array().unwrap().clone();
    let words: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["words"].as_str())
        .collect();
    words.join("\n")
}

/// A row of `package list`.
fn package(world: &World, id: &str) -> Value {
    let rows = world.cloud(&["package", "list", "--fleet", "buses"]);
    let rows = rows[0].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["package"] == id).unwrap()
}

/// A command that has to be refused; why.
fn refused(world: &World, args: &[&str]) -> String {
    let (_, code, said) = world.command(args);
    assert_eq!(code, 1, "{args:?}: {said}");
    said
}

/// Buys in the fleet `buses`.
fn buy(world: &World, package: &str, volume: &str, more: &[&str]) {
    let args = [
        "package",
        "buy",
        "--fleet",
        "buses",
        "--package",
        package,
        "--volume",
        volume,
    ];
    world.cloud(&[&args[..], more].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grant_stacks_packages_in_their_order_and_another_zone_has_its_own() {
    let mut flow = Flow::start().await;
    let own = ["--device", "flow-1"];
    buy(&flow.world, "pool", "10MB", &[]);
    buy(
        &flow.world,
        "second",
        "1MB",
        &[&own[..], &["--days", "30"]].concat(),
    );
    buy(
        &flow.world,
        "first",
        "1MB",
        &[&own[..], &["--first-use-days", "30", "--priority", "1"]].concat(),
    );
    buy(
        &flow.world,
        "fixed",
        "1MB",
        &[
            "--until",
            "2099-12-31T00:00:00Z",
            "--zone",
            "home",
            "--priority",
            "999",
        ],
    );
    buy(
        &flow.world,
        "abroad",
        "1MB",
        &[
            &own[..],
            &["--zone", "roam-a", "--zone", "roam-b", "--priority", "0"],
        ]
        .concat(),
    );
    assert_eq!(package(&flow.world, "first")["until"], Value::Null);
    assert_eq!(
        package(&flow.world, "fixed")["until"].as_u64(),
        Some(4_102_358_400_000)
    );
    let granted = flow.ccr(Kind::Initial, 2_500_000, Reason::BOOT).await;
    assert_eq!(granted.ceiling, Octets(2_500_000));
    let words = explained(&flow.world, "flow-1");
    assert!(
        words.contains("1000000 of first, 1000000 of second, 500000 of pool"),
        "{words}"
    );
    assert!(words.contains("; sized: as it asked"), "{words}");
    assert!(
        package(&flow.world, "first")["until"].is_u64(),
        "it runs from its first use on"
    );
    assert!(granted.valid_until.is_some());

    // In another country the remainder goes back, and what serves there pays first.
    flow.uses(400_000).await;
    flow.zone = "roam-b".parse().unwrap();
    let abroad = flow.ccr(Kind::Initial, 800_000, Reason::CONDITION).await;
    assert_eq!(abroad.ceiling, Octets(1_200_000));
    assert_eq!(flow.balance("abroad"), (200_000, 800_000, 0, 0));
    assert_eq!(flow.balance("first"), (600_000, 0, 400_000, 0));
    assert_eq!(flow.balance("fixed"), (1_000_000, 0, 0, 0), "home only");

    let cancelled = flow
        .world
        .cloud(&["package", "cancel", "first", "--fleet", "buses"]);
    assert_eq!(cancelled[0]["refunded"], 600_000, "{cancelled:?}");
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_shrink_towards_the_end_and_say_why() {
    let mut flow = Flow::start_with("target_s = 1800\n", "").await;
    flow.buys("p", "1MB");
    let mut sizes = Vec::new();
    let mut answer = flow.ccr(Kind::Initial, 400_000, Reason::BOOT).await;
    for _ in 0..4 {
        let left = answer.ceiling.value() - flow.used;
        sizes.push(left);
        flow.uses(left).await;
        answer = flow.ccr(Kind::Update, 400_000, Reason::EXHAUSTED).await;
    }
    assert_eq!(sizes, [400_000, 300_000, 150_000, 75_000]);
    let words = explained(&flow.world, "flow-1");
    assert!(words.contains("; sized: half of what is left"), "{words}");
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_and_what_is_reported_after_it_is_charged_and_flagged() {
    let mut flow = Flow::start_with("validity_min_s = 1\n", "validity_s = 1\n").await;
    flow.buys("p", "10MB");
    flow.ccr(Kind::Initial, 2_000_000, Reason::BOOT).await;
    flow.uses(500_000).await;
    await_fact(LIMIT, "the silent device's lease ends", || {
        (flow.balance("p") == (9_500_000, 0, 500_000, 0)).then_some(())
    })
    .unwrap();
    flow.uses(300_000).await;
    assert_eq!(flow.balance("p"), (9_200_000, 0, 800_000, 0));
    let words = explained(&flow.world, "flow-1");
    assert!(words.contains("1.50 MB were released"), "{words}");
    assert!(
        words.contains("[late: 300.00 kB after the lease]"),
        "{words}"
    );
    let csv = flow.world.text(&["export", "--fleet", "buses"]);
    let mut lines = csv.lines();
    assert!(lines.next().unwrap().ends_with(",amount,late,late_after"));
    let late: Vec<&str> = lines
        .filter(|line| line.ends_with(",300000,lease"))
        .collect();
    assert_eq!(late.len(), 1, "{csv}");
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_grant_says_what_happens_at_its_end_and_how_long_quota_may_rest() {
    for (grant, action) in [
        ("final = \"terminate\"\n", FinalAction::Terminate),
        (
            "final = \"restrict\"\nfinal_hosts = [\"ota.example:443\"]\n",
            FinalAction::Restrict(vec!["ota.example:443".parse().unwrap()]),
        ),
        (
            "final = \"throttle\"\nfinal_bit_per_s = 9600\n",
            FinalAction::Throttle(9600),
        ),
    ] {
        let mut flow = Flow::start_with(&format!("hold_s = 77\n{grant}"), "").await;
        flow.buys("p", "1MB");
        let last = flow.ccr(Kind::Initial, 5_000_000, Reason::BOOT).await;
        assert_eq!(last.final_unit, Some(action));
        assert_eq!((last.hold_s, last.renew_below), (77, Octets(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_granted_is_taken_back_and_suspension_holds() {
    let mut flow = Flow::start().await;
    flow.buys("p", "10MB");
    flow.ccr(Kind::Initial, 2_000_000, Reason::BOOT).await;
    let orders = [
        (vec!["device", "revoke", "flow-1"], Code::SUCCESS),
        (vec!["device", "suspend", "flow-1"], Code::SERVICE_DENIED),
        (vec!["device", "resume", "flow-1"], Code::SUCCESS),
        (vec!["fleet", "suspend", "buses"], Code::SERVICE_DENIED),
        (vec!["fleet", "resume", "buses"], Code::SUCCESS),
    ];
    for (order, code) in orders {
        flow.world.cloud(&order);
        let (command, _): (Command, _) = answer(&mut flow.client, &flow.hand, Down::Command).await;
        match order[1] {
            "revoke" => assert_eq!(command.body, Body::Revoke),
            "suspend" => assert_eq!(command.body, Body::Suspend),
            _ => assert_eq!(command.body, Body::Resume),
        }
        let done = Ack {
            epoch: Epoch(5),
            id: command.id,
            number: command.number,
            outcome: Outcome::Applied,
            why: None,
        };
        flow.client.send(
            &flow.hand.up(Up::Ack),
            false,
            flow.hand.sealed(Up::Ack, &done),
        );
        flow.ccr(Kind::Final, 0, Reason::FORCED).await;
        assert_eq!(flow.balance("p").1, 0, "{order:?}: all came back");
        let asked = flow.ccr(Kind::Initial, 1_000_000, Reason::TRAFFIC).await;
        assert_eq!(asked.code, code, "{order:?}");
    }
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn overage_caps_and_shares_bound_what_is_granted_and_say_so() {
    let mut flow = Flow::start().await;
    buy(
        &flow.world,
        "soft",
        "1MB",
        &["--device", "flow-1", "--overage", "500kB"],
    );
    flow.world.cloud(&[
        "device", "limits", "flow-1", "--fleet", "buses", "--day", "2MB",
    ]);
    let granted = flow.ccr(Kind::Initial, 5_000_000, Reason::BOOT).await;
    assert_eq!(granted.ceiling, Octets(1_500_000), "volume and overage");
    assert!(granted.final_unit.is_some());
    flow.uses(1_500_000).await;
    assert_eq!(flow.balance("soft"), (0, 0, 1_500_000, 500_000));

    // Nothing is pushed to a device that is done.
    flow.ccr(Kind::Final, 0, Reason::HOLDING).await;
    buy(&flow.world, "pool", "100MB", &[]);
    let capped = flow.ccr(Kind::Initial, 5_000_000, Reason::BOOT).await;
    assert_eq!(
        capped.ceiling,
        Octets(2_000_000),
        "500 kB are left of the day"
    );
    flow.uses(500_000).await;
    let reached = flow.ccr(Kind::Update, 5_000_000, Reason::EXHAUSTED).await;
    assert_eq!(reached.code, Code::CREDIT_LIMIT_REACHED);
    let words = explained(&flow.world, "flow-1");
    assert!(
        words.contains("what the limits of day and month leave"),
        "{words}"
    );
    assert!(
        words.contains("refused now: the device's limit of the day is reached, 2.00 MB of 2.00 MB"),
        "{words}"
    );
    flow.ccr(Kind::Final, 0, Reason::HOLDING).await;
    flow.world
        .cloud(&["device", "limits", "flow-1", "--fleet", "buses"]);
    flow.world
        .cloud(&["fleet", "limits", "buses", "--share", "3MB"]);
    let shared = flow.ccr(Kind::Initial, 50_000_000, Reason::BOOT).await;
    assert_eq!(shared.ceiling.value() - flow.used, 2_500_000, "of 3 MB");
    flow.world
        .cloud(&["fleet", "limits", "buses", "--pool-month", "1MB"]);
    let shared = flow.ccr(Kind::Initial, 50_000_000, Reason::BOOT).await;
    assert_eq!(shared.ceiling.value() - flow.used, 500_000, "of 1 MB");
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_tops_up_to_its_ceiling_and_thresholds_are_told_once() {
    let mut flow = Flow::start().await;
    let deposit = ["money", "deposit", "buses", "1000", "--why", "invoice"];
    flow.world.cloud(&deposit);
    buy(&flow.world, "base", "1MB", &["--price", "100"]);
    flow.world.cloud(&[
        "top-up",
        "set",
        "refill",
        "--fleet",
        "buses",
        "--percent",
        "80",
        "--volume",
        "1MB",
        "--most",
        "2",
        "--price",
        "200",
    ]);
    flow.ccr(Kind::Initial, 600_000, Reason::BOOT).await;
    flow.uses(600_000).await;
    for _ in 0..4 {
        flow.uses(700_000).await;
    }
    let shown = flow.world.cloud(&["fleet", "show", "buses"]).remove(0);
    assert_eq!(shown["balance"], 500, "base, and twice 200");
    assert_eq!(shown["rules"][0]["times"], 2);
    let trail = flow.world.cloud(&["explain", "--fleet", "buses"]).remove(0);
    let words: Vec<&str> = trail
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["words"].as_str())
        .collect();
    for percent in [50, 80, 100] {
        let said = format!("package base is used to {percent} %");
        let times = words
            .iter()
            .filter(|words| words.starts_with(&said))
            .count();
        assert_eq!(times, 1, "{percent}: {words:#?}");
    }
    let refusals = words
        .iter()
        .filter(|words| words.contains("nothing was bought"));
    assert!(refusals.count() > 0, "{words:#?}");
    assert!(
        refused(
            &flow.world,
            &[
                "package", "buy", "--fleet", "buses", "--volume", "1MB", "--price", "501"
            ]
        )
        .contains("not-enough-money")
    );
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deducted_goes_back_once_and_octets_move_both_ways() {
    let flow = Flow::start().await;
    buy(&flow.world, "pool", "10MB", &[]);
    let fleet = ["--fleet", "buses"];
    let cloud = |args: &[&str]| flow.world.cloud(&[args, &fleet[..]].concat()).remove(0);
    cloud(&[
        "package", "debit", "pool", "--volume", "3MB", "--why", "a test",
    ]);
    let trail = cloud(&["explain"]);
    let entry = trail
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["cause"] == "Debited")
        .unwrap()["entry"]
        .to_string();
    let refund = |volume: &str| {
        [
            "refund", &entry, "--volume", volume, "--why", "wrong", "--fleet", "buses",
        ]
        .map(str::to_owned)
    };
    let once = refund("2MB");
    let once: Vec<&str> = once.iter().map(String::as_str).collect();
    flow.world.cloud(&once);
    let beyond = refund("2MB");
    let beyond: Vec<&str> = beyond.iter().map(String::as_str).collect();
    let why = refused(&flow.world, &beyond);
    assert!(why.contains("1000000 are left"), "{why}");
    let rest = refund("1MB");
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    flow.world.cloud(&rest);
    assert!(refused(&flow.world, &beyond).contains("already-refunded"));
    cloud(&[
        "package", "credit", "pool", "--volume", "1MB", "--why", "goodwill",
    ]);
    assert_eq!(flow.balance("pool"), (11_000_000, 0, 3_000_000, 4_000_000));

    let moved = cloud(&[
        "package",
        "move",
        "pool",
        "--device",
        "flow-1",
        "--volume",
        "4MB",
        "--why",
        "a long trip",
    ]);
    let target = moved[1]["package"].as_str().unwrap().to_owned();
    assert_eq!(flow.balance("pool").0, 7_000_000);
    assert_eq!(flow.balance(&target).0, 4_000_000);
    cloud(&[
        "package", "move", &target, "--to", "pool", "--volume", "1MB", "--why", "back",
    ]);
    assert_eq!(flow.balance(&target).0, 3_000_000);
    assert_eq!(flow.balance("pool").0, 8_000_000);
    flow.world.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_who_holds_what_until_when() {
    let mut flow = Flow::start().await;
    buy(&flow.world, "pool", "4MB", &[]);
    let mut other = flow
        .world
        .device("tracker-b", &steady(3600, 100), 1, "4 MB");
    other.start();
    other.await_status("holds quota", |status| {
        status["remaining"].as_u64() > Some(1_000_000)
    });
    let mut answer = flow.ccr(Kind::Initial, 4_000_000, Reason::BOOT).await;
    while answer.code.is_success() {
        let left = answer.ceiling.value() - flow.used;
        flow.uses(left).await;
        answer = flow.ccr(Kind::Update, 4_000_000, Reason::EXHAUSTED).await;
    }
    assert_eq!(answer.code, Code::CREDIT_LIMIT_REACHED);
    let words = explained(&flow.world, "flow-1");
    let refusal = words.lines().last().unwrap();
    assert!(
        refusal.starts_with("refused now: 0 B available, "),
        "{refusal}"
    );
    assert!(
        refusal.contains(" MB reserved by device tracker-b until 20"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_has_one_answer_for_ever_and_other_fleets_devices_are_out_of_reach() {
    let flow = Flow::start().await;
    let world = &flow.world;
    let order = |volume: &'static str| {
        [
            "package",
            "buy",
            "--fleet",
            "buses",
            "--volume",
            volume,
            "--package",
            "p",
            "--id",
            "order-7",
        ]
    };
    let once = world.cloud(&order("1MB"));
    assert_eq!(world.cloud(&order("1MB")), once, "the stored answer");
    let differs = refused(world, &order("2MB"));
    assert!(differs.contains("'volume' differs"), "{differs}");
    let debit = [
        "package", "debit", "p", "--fleet", "buses", "--volume", "5MB", "--why", "x", "--id",
        "order-8",
    ];
    let too_much = refused(world, &debit);
    assert!(too_much.contains("not-enough"), "{too_much}");
    buy(world, "more", "1MB", &[]);
    world.cloud(&[
        "package", "credit", "p", "--fleet", "buses", "--volume", "10MB", "--why", "x",
    ]);
    assert_eq!(
        refused(world, &debit),
        too_much,
        "a refused id stays refused, though it could be done now"
    );
    assert_eq!(flow.balance("p"), (11_000_000, 0, 0, 10_000_000));

    world.cloud(&["fleet", "create", "trams"]);
    let before = world.audit()["totals"].clone();
    for order in [
        vec!["device", "suspend", "flow-1", "--fleet", "trams"],
        vec![
            "device", "limits", "flow-1", "--fleet", "trams", "--day", "1MB",
        ],
        vec![
            "package", "buy", "--device", "flow-1", "--fleet", "trams", "--volume", "1MB",
        ],
    ] {
        let why = refused(world, &order);
        assert!(why.contains("unknown-device"), "{order:?}: {why}");
    }
    assert_eq!(world.audit()["totals"], before, "nothing changed");
    let trail = world.cloud(&["explain", "--fleet", "trams"]).remove(0);
    let refusals = trail
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["cause"] == "CommandDone")
        .count();
    assert_eq!(refusals, 3, "each is in the trail of who tried: {trail:#}");
}
