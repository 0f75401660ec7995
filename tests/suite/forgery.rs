//! Every change of a valid message is refused, for the reason that fits where it was changed; and what was said once is
//! answered again, at any age and in any order, and moves nothing.

use proptest::prelude::*;
use serde_cbor::Value;
use simquota_cloud::charging::{DeviceRequest, Rules, Turn, Verdict};
use simquota_cloud::io::keys::KeyFolder;
use simquota_cloud::io::verify::{Said, Verifier};
use simquota_cloud::ledger::Ledger;
use simquota_shared::codec::encode;
use simquota_shared::envelope::{Kid, seal};
use simquota_shared::ids::{DeviceId, Iccid, Text, ZoneId};
use simquota_shared::message::{
    Ack, CreditRequest, FleetCommand, Kind, Outcome, Reason, RegisterRequest, SimProfile, Status,
    UsageBatch,
};
use simquota_shared::topic::{Topic, Up};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq, UnixMillis};

fn device(id: &str) -> DeviceId {
    id.parse().unwrap()
}

fn registration(boot: u64) -> RegisterRequest {
    RegisterRequest {
        epoch: Epoch(7),
        boot: Boot(boot),
        serial: Text::clipped("s-1"),
        model: Text::clipped("hand"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: None,
        closes: None,
    }
}

fn request(number: u64, kind: Kind, used: u64) -> CreditRequest {
    CreditRequest {
        epoch: Epoch(7),
        number: RequestNumber(number),
        kind,
        used: Octets(used),
        want: Octets(100_000),
        reason: Reason::BOOT,
        zone: ZoneId::home(),
        held: None,
    }
}

fn usage(boot: u64, first: u64, octets: u64, total: u64) -> UsageBatch {
    UsageBatch {
        epoch: Epoch(7),
        boot: Boot(boot),
        iccid: "89001".parse::<Iccid>().unwrap(),
        zone: ZoneId::home(),
        first: Seq(first),
        clock: 0,
        t0: 5,
        interval_s: 60,
        total: Octets(total),
        dt: Vec::new(),
        up: vec![octets],
        down: vec![0],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    }
}

fn status(boot: u64) -> Status {
    Status {
        epoch: Epoch(7),
        boot: Boot(boot),
        connection: 1,
        online: true,
        channel: None,
        agent: "a".parse().unwrap(),
        backlog: 0,
    }
}

struct Room {
    _data: tempfile::TempDir,
    verifier: Verifier,
    /// Valid messages: two devices of one batch, one of another.
    messages: Vec<(String, Vec<u8>)>,
}

fn room() -> Room {
    let data = tempfile::tempdir().unwrap();
    let folder = KeyFolder::create(data.path()).unwrap();
    folder.make_node().unwrap();
    let mut messages = Vec::new();
    for (batch, id) in [
        ("spring", "dev-1"),
        ("spring", "dev-2"),
        ("autumn", "dev-3"),
    ] {
        folder.make_enrolment(&batch.parse().unwrap()).unwrap();
        let kid = Kid::first(&batch);
        let id = device(id);
        let key = folder.enrolment(&kid).unwrap().unwrap().for_device(&id, 1);
        let up = |up| Topic::Up(id.clone(), up);
        let ack = Ack {
            epoch: Epoch(7),
            number: 1,
            id: "c-1".parse().unwrap(),
            outcome: Outcome::Applied,
            why: None,
        };
        for (topic, body) in [
            (up(Up::Register), encode(&registration(1))),
            (up(Up::Credit), encode(&request(1, Kind::Initial, 0))),
            (up(Up::Usage), encode(&usage(1, 1, 500, 500))),
            (up(Up::Ack), encode(&ack)),
            (Topic::Status(id.clone()), encode(&status(1))),
        ] {
            let topic = topic.to_string();
            let sealed = seal(&key, &kid, &topic, &body.unwrap()).unwrap();
            messages.push((topic, sealed));
        }
    }
    let node_key = folder.node().unwrap().verifying_key();
    let verifier = Verifier::new(folder, "cloud-1".parse().unwrap(), node_key);
    Room {
        _data: data,
        verifier,
        messages,
    }
}

/// Where the parts of an envelope are: `d1 84 58 n {protected} a0 58 n {payload} 48 {tag}`, lengths as they come.
struct Parts {
    kid: std::ops::Range<usize>,
    payload: std::ops::Range<usize>,
    tag: std::ops::Range<usize>,
}

fn parts(message: &[u8], kid: &str) -> Parts {
    let at = message
        .windows(kid.len())
        .position(|window| window == kid.as_bytes())
        .unwrap();
    let kid = at..at + kid.len();
    let tag = message.len() - 8..message.len();
    // a0, then a byte string's head of one, two or three octets.
    let head = match message[kid.end + 1] {
        0x40..=0x57 => 1,
        0x58 => 2,
        _ => 3,
    };
    let payload = kid.end + 1 + head..tag.start - 1;
    Parts { kid, payload, tag }
}

#[test]
fn each_flipped_bit_is_refused_for_where_it_was() {
    let mut room = room();
    let messages = room.messages.clone();
    let mut tried = 0;
    for (topic, message) in &messages {
        assert!(room.verifier.read(topic, message, 0).is_ok(), "{topic}");
        let kid = if topic.contains("dev-3") {
            "autumn/1"
        } else {
            "spring/1"
        };
        let parts = parts(message, kid);
        for index in 0..message.len() {
            for bit in 0..8 {
                let mut changed = message.clone();
                changed[index] ^= 1 << bit;
                let refusal = room.verifier.read(topic, &changed, 0).unwrap_err();
                let expected: &[&str] =
                    if parts.payload.contains(&index) || parts.tag.contains(&index) {
                        &["forged"]
                    } else if parts.kid.contains(&index) {
                        // Another name, another generation, or no name at all.
                        &["unknown-key", "envelope", "forged"]
                    } else {
                        &["envelope"]
                    };
                assert!(
                    expected.contains(&refusal.reason),
                    "{topic}: octet {index}, bit {bit}: {} ({})",
                    refusal.reason,
                    refusal.detail
                );
                tried += 1;
            }
        }
        for length in 0..message.len() {
            let refusal = room.verifier.read(topic, &message[..length], 0);
            // An empty retained status is a cleared topic, and says nothing.
            let cleared = length == 0 && topic.ends_with("/status");
            match refusal {
                Ok(Said::Nothing) if cleared => {}
                Err(refusal) if length == 0 => assert_eq!(refusal.reason, "empty"),
                Err(refusal) => assert_eq!(refusal.reason, "envelope", "{topic}, {length} octets"),
                Ok(said) => panic!("{topic}, {length} octets: {said:?}"),
            }
        }
        let longer = [message.as_slice(), &[0]].concat();
        assert_eq!(
            room.verifier.read(topic, &longer, 0).unwrap_err().reason,
            "envelope"
        );
    }
    assert!(tried > 5_000, "{tried}");
}

#[test]
fn a_message_fits_its_own_topic_and_no_other() {
    let mut room = room();
    let messages = room.messages.clone();
    for (of, message) in &messages {
        for (on, _) in &messages {
            let read = room.verifier.read(on, message, 0);
            match read {
                Ok(_) => assert_eq!(of, on),
                Err(refusal) => assert_eq!(refusal.reason, "forged", "{of} on {on}"),
            }
        }
        for (on, reason) in [
            ("csim/v1/d/dev-1/down/credit", "topic"),
            ("csim/v1/f/buses/command", "unknown-key"),
            ("csim/v1/ops/command", "unknown-key"),
            ("csim/v2/d/dev-1/up/credit", "topic"),
        ] {
            assert_eq!(
                room.verifier.read(on, message, 0).unwrap_err().reason,
                reason,
                "{of} on {on}"
            );
        }
    }
}

#[test]
fn parts_of_two_messages_make_no_third_and_headers_can_not_be_added() {
    let mut room = room();
    let messages = room.messages.clone();
    for (topic, one) in &messages {
        for (other_topic, two) in messages.iter().filter(|(other, _)| other != topic) {
            let kid = |topic: &str| {
                if topic.contains("dev-3") {
                    "autumn/1"
                } else {
                    "spring/1"
                }
            };
            let (a, b) = (parts(one, kid(topic)), parts(two, kid(other_topic)));
            // The tag of the one under the rest of the other, and the kid of the one in the other.
            let swaps = [
                [&one[..a.tag.start], &two[b.tag]].concat(),
                [&one[..a.kid.start], &two[b.kid], &one[a.kid.end..]].concat(),
            ];
            for swapped in swaps.iter().filter(|swapped| *swapped != one) {
                let refusal = room.verifier.read(topic, swapped, 0).unwrap_err();
                assert_eq!(
                    refusal.reason, "forged",
                    "{topic} with parts of {other_topic}"
                );
            }
        }
        // The unprotected map gets an entry: a kid, an algorithm, a counter signature's place.
        let Parts { kid, .. } = parts(
            one,
            if topic.contains("dev-3") {
                "autumn/1"
            } else {
                "spring/1"
            },
        );
        for entry in [
            &[0xa1, 4, 0x41, b'x'][..],
            &[0xa1, 1, 4],
            &[0xa1, 7, 0x80],
            &[0xbf, 0xff],
        ] {
            let changed = [&one[..kid.end], entry, &one[kid.end + 1..]].concat();
            let refusal = room.verifier.read(topic, &changed, 0).unwrap_err();
            assert_eq!(refusal.reason, "envelope", "{topic}");
        }
    }
}

fn command(name: &str, id: &str, args: Value) -> FleetCommand {
    FleetCommand {
        id: id.parse().unwrap(),
        expires: UnixMillis(1_900_000_000_000),
        expected: None,
        dry: false,
        name: Text::clipped(name),
        args,
    }
}

fn map(pairs: &[(&str, Value)]) -> Value {
    let pairs = pairs.iter().cloned();
    Value::Map(
        pairs
            .map(|(key, value)| (Value::Text(key.to_owned()), value))
            .collect(),
    )
}

const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// A platform with one fleet, one SIM, one batch and a package.
fn platform(rules: &Rules) -> Ledger {
    let mut ledger = Ledger::default();
    let mut turn = Turn::new(&mut ledger, rules, START);
    turn.bootstrap_admin(&"admin".parse().unwrap()).unwrap();
    let admin = Kid::first(&"admin");
    let text = |text: &str| Value::Text(text.to_owned());
    let sim = SimProfile {
        iccid: "89001".parse().unwrap(),
        imsi: "90140".parse().unwrap(),
        operator: Text::clipped("o"),
        zones: Vec::new(),
        apn: Text::clipped("a"),
    };
    let sims = Value::Array(vec![serde_cbor::value::to_value(&sim).unwrap()]);
    let fleet = "buses".parse().unwrap();
    for (scope, name, args) in [
        (None, "fleet-create", map(&[("fleet", text("buses"))])),
        (None, "sim-import", map(&[("sims", sims)])),
        (
            None,
            "enrolment-create",
            map(&[
                ("enrolment", text("spring")),
                ("fleet", text("buses")),
                ("devices", Value::Integer(10)),
            ]),
        ),
        (
            Some(&fleet),
            "package-buy",
            map(&[("volume", Value::Integer(10_000_000))]),
        ),
    ] {
        let done = turn.command(scope, &admin, &command(name, &format!("c-{name}"), args));
        assert_eq!(done.unwrap(), Verdict::Done, "{name}");
    }
    ledger
}

/// The life of a device over two starts of its agent.
fn life() -> Vec<DeviceRequest> {
    use DeviceRequest::{Credit, Register, Status, Usage};
    vec![
        Register(registration(1)),
        Status(status(1)),
        Credit(request(1, Kind::Initial, 0)),
        Usage(usage(1, 1, 500, 500)),
        Credit(request(2, Kind::Update, 500)),
        Usage(usage(1, 2, 700, 1200)),
        Register(registration(2)),
        Status(status(2)),
        Credit(request(3, Kind::Initial, 1200)),
        Usage(usage(2, 3, 100, 1300)),
        Credit(request(4, Kind::Final, 1300)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replays_of_any_age_are_answered_and_move_nothing(
        replays in prop::collection::vec((0_usize..11, 0_u64..600_000), 1..40)
    ) {
        let rules = Rules::default();
        let mut ledger = platform(&rules);
        let (id, kid) = (device("dev-1"), Kid::first(&"spring"));
        let life = life();
        let mut now = START;
        for request in &life {
            now = now.plus_s(30).unwrap();
            let mut turn = Turn::new(&mut ledger, &rules, now);
            let verdict = turn.device(&id, &kid, request.clone()).unwrap();
            prop_assert_eq!(verdict, Verdict::Done);
        }
        prop_assert_eq!(ledger.devices[&id].charged(), 1300);
        let (last, chains) = (ledger.last, ledger.chains.clone());
        for (index, wait_ms) in replays {
            now = UnixMillis(now.value() + wait_ms);
            let mut turn = Turn::new(&mut ledger, &rules, now);
            let verdict = turn.device(&id, &kid, life[index].clone()).unwrap();
            prop_assert!(turn.entries.is_empty(), "{:?}: {:?}", life[index], turn.entries);
            // A repeat is answered; the registration of an earlier start is refused, and told so.
            prop_assert!(!turn.outgoing.is_empty(), "{:?}", life[index]);
            match (&verdict, index) {
                (Verdict::Done, _) => {}
                (Verdict::Refused(refusal), 0) => prop_assert_eq!(refusal.reason, "old-boot"),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!((ledger.last, &ledger.chains), (last, &chains));
        prop_assert!(ledger.violations().is_empty());
    }

    #[test]
    fn whatever_is_done_to_a_message_it_says_what_it_said_or_nothing(
        which in 0_usize..15,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..8)
    ) {
        let mut room = room();
        let (topic, message) = room.messages[which].clone();
        let before = room.verifier.read(&topic, &message, 0).unwrap();
        let mut changed = message.clone();
        for (at, octet, how) in edits {
            let at = at.index(changed.len());
            match how {
                0 => changed[at] = octet,
                1 => changed.insert(at, octet),
                _ => drop(changed.remove(at)),
            }
            if changed.is_empty() {
                break;
            }
        }
        if let Ok(said) = room.verifier.read(&topic, &changed, 0)
            && said != Said::Nothing
        {
            prop_assert_eq!(&changed, &message);
            prop_assert_eq!(said, before);
        }
    }
}
