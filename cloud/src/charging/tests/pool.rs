//! Many devices, one pool.

use std::collections::BTreeMap;

use simquota_shared::code::Code;

use super::*;

const DEVICES: usize = 10_000;

/// Registers devices and lets each ask once, in one batch; the answers.
fn ask_all(pool: u64, grant_min: u64, want: u64) -> Vec<CreditAnswer> {
    let mut world = World::new();
    world.rules.target_s = Rules::default().target_s;
    world.rules.grant_min = Octets(grant_min);
    let sim = |index: usize| {
        Value::Array(vec![
            t(format!("8990{index:015}")),
            t(format!("90180{index:010}")),
            t("operator"),
            Value::Array(Vec::new()),
            t("iot"),
        ])
    };
    let all: Vec<usize> = (0..DEVICES).collect();
    for chunk in all.chunks(crate::charging::SIMS_MAX) {
        let sims = chunk.iter().map(|index| sim(*index)).collect();
        world.ops("sim-import", &[("sims", Value::Array(sims))]);
    }
    let enrolment = [
        ("enrolment", t("crowd")),
        ("fleet", t(FLEET)),
        ("devices", n(DEVICES as u64)),
    ];
    world.ops("enrolment-create", &enrolment);
    world.buy("pool", None, pool, &[]);
    let kid = Kid::first(&"crowd");
    let id = |index: usize| -> DeviceId { format!("crowd-{index:05}").parse().unwrap() };
    world.turn(|turn| {
        for index in 0..DEVICES {
            let request = RegisterRequest {
                epoch: Epoch(7),
                boot: Boot(1),
                serial: Text::clipped(&format!("s-{index}")),
                model: Text::clipped("m"),
                firmware: Text::clipped("1"),
                capabilities: Vec::new(),
                iccid: None,
                closes: None,
            };
            turn.device(&id(index), &kid, DeviceRequest::Register(request))
                .unwrap();
        }
        turn.outgoing.clear();
        for index in 0..DEVICES {
            let request = CreditRequest {
                epoch: Epoch(7),
                number: RequestNumber(1),
                kind: Kind::Initial,
                used: Octets(0),
                want: Octets(want),
                reason: Reason::BOOT,
                zone: ZoneId::home(),
                held: None,
            };
            turn.device(&id(index), &kid, DeviceRequest::Credit(request))
                .unwrap();
        }
    });
    let answers: BTreeMap<String, CreditAnswer> = world
        .said
        .iter()
        .map(|outgoing| {
            (
                outgoing.topic.to_string(),
                codec::decode(&outgoing.payload).unwrap(),
            )
        })
        .collect();
    assert_eq!(answers.len(), DEVICES, "each is answered");
    assert_eq!(
        world.balance("pool").1,
        granted(&answers.values().cloned().collect::<Vec<_>>())
    );
    answers.into_values().collect()
}

fn granted(answers: &[CreditAnswer]) -> u64 {
    answers.iter().map(|answer| answer.ceiling.value()).sum()
}

#[test]
fn ten_thousand_that_ask_at_once_get_exactly_what_there_is() {
    const POOL: u64 = 1_000_000_007;
    let answers = ask_all(POOL, 64 * 1024, 1_000_000);
    assert_eq!(granted(&answers), POOL, "in one round");
    assert!(
        answers.iter().all(|answer| answer.code == Code::SUCCESS),
        "there was enough for a share for each"
    );
    let least = answers.iter().map(|answer| answer.ceiling).min().unwrap();
    let most = answers.iter().map(|answer| answer.ceiling).max().unwrap();
    assert_eq!((least, most), (Octets(100_000), Octets(100_001)));
}

#[test]
fn ten_thousand_that_ask_for_too_small_a_pool_are_refused_only_when_it_is_empty() {
    const POOL: u64 = 300_000_000;
    let answers = ask_all(POOL, 64 * 1024, 1_000_000);
    assert_eq!(granted(&answers), POOL);
    let refused = answers
        .iter()
        .filter(|answer| answer.code == Code::CREDIT_LIMIT_REACHED)
        .count() as u64;
    // A grant is at least the minimum; the last one gets the rest.
    assert_eq!(DEVICES as u64 - refused, POOL.div_ceil(64 * 1024));
}
