//! What is not believed: each message is refused for its own reason, said on `ops/rejected` under the node's
//! signature, and charges nothing. Repeats are answered, and move nothing.

use std::collections::BTreeMap;

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_cloud::io::keys::KeyFolder;
use simquota_shared::codec::decode;
use simquota_shared::envelope::{Kid, open_signed, seal};
use simquota_shared::ids::{Iccid, Text, ZoneId};
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Reason, RegisterAnswer, RegisterRequest, Rejected, UsageAck,
    UsageBatch,
};
use simquota_shared::topic::{Down, Up};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq};

use crate::broker::client::Client;
use crate::hand::{Hand, answer};
use crate::world::World;

pub(crate) fn registration() -> RegisterRequest {
    RegisterRequest {
        epoch: Epoch(77),
        boot: Boot(1),
        serial: Text::clipped("s-1"),
        model: Text::clipped("hand"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: None,
        closes: None,
    }
}

fn request(number: u64) -> CreditRequest {
    CreditRequest {
        epoch: Epoch(77),
        number: RequestNumber(number),
        kind: Kind::Initial,
        used: Octets(0),
        want: Octets(1_000_000),
        reason: Reason::BOOT,
        zone: ZoneId::home(),
        held: None,
    }
}

fn usage(iccid: Iccid) -> UsageBatch {
    UsageBatch {
        epoch: Epoch(77),
        boot: Boot(1),
        iccid,
        zone: ZoneId::home(),
        first: Seq(1),
        clock: 0,
        t0: 5,
        interval_s: 60,
        total: Octets(5000),
        dt: Vec::new(),
        up: vec![2000],
        down: vec![3000],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgeries_are_refused_by_name_and_repeats_move_nothing() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10MB"]);
    let hand = Hand::of(&world.device("tracker-a", "0,0,0\n", 1, "1 MB"));
    let other = Hand::of(&world.device("tracker-b", "0,0,0\n", 1, "1 MB"));
    let (mut client, _) = Client::connect(&world.broker, "by-hand").await;
    client.subscribe("csim/v1/d/tracker-a/down/+").await;

    // The life of a small device, each message twice: the second answer is the first, octet for octet.
    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    let mut send = |client: &Client, up: Up, octets: Vec<u8>| {
        client.send(&hand.up(up), false, octets.clone());
        said.push((hand.up(up), octets));
    };
    send(
        &client,
        Up::Register,
        hand.sealed(Up::Register, &registration()),
    );
    let (registered, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
    send(&client, Up::Credit, hand.sealed(Up::Credit, &request(1)));
    let (granted, granted_octets): (CreditAnswer, _) =
        answer(&mut client, &hand, Down::Credit).await;
    assert_eq!((granted.code.0, granted.ceiling), (2001, Octets(1_000_000)));
    let iccid = registered.sim.unwrap().iccid;
    send(&client, Up::Usage, hand.sealed(Up::Usage, &usage(iccid)));
    let (acknowledged, _): (UsageAck, _) = answer(&mut client, &hand, Down::Usage).await;
    assert_eq!(
        (acknowledged.mark, acknowledged.total),
        (Seq(1), Octets(5000))
    );

    let before = world.audit();
    for _ in 0..3 {
        let [register, credit, usage] = said.as_slice() else {
            unreachable!("three were sent")
        };
        client.send(&register.0, false, register.1.clone());
        let (_, _): (RegisterAnswer, _) = answer(&mut client, &hand, Down::Register).await;
        client.send(&credit.0, false, credit.1.clone());
        let (_, repeated): (CreditAnswer, _) = answer(&mut client, &hand, Down::Credit).await;
        assert_eq!(repeated, granted_octets, "a repeat gets the stored answer");
        client.send(&usage.0, false, usage.1.clone());
        let (repeated, _): (UsageAck, _) = answer(&mut client, &hand, Down::Usage).await;
        assert_eq!((repeated.mark, repeated.total), (Seq(1), Octets(5000)));
    }
    assert_eq!(
        world.audit()["entries"],
        before["entries"],
        "repeats made no entry"
    );

    let node = KeyFolder::open(&world.folder.path().join("cloud"))
        .unwrap()
        .node()
        .unwrap()
        .verifying_key();
    client.subscribe("csim/v1/ops/rejected").await;
    let good = hand.sealed(Up::Credit, &request(2));
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let stranger = seal(
        &hand.key,
        &Kid::first(&"nobody"),
        &hand.up(Up::Credit),
        &[0x80],
    )
    .unwrap();
    let forgeries: [(&str, String, Vec<u8>); 9] = [
        ("forged", hand.up(Up::Credit), flipped),
        ("forged", other.up(Up::Credit), good.clone()),
        ("forged", hand.up(Up::Usage), good.clone()),
        ("unknown-key", hand.up(Up::Credit), stranger),
        (
            "unknown-device",
            other.up(Up::Credit),
            other.sealed(Up::Credit, &request(1)),
        ),
        (
            "envelope",
            hand.up(Up::Credit),
            good[..good.len() - 3].to_vec(),
        ),
        ("too-large", hand.up(Up::Credit), vec![0; 70_000]),
        (
            "damaged",
            hand.up(Up::Credit),
            hand.sealed(Up::Credit, &(1u8, "not a request")),
        ),
        (
            "unknown-epoch",
            hand.up(Up::Credit),
            hand.sealed(
                Up::Credit,
                &CreditRequest {
                    epoch: Epoch(78),
                    ..request(3)
                },
            ),
        ),
    ];
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut last = 0;
    for (reason, topic, octets) in &forgeries {
        client.send(topic, false, octets.clone());
        let message = client
            .until(|packet| match packet {
                Packet::Publish(publish) if publish.topic.as_ref() == b"csim/v1/ops/rejected" => {
                    Some(publish.payload.to_vec())
                }
                _ => None,
            })
            .await;
        let (_, payload) = open_signed(&node, "csim/v1/ops/rejected", &message).unwrap();
        let rejected: Rejected = decode(&payload).unwrap();
        assert_eq!(
            rejected.reason.as_str(),
            *reason,
            "{topic}: {}",
            rejected.detail
        );
        assert_eq!(rejected.topic.as_str(), topic, "{reason}");
        assert!(rejected.count > last, "every refusal is counted");
        assert!(
            rejected.copy.0.len() <= 256 && octets.starts_with(&rejected.copy.0),
            "{reason}"
        );
        last = rejected.count;
        *counts.entry(reason).or_default() += 1;
    }
    let after = world.audit();
    assert_eq!(
        (&after["entries"], &after["charged"]),
        (&before["entries"], &before["charged"]),
        "nothing was charged"
    );

    // The service goes on.
    client.send(&hand.up(Up::Credit), false, good);
    let (decided, _): (CreditAnswer, _) = answer(&mut client, &hand, Down::Credit).await;
    assert_eq!(decided.number, RequestNumber(2));
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
}
