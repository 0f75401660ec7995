//! Cases that others published, with their numbers: whoever knows those systems finds the same balances here.
//!
//! Sources: CGRateS, `sessions/sessions_data_it_test.go`, `general_tests/a1_it_test.go`, `general_tests/data_it_test.go`,
//! `sessions/sessions_total_usage_it_test.go`, `sessions/sessionrefund_it_test.go`; OpenMeter,
//! `openmeter/credit/engine/run_test.go` and `reset_test.go`; RFC 8506, appendix A.9.
//!
//! What is different here, on purpose:
//!
//! | case | there | here, and why |
//! |---|---|---|
//! | CGRateS `TTLExpired`, `TTLExpMultiUpdates`, `TTLLastUsage` | a lost session is charged an estimate (100 352, 100 352, 99 328) | nothing is charged that was not metered: the lease lapses, all comes back, and what the device reports late is charged then, and flagged |
//! | CGRateS `MultipleDataNoUsage`, an update for 0 | the session holds 1024 instead of 2048 after it | an update gives nothing back: its ceiling only moves right, the rest comes back with the final; the end is the same |
//! | CGRateS `sessions_total_usage_it_test.go`, a total lower than what is held | it grants 0 | the same for a grant; a *report* whose total went back is refused as damaged, and nothing moves |
//! | CGRateS `LastUsedMultipleUpdates`, an update without a report | what was asked before counts as used | only reports debit: the device says that it used it |
//! | CGRateS `sessionrefund_it_test.go`, money 10.65 -> 10.3002 -> 10.65 | floating point, charged by use | the same numbers in integer minor units of 0.0001; money is charged at purchase and comes back with cancellation |
//! | RFC 8506 A.9, multipliers 10, 2 and 5 | units of several services in one pool | there is one unit, the octet: multiplier 1 |
//! | RFC 8506 A.9, answer 4011 | another service goes on free of charge | nothing is free: 4012 |
//! | RFC 8506 A.2, A.5 | flows of calls: time units, a gateway between two providers | does not apply: there is one unit, the octet, and one provider |
//! | OpenMeter reset with rollover | the balance after it is what was carried over | a plan gives its volume as well: the carried part is the same |
//! | OpenMeter, 100 000 grants | in one run | 1000 here, each bought by a command of its own, and the journal read again after it |
//!
//! The flows of RFC 8506 (A.1, A.3 with A.4, A.6, A.7, A.8) go through the real service: `tests/suite/flows.rs`.

use simquota_shared::code::Code;

use super::*;

/// A device with one package, asking as a CGRateS session does: so much is to be in hand.
struct Session {
    world: World,
    device: Device,
    ceiling: u64,
}

impl Session {
    fn new(balance: u64) -> Self {
        let mut world = World::new();
        let device = world.device("d-1001");
        world.buy("data", Some(&device), balance, &[]);
        Self {
            world,
            device,
            ceiling: 0,
        }
    }

    fn init(&mut self, ask: u64) -> &mut Self {
        let answer = self.world.initial(&mut self.device, ask);
        self.ceiling = answer.ceiling.value();
        assert_eq!(self.ceiling - self.device.used, ask, "MaxUsage");
        self
    }

    fn update(&mut self, ask: u64, last_used: u64) -> &mut Self {
        if last_used > 0 {
            self.world.uses(&mut self.device, last_used);
        }
        let in_hand = self.ceiling.saturating_sub(self.device.used);
        let answer = self
            .world
            .update(&mut self.device, ask.saturating_sub(in_hand));
        self.ceiling = answer.ceiling.value();
        assert!(self.ceiling - self.device.used >= ask, "MaxUsage");
        self
    }

    fn terminate(&mut self, last_used: u64) -> &mut Self {
        if last_used > 0 {
            self.world.uses(&mut self.device, last_used);
        }
        self.world.finish(&mut self.device);
        self
    }

    /// What CGRateS shows as the balance: what no session holds.
    fn left(&mut self, expected: u64) -> &mut Self {
        assert_eq!(self.world.available("data"), expected);
        self
    }

    /// What the session holds, used and reserved together: `aSessions[0].Usage`.
    fn holds(&mut self, expected: u64) -> &mut Self {
        let (_, reserved, used) = self.world.balance("data");
        assert_eq!(reserved + used, expected);
        self
    }

    /// The usage of its record.
    fn cdr(&mut self, expected: u64) {
        assert_eq!(self.world.balance("data").2, expected);
        assert_eq!(self.world.balance("data").1, 0, "no session is left");
        let Value::Array(rows) = self.world.order("export", &[]) else {
            panic!()
        };
        let used: u64 = rows
            .iter()
            .filter(|row| matches!(row, Value::Map(map) if map.contains_key(&t("to"))))
            .filter(|row| word(row, "to") == "data:used")
            .map(|row| amount(row, "amount"))
            .sum();
        assert_eq!(used, expected);
    }
}

/// CGRateS `TestSessionsDataLastUsedData`.
#[test]
fn cgrates_last_used_data() {
    let mut session = Session::new(102_400);
    session.init(5120).left(97_280);
    session.update(5120, 4096).left(93_184);
    session.terminate(0).left(98_304).cdr(4096);
}

/// CGRateS `TestSessionsDataLastUsedMultipleUpdates`. Its third update names no use and counts the 1024 asked before
/// as used; here the device says so.
#[test]
fn cgrates_last_used_multiple_updates() {
    let mut session = Session::new(102_400);
    session.init(6144).left(96_256).holds(6144);
    session.update(8192, 7168).left(87_040).holds(15_360);
    // There 13 312, of which 2048 stay aside as "extra"; here they stay reserved.
    session.update(1024, 5120).left(87_040).holds(15_360);
    session.update(1024, 1024).left(87_040);
    session.terminate(0).left(89_088).cdr(13_312);
}

/// CGRateS `TestSessionsDataMultipleDataNoUsage`.
#[test]
fn cgrates_multiple_data_no_usage() {
    let mut session = Session::new(102_400);
    session.init(2048).left(100_352);
    session.update(1024, 1024).left(100_352).holds(2048);
    // There 1024 from here on; here they stay reserved until the end, see above.
    session.update(0, 0).left(100_352).holds(2048);
    session.terminate(0).left(101_376).cdr(1024);
}

/// CGRateS `TestSessionsDataTTLExpired`: there the lost session is charged 2048. Different here, see above.
#[test]
fn cgrates_ttl_expired_without_an_estimate() {
    let mut session = Session::new(102_400);
    session.init(1024).left(101_376);
    session.world.pass(2 * HOUR);
    session.left(102_400).cdr(0);
}

/// CGRateS `TestSessionsDataTTLExpMultiUpdates`: of the 2048 there, 1024 were reported, and 1024 are charged here.
#[test]
fn cgrates_ttl_expired_after_updates_without_an_estimate() {
    let mut session = Session::new(102_400);
    session.init(4096).left(98_304);
    session.update(4096, 1024).left(97_280);
    session.world.pass(2 * HOUR);
    session.left(101_376).cdr(1024);
}

/// CGRateS `TestSessionsDataTTLLastUsage`: there 1024 and an estimate of 2048 make 99 328. Here the device says later
/// that it used 2048 in all: that is charged, and flagged.
#[test]
fn cgrates_ttl_last_usage_without_an_estimate() {
    let mut session = Session::new(102_400);
    session.init(1024).left(101_376);
    session.world.pass(2 * HOUR);
    session.world.uses(&mut session.device, 2048);
    session.left(100_352).cdr(2048);
    assert_eq!(amount(&session.world.events("late")[0], "octets"), 2048);
}

/// CGRateS `general_tests/a1_it_test.go`: more is used than was ever reserved, and all of it is charged.
#[test]
fn cgrates_a1() {
    let mut session = Session::new(10_000_000_000);
    session.init(10_240);
    session.update(2_097_152, 0);
    session
        .terminate(2_202_800)
        .left(9_997_797_200)
        .cdr(2_202_800);
}

/// CGRateS `general_tests/data_it_test.go`: direct debits.
#[test]
fn cgrates_debit() {
    for (balance, debit) in [(356_000_000, 256_000_000), (1_100_000_000, 1_000_000_000)] {
        let mut world = World::new();
        world.buy("data", None, balance, &[]);
        world.order(
            "package-debit",
            &[
                ("package", t("data")),
                ("octets", n(debit)),
                ("why", t("debit")),
            ],
        );
        assert_eq!(world.available("data"), 100_000_000);
    }
}

/// CGRateS `sessions_total_usage_it_test.go`: the total decides, whatever was asked step by step.
#[test]
fn cgrates_cumulative_beats_delta() {
    let mut session = Session::new(210);
    session.init(5).left(205);
    session.update(10, 0).left(200);
    session.update(15, 0).left(195);
    session.world.uses(&mut session.device, 105);
    session.left(105);
    session.terminate(5).left(100).cdr(110);
}

/// CGRateS `sessions_total_usage_it_test.go`, a total below what is held: nothing is granted, and nothing moves.
#[test]
fn cgrates_a_total_that_goes_back() {
    let mut session = Session::new(210);
    session.init(5).left(205);
    session.world.uses(&mut session.device, 105);
    session.left(105);
    let before = session.world.balance("data");
    let entries = session.world.count_of("Usage");
    session.device.used = 100;
    let id = session.device.id.clone();
    let request = CreditRequest {
        epoch: Epoch(7),
        number: RequestNumber(2),
        kind: Kind::Update,
        used: Octets(100),
        want: Octets(0),
        reason: Reason::THRESHOLD,
        zone: ZoneId::home(),
        held: None,
    };
    let kid = Kid::first(&"spring");
    let verdict = session.world.turn(|turn| {
        turn.device(&id, &kid, DeviceRequest::Credit(request))
            .unwrap()
    });
    assert_eq!(verdict, Verdict::Done);
    let answer = session.world.heard(&session.device).remove(0);
    assert_eq!(answer.ceiling, Octets(105), "grant 0, at what is charged");
    let batch = UsageBatch {
        epoch: Epoch(7),
        boot: Boot(1),
        iccid: session.world.ledger.devices[&id].iccid.clone(),
        zone: ZoneId::home(),
        first: Seq(2),
        clock: 0,
        t0: 5,
        interval_s: 60,
        total: Octets(100),
        dt: Vec::new(),
        up: vec![0],
        down: vec![0],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    };
    let verdict = session
        .world
        .turn(|turn| turn.device(&id, &kid, DeviceRequest::Usage(batch)).unwrap());
    let Verdict::Refused(refusal) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(refusal.reason, "damaged-usage");
    assert_eq!(session.world.balance("data"), before);
    assert_eq!(session.world.count_of("Usage"), entries);
}

/// CGRateS `sessionrefund_it_test.go`, its money: 10.65 -> 10.3002 -> 10.65, in minor units of 0.0001.
#[test]
fn cgrates_refund_of_money() {
    let mut world = World::new();
    let deposit = [
        ("fleet", t(FLEET)),
        ("amount", n(106_500)),
        ("why", t("topup")),
    ];
    world.ops("money-deposit", &deposit);
    let fleet: FleetId = FLEET.parse().unwrap();
    let balance = |world: &World| world.ledger.accounts[&fleet].purse.balance;
    world.buy("call", None, 5, &[("price", n(3498))]);
    assert_eq!(balance(&world), 103_002);
    world.order("package-cancel", &[("package", t("call"))]);
    assert_eq!(balance(&world), 106_500, "full refund");
}

/// CGRateS `sessionrefund_it_test.go`, the part without money.
#[test]
fn cgrates_refund_all() {
    let mut session = Session::new(5);
    session.init(2).left(3);
    session.terminate(0).left(5).cdr(0);
}

/// RFC 8506, A.9, with multiplier 1 (its figures divided by its first multiplier, 10): two devices share a pool.
#[test]
fn rfc_8506_a9_pools() {
    const MB: u64 = 1_000_000;
    let mut world = World::new();
    world.rules.grant_min = Octets(5 * MB);
    let (mut one, mut two) = (world.device("s-1"), world.device("s-2"));
    world.buy("pool-1", None, 20 * MB, &[]);
    world.initial(&mut one, 5 * MB);
    world.initial(&mut two, 5 * MB);
    assert_eq!(
        world.balance("pool-1"),
        (10 * MB, 10 * MB, 0),
        "S1 = 100, $10 reserved"
    );
    world.uses(&mut one, 4 * MB);
    assert_eq!(world.balance("pool-1").1, 6 * MB, "S1 = 60, $4 deducted");
    world.update(&mut one, 5 * MB);
    assert_eq!(
        world.balance("pool-1"),
        (5 * MB, 11 * MB, 4 * MB),
        "S1 = 110"
    );

    let mut world = World::new();
    world.rules.grant_min = Octets(5 * MB);
    let (mut three, mut four) = (world.device("s-3"), world.device("s-4"));
    world.buy("pool-2", None, 10 * MB, &[]);
    world.initial(&mut three, 5 * MB);
    let last = world.initial(&mut four, 5 * MB);
    assert!(
        last.final_unit.is_some(),
        "service 4 is terminated at its end"
    );
    world.uses(&mut three, 5 * MB);
    world.uses(&mut four, 5 * MB);
    assert_eq!(
        world.update(&mut three, MB).code,
        Code::CREDIT_LIMIT_REACHED
    );
    assert_eq!(world.balance("pool-2"), (0, 0, 10 * MB));
}

/// A fleet of one device, using octets as OpenMeter's engine is fed usage.
fn meter() -> (World, Device) {
    let mut world = World::new();
    let device = world.device("meter-1");
    (world, device)
}

fn debt(world: &World, device: &Device) -> u64 {
    world.ledger.devices[&device.id].debt.value()
}

/// OpenMeter `TestEngine`: no grant, one grant, a grant that is not in force.
#[test]
fn openmeter_single_grants() {
    let (mut world, mut device) = meter();
    world.uses(&mut device, 50);
    assert_eq!(debt(&world, &device), 50, "overage if there are no grants");

    let (mut world, mut device) = meter();
    world.buy("grant-1", None, 100, &[("days", n(30))]);
    world.uses(&mut device, 50);
    assert_eq!(world.available("grant-1"), 50);

    let (mut world, mut device) = meter();
    let from = ("from", n(ZERO + 10 * DAY));
    world.buy("grant-1", None, 100, &[from, ("days", n(30))]);
    world.uses(&mut device, 50);
    assert_eq!(
        debt(&world, &device),
        50,
        "a grant with a later begin gives nothing"
    );
    assert_eq!(
        world.initial(&mut device, 1).code,
        Code::CREDIT_LIMIT_REACHED
    );

    let (mut world, mut device) = meter();
    world.buy("grant-1", None, 100, &[("days", n(1))]);
    world.pass(DAY);
    world.uses(&mut device, 50);
    assert_eq!(
        (world.available("grant-1"), debt(&world, &device)),
        (0, 50),
        "expired"
    );

    let (mut world, mut device) = meter();
    world.buy("grant-1", None, 100, &[]);
    world.uses(&mut device, 50);
    world.order("package-cancel", &[("package", t("grant-1"))]);
    world.uses(&mut device, 50);
    assert_eq!(
        (world.available("grant-1"), debt(&world, &device)),
        (0, 50),
        "voided"
    );

    let (mut world, mut device) = meter();
    world.buy("grant-1", None, 100, &[]);
    world.order("package-cancel", &[("package", t("grant-1"))]);
    world.uses(&mut device, 50);
    assert_eq!(
        (world.available("grant-1"), debt(&world, &device)),
        (0, 50),
        "deleted at the start"
    );

    let (mut world, mut device) = meter();
    world.buy(
        "grant-1",
        None,
        100,
        &[("from", n(ZERO + HOUR)), ("days", n(30))],
    );
    world.uses(&mut device, 25);
    world.pass(HOUR);
    assert_eq!(world.available("grant-1"), 75, "overage is burnt first");
    world.uses(&mut device, 25);
    assert_eq!(world.available("grant-1"), 50);
}

/// OpenMeter `TestEngine`: priority, then expiry, then creation.
#[test]
fn openmeter_order_of_grants() {
    for (one, two, used, left) in [
        ((1, 30), (1, 30), 200, (0, 0)),
        ((1, 30), (2, 30), 120, (0, 80)),
        ((1, 30), (1, 36_500), 120, (0, 80)),
    ] {
        let (mut world, mut device) = meter();
        // Bought the other way around: the order of purchase decides last.
        let terms = |(priority, days): (u64, u64)| [("priority", n(priority)), ("days", n(days))];
        if one == two {
            world.buy("grant-1", None, 100, &terms(one));
            world.buy("grant-2", None, 100, &terms(two));
        } else {
            world.buy("grant-2", None, 100, &terms(two));
            world.buy("grant-1", None, 100, &terms(one));
        }
        world.uses(&mut device, used);
        assert_eq!(
            (world.available("grant-1"), world.available("grant-2")),
            left
        );
    }
}

/// OpenMeter `TestEngine`, "Burns down grant that expires first among many".
#[test]
fn openmeter_first_to_expire_among_many() {
    const GRANTS: u64 = 1000;
    let (mut world, mut device) = meter();
    world.turn(|turn| {
        for index in 0..GRANTS {
            let days = if index == 170 { 29 } else { 30 };
            let command = FleetCommand {
                id: format!("many-{index}").parse().unwrap(),
                expires: UnixMillis(u64::MAX),
                expected: None,
                dry: false,
                name: Text::clipped("package-buy"),
                args: super::super::value_map([
                    ("package", t(format!("grant-{index}"))),
                    ("volume", n(100)),
                    ("days", n(days)),
                ]),
            };
            turn.command(
                Some(&FLEET.parse().unwrap()),
                &Kid::first(&"admin"),
                &command,
            )
            .unwrap();
        }
    });
    world.uses(&mut device, 99);
    for index in 0..GRANTS {
        let left = if index == 170 { 1 } else { 100 };
        assert_eq!(world.available(&format!("grant-{index}")), left);
    }
}

/// OpenMeter `TestEngine`, "Burns down recurring grant": 120 of 100 are used, the next day begins with 80.
#[test]
fn openmeter_daily_recurrence() {
    let (mut world, mut device) = meter();
    let plan = [("plan", t("g")), ("volume", n(100)), ("every", t("day"))];
    world.order("plan-begin", &plan);
    world.uses(&mut device, 120);
    world.pass(DAY);
    assert_eq!(world.available("g-2"), 80);
    world.pass(0);
    assert_eq!(
        world.available("g-2"),
        80,
        "a recurrence is not applied again"
    );
}

/// OpenMeter `TestEngine`, a recurrence is not applied again by another change: 30 are used, a second grant comes, 20
/// are used; the segments begin with 100 and 70, and 50 and 100 are left.
#[test]
fn openmeter_a_recurrence_is_not_applied_again_by_another_change() {
    let (mut world, mut device) = meter();
    let plan = [
        ("plan", t("g")),
        ("volume", n(100)),
        ("every", t("day")),
        ("priority", n(1)),
    ];
    world.order("plan-begin", &plan);
    assert_eq!(world.available("g-1"), 100);
    world.uses(&mut device, 30);
    world.pass(HOUR);
    world.buy("grant-2", None, 100, &[("priority", n(2)), ("days", n(30))]);
    assert_eq!(world.available("g-1"), 70);
    world.uses(&mut device, 20);
    world.pass(HOUR);
    assert_eq!(
        (world.available("g-1"), world.available("grant-2")),
        (50, 100)
    );
}

/// OpenMeter `TestEngine`, "… that takes effect later": a weekly grant of a higher priority beside one that does not
/// recur. Its day 0 is a Monday, as ours is.
#[test]
fn openmeter_weekly_recurrence_and_priority() {
    for (after_recurrence, read_at, left) in
        [(0, 10 * DAY, (40, 100)), (20, 10 * DAY - HOUR, (40, 80))]
    {
        let (mut world, mut device) = meter();
        world.buy("grant-1", None, 100, &[("priority", n(3)), ("days", n(30))]);
        world.uses(&mut device, 20);
        world.pass(HOUR);
        world.uses(&mut device, 20);
        world.pass(DAY - HOUR - 1000);
        world.uses(&mut device, 20);
        world.pass(1000);
        let plan = [
            ("plan", t("g")),
            ("volume", n(100)),
            ("every", t("week")),
            ("on", n(4)),
            ("priority", n(1)),
        ];
        world.order("plan-begin", &plan);
        world.uses(&mut device, 20);
        assert_eq!(
            (world.available("grant-1"), world.available("g-1")),
            (40, 80)
        );
        world.pass(2 * DAY);
        if after_recurrence > 0 {
            world.uses(&mut device, after_recurrence);
        }
        let now = world.now;
        world.pass(ZERO + read_at - now);
        let current = world.ledger.plans[&"g".parse().unwrap()]
            .current
            .clone()
            .unwrap();
        assert_eq!(
            (
                world.available("grant-1"),
                world.available(current.as_str())
            ),
            left
        );
    }
}

/// OpenMeter `reset_test.go`: what is carried over, beside the plan's 100 (see above).
#[test]
fn openmeter_rollover() {
    for (used, min, max, carried) in [(10, 0, 50, 50), (110, 50, 50, 40)] {
        let (mut world, mut device) = meter();
        let plan = [
            ("plan", t("g")),
            ("volume", n(100)),
            ("every", t("day")),
            ("rollover_min", n(min)),
            ("rollover_max", n(max)),
        ];
        world.order("plan-begin", &plan);
        world.uses(&mut device, used);
        world.pass(DAY);
        assert_eq!(world.available("g-2"), 100 + carried);
    }
}
