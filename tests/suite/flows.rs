//! The flows of RFC 8506, appendix A, through the real service: each message by hand, each answer and each balance
//! as it says. And commands that come a hundred times at once.

use rumqttc::v5::mqttbytes::v5::Packet;
use serde_cbor::Value as Cbor;
use serde_json::Value;
use simquota_cloud::io::keys::KeyFolder;
use simquota_shared::code::Code;
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::ids::{KeyId, Text};
use simquota_shared::message::{CreditAnswer, FleetCommand, FleetReply, Kind, Reason};
use simquota_shared::topic::Down;
use simquota_shared::units::{Octets, UnixMillis};

use crate::broker::client::Client;
use crate::flow::Flow;
use crate::hand::answer;
use crate::world::World;

const COMMANDS: &str = "csim/v1/f/buses/command";
const REPLIES: &str = "csim/v1/f/buses/reply/buses-manager";

/// A.1: the user logs on, uses, the quota is renewed, the user logs off; what was granted and not used comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a1_log_on_use_renew_log_off() {
    let mut flow = Flow::start().await;
    flow.buys("p", "10MB");
    let granted = flow.ccr(Kind::Initial, 2_000_000, Reason::BOOT).await;
    assert_eq!(
        (granted.code, granted.ceiling),
        (Code::SUCCESS, Octets(2_000_000))
    );
    assert!(granted.final_unit.is_none() && granted.valid_until.is_some());
    assert_eq!(flow.balance("p"), (8_000_000, 2_000_000, 0, 0));
    flow.uses(1_700_000).await;
    let renewed = flow.ccr(Kind::Update, 2_000_000, Reason::THRESHOLD).await;
    assert_eq!(renewed.ceiling, Octets(4_000_000));
    assert_eq!(flow.balance("p"), (6_000_000, 2_300_000, 1_700_000, 0));
    flow.uses(900_000).await;
    let off = flow.ccr(Kind::Final, 0, Reason::SHUTDOWN).await;
    assert_eq!((off.code, off.ceiling), (Code::SUCCESS, Octets(2_600_000)));
    assert_eq!(off.valid_until, None, "no session is left");
    assert_eq!(flow.balance("p"), (7_400_000, 0, 2_600_000, 0));
    flow.world.audit();
}

/// A.3 and A.4: the balance is checked, which reserves nothing; then the event is debited directly.
#[tokio::test(flavor = "multi_thread")]
async fn a3_a4_balance_check_then_direct_debit() {
    let mut flow = Flow::start().await;
    flow.buys("p", "10MB");
    let checked = flow.ccr(Kind::Initial, 0, Reason::BOOT).await;
    assert_eq!(
        (checked.code, checked.ceiling, checked.balance),
        (Code::SUCCESS, Octets(0), Octets(10_000_000)),
        "CHECK_BALANCE: there is credit, and nothing is set aside"
    );
    assert_eq!(flow.balance("p"), (10_000_000, 0, 0, 0));
    let shown = flow
        .world
        .cloud(&["balance", "--fleet", "buses", "--at", "0s"])
        .remove(0);
    assert_eq!(shown["packages"][0]["available"], 10_000_000);
    let debit = [
        "package",
        "debit",
        "p",
        "--fleet",
        "buses",
        "--volume",
        "3MB",
        "--why",
        "a message",
        "--id",
        "message-1",
    ];
    let once = flow.world.cloud(&debit);
    assert_eq!(flow.balance("p"), (7_000_000, 0, 3_000_000, 0));
    assert_eq!(flow.world.cloud(&debit), once, "debited once");
    assert_eq!(flow.balance("p"), (7_000_000, 0, 3_000_000, 0));
    let (_, code, said) = flow.world.command(&[
        "package", "debit", "p", "--fleet", "buses", "--volume", "8MB", "--why", "too much",
    ]);
    assert_eq!(code, 1, "what is not there is not debited");
    assert!(said.contains("7"), "{said}");
    assert_eq!(flow.balance("p"), (7_000_000, 0, 3_000_000, 0));
    flow.world.audit();
}

/// A.6: a direct debit, and its refund; the refund again is answered and moves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a6_direct_debit_and_refund() {
    let flow = Flow::start().await;
    flow.buys("p", "10MB");
    flow.world.cloud(&[
        "package", "debit", "p", "--fleet", "buses", "--volume", "3MB", "--why", "an event",
    ]);
    assert_eq!(flow.balance("p"), (7_000_000, 0, 3_000_000, 0));
    let rows = flow.world.cloud(&["explain", "flow-1"]).remove(0);
    let debit = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["cause"] == "Debited")
        .unwrap();
    let entry = debit["entry"].as_u64().unwrap().to_string();
    let refund = ["refund", &entry, "--fleet", "buses", "--why", "it failed"];
    let once = flow.world.cloud(&[&refund[..], &["--id", "back"]].concat());
    assert_eq!(once[0]["refunded"], 3_000_000);
    assert_eq!(flow.balance("p"), (10_000_000, 0, 3_000_000, 3_000_000));
    let again = flow.world.cloud(&[&refund[..], &["--id", "back"]].concat());
    assert_eq!(again, once, "the stored answer");
    let (_, code, said) = flow
        .world
        .command(&[&refund[..], &["--id", "back-too"]].concat());
    assert_eq!(code, 1);
    assert!(said.contains("already-refunded"), "{said}");
    assert_eq!(flow.balance("p"), (10_000_000, 0, 3_000_000, 3_000_000));
    flow.world.audit();
}

/// A.7: the last quota says that it is, is used up, and after a top-up the service goes on unasked.
#[tokio::test(flavor = "multi_thread")]
async fn a7_final_unit_top_up_and_resume() {
    let mut flow = Flow::start().await;
    flow.buys("p", "1MB");
    let last = flow.ccr(Kind::Initial, 5_000_000, Reason::BOOT).await;
    assert_eq!(last.ceiling, Octets(1_000_000));
    assert!(last.final_unit.is_some(), "Final-Unit-Indication");
    assert_eq!(last.renew_below, Octets(0), "nothing is to be renewed");
    flow.uses(1_000_000).await;
    let refused = flow.ccr(Kind::Update, 5_000_000, Reason::EXHAUSTED).await;
    assert_eq!(
        (refused.code, refused.ceiling),
        (Code::CREDIT_LIMIT_REACHED, Octets(1_000_000))
    );
    flow.buys("more", "10MB");
    let (pushed, _): (CreditAnswer, _) = answer(&mut flow.client, &flow.hand, Down::Credit).await;
    assert_eq!(
        (pushed.number, pushed.push.value(), pushed.code),
        (refused.number, 1, Code::SUCCESS)
    );
    assert_eq!(pushed.ceiling, Octets(6_000_000), "what was asked for last");
    assert!(pushed.final_unit.is_none());
    flow.uses(2_000_000).await;
    assert_eq!(flow.balance("more"), (5_000_000, 3_000_000, 2_000_000, 0));
    let off = flow.ccr(Kind::Final, 0, Reason::FINAL).await;
    assert_eq!(off.ceiling, Octets(3_000_000));
    assert_eq!(flow.balance("more"), (8_000_000, 0, 2_000_000, 0));
    flow.world.audit();
}

/// A.8: the account is empty at the first contact: no quota, a validity, the action; after a top-up it flows.
#[tokio::test(flavor = "multi_thread")]
async fn a8_empty_account_top_up() {
    let mut flow = Flow::start().await;
    let empty = flow.ccr(Kind::Initial, 5_000_000, Reason::BOOT).await;
    assert_eq!(
        (empty.code, empty.ceiling),
        (Code::CREDIT_LIMIT_REACHED, Octets(0))
    );
    assert!(empty.final_unit.is_some());
    assert_eq!(
        empty.valid_until,
        empty.decided.plus_s(600),
        "Validity-Time 600 s"
    );
    let shown = flow.world.cloud(&["device", "show", "flow-1"]).remove(0);
    assert_eq!(shown["refusal"], "0 B available");
    flow.buys("p", "10MB");
    let (pushed, _): (CreditAnswer, _) = answer(&mut flow.client, &flow.hand, Down::Credit).await;
    assert_eq!(
        (pushed.code, pushed.ceiling),
        (Code::SUCCESS, Octets(5_000_000))
    );
    let going_on = flow.ccr(Kind::Update, 5_000_000, Reason::FORCED).await;
    assert_eq!(going_on.ceiling, Octets(10_000_000));
    flow.world.audit();
}

/// The manager of the fleet, by hand.
fn manager(world: &World) -> (Kid, Key) {
    let folder = KeyFolder::open(&world.folder.path().join("cloud")).unwrap();
    let id: KeyId = "buses-manager".parse().unwrap();
    let kid = folder.latest_person(&id).unwrap();
    let key = folder.person(&kid).unwrap().unwrap();
    (kid, key)
}

fn command(id: &str, name: &str, args: &[(&str, Cbor)]) -> FleetCommand {
    let args = args
        .iter()
        .map(|(name, value)| (Cbor::Text((*name).to_owned()), value.clone()));
    FleetCommand {
        id: id.parse().unwrap(),
        expires: UnixMillis(u64::MAX),
        expected: None,
        dry: false,
        name: Text::clipped(name),
        args: Cbor::Map(args.collect()),
    }
}

async fn reply(client: &mut Client, key: &Key) -> (FleetReply, Vec<u8>) {
    let octets = client
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref() == REPLIES.as_bytes() => {
                Some(publish.payload.to_vec())
            }
            _ => None,
        })
        .await;
    let received = Received::parse(&octets).unwrap();
    let payload = received.verify(key, REPLIES).unwrap().to_vec();
    (decode(&payload).unwrap(), payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_top_up_sent_a_hundred_times_by_four_clients_is_one_top_up() {
    let world = World::start();
    let (kid, key) = manager(&world);
    let order = command(
        "top-up-1",
        "package-buy",
        &[
            ("volume", Cbor::Integer(5_000_000)),
            ("package", Cbor::Text("p".to_owned())),
        ],
    );
    let sealed = seal(&key, &kid, COMMANDS, &encode(&order).unwrap()).unwrap();
    let (mut reader, _) = Client::connect(&world.broker, "reader").await;
    reader.subscribe(REPLIES).await;
    let mut clients = Vec::new();
    for name in ["one", "two", "three", "four"] {
        clients.push(Client::connect(&world.broker, name).await.0);
    }
    let sending = clients.iter_mut().map(|client| async {
        for _ in 0..25 {
            client.send(COMMANDS, false, sealed.clone());
        }
        client.acknowledged(25).await;
    });
    let mut sending = sending.collect::<Vec<_>>().into_iter();
    let (a, b, c, d) = (
        sending.next().unwrap(),
        sending.next().unwrap(),
        sending.next().unwrap(),
        sending.next().unwrap(),
    );
    let reading = async {
        let mut answers = Vec::new();
        while answers.len() < 100 {
            answers.push(reply(&mut reader, &key).await);
        }
        answers
    };
    let ((), (), (), (), answers) = tokio::join!(a, b, c, d, reading);
    let (first, octets) = answers[0].clone();
    assert_eq!(first.code, Code::SUCCESS, "{:?}", first.why);
    assert!(
        answers.iter().all(|(_, other)| *other == octets),
        "a hundred equal answers"
    );
    let rows = world
        .cloud(&["package", "list", "--fleet", "buses"])
        .remove(0);
    assert_eq!(rows.as_array().unwrap().len(), 1, "applied once");
    assert_eq!(rows[0]["volume"], 5_000_000);
    let trail = trail(&world);
    let bought = trail.iter().filter(|row| row["cause"] == "PackageBought");
    assert_eq!(bought.count(), 1);
    world.audit();
}

/// What the journal says of the fleet as a whole.
fn trail(world: &World) -> Vec<Value> {
    let rows = world.cloud(&["explain", "--fleet", "buses"]).remove(0);
    rows.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_commands_are_refused_by_name_and_each_is_in_the_trail() {
    let world = World::start();
    world.cloud(&["fleet", "create", "trams"]);
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "trams",
        "--volume",
        "1MB",
        "--package",
        "theirs",
    ]);
    let (kid, key) = manager(&world);
    let (mut client, _) = Client::connect(&world.broker, "bad").await;
    client.subscribe(REPLIES).await;
    let text = |text: &str| Cbor::Text(text.to_owned());
    let mut late = command("late", "package-buy", &[("volume", Cbor::Integer(1))]);
    late.expires = UnixMillis(1);
    let bad = [
        (
            command("negative", "package-buy", &[("volume", Cbor::Integer(-5))]),
            "bad-arguments",
        ),
        (
            command(
                "overflowing",
                "package-buy",
                &[
                    ("volume", Cbor::Integer(i128::from(u64::MAX))),
                    ("overage", Cbor::Integer(i128::from(u64::MAX))),
                ],
            ),
            "too-much",
        ),
        (
            command("unknown", "package-cancel", &[("package", text("none"))]),
            "unknown-package",
        ),
        (
            command("foreign", "package-cancel", &[("package", text("theirs"))]),
            "unknown-package",
        ),
        (
            command("device", "device-suspend", &[("device", text("tram-1"))]),
            "unknown-device",
        ),
        (late, "expired"),
    ];
    let before = world.audit();
    for (order, name) in &bad {
        let sealed = seal(&key, &kid, COMMANDS, &encode(order).unwrap()).unwrap();
        client.send(COMMANDS, false, sealed);
        let (answer, _) = reply(&mut client, &key).await;
        assert!(!answer.code.is_success());
        let why = answer.why.unwrap();
        assert!(why.as_str().starts_with(name), "{}: {why}", order.id);
    }
    let after = world.audit();
    assert_eq!(after["totals"], before["totals"], "nothing changed");
    let trail = trail(&world);
    for (order, _) in &bad {
        let said = format!("command {} ", order.id);
        assert!(
            trail
                .iter()
                .any(|row| row["words"].as_str().unwrap().starts_with(&said)),
            "{} is in the trail",
            order.id
        );
    }
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
}
