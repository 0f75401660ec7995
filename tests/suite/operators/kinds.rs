//! What a device shows of itself, each kind at least once: over a web hook, signed, under the id of its entry.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use simquota_cloud::io::hooks::signature;
use simquota_shared::ids::{Iccid, Text, ZoneId};
use simquota_shared::message::register::Closes;
use simquota_shared::message::usage::flag;
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Reason, RegisterAnswer, RegisterRequest, UsageAck,
    UsageBatch,
};
use simquota_shared::topic::{Down, Up};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq};

use super::hooks::{Receiver, kinds};
use super::*;
use crate::broker::client::Client;
use crate::hand::{Hand, answer};
use crate::refused::registration;

const EPOCH: Epoch = Epoch(77);
/// What has to come.
const KINDS: [&str; 16] = [
    "clock-unsure",
    "debt",
    "drift",
    "epoch-closed",
    "exhausted",
    "gap",
    "lease-lapsed",
    "overrun",
    "package-cancelled",
    "silent",
    "sim-conflict",
    "store-reset",
    "suspicious",
    "threshold",
    "two-devices",
    "unsure-octets",
];

fn request(number: u64, used: u64) -> CreditRequest {
    CreditRequest {
        epoch: EPOCH,
        number: RequestNumber(number),
        kind: Kind::Initial,
        used: Octets(used),
        want: Octets(1_000),
        reason: Reason::BOOT,
        zone: ZoneId::home(),
        held: None,
    }
}

/// One sample of a thousand octets.
fn sample(iccid: &Iccid, first: u64, total: u64) -> UsageBatch {
    UsageBatch {
        epoch: EPOCH,
        boot: Boot(1),
        iccid: iccid.clone(),
        zone: ZoneId::home(),
        first: Seq(first),
        clock: 0,
        t0: 5,
        interval_s: 60,
        total: Octets(total),
        dt: Vec::new(),
        up: vec![400],
        down: vec![600],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    }
}

/// A device made by hand and its connection.
struct Talk {
    hand: Hand,
    client: Client,
}

impl Talk {
    async fn start(world: &World, id: &str) -> Self {
        let hand = Hand::of(&world.device(id, "0,0,0\n", 1, "1 MB"));
        let (mut client, _) = Client::connect(&world.broker, &format!("by-hand-{id}")).await;
        client.subscribe(&format!("csim/v1/d/{id}/down/+")).await;
        Self { hand, client }
    }

    async fn registers(&mut self, request: &RegisterRequest) -> RegisterAnswer {
        let octets = self.hand.sealed(Up::Register, request);
        self.client.send(&self.hand.up(Up::Register), false, octets);
        answer(&mut self.client, &self.hand, Down::Register).await.0
    }

    async fn asks(&mut self, request: &CreditRequest) -> CreditAnswer {
        let octets = self.hand.sealed(Up::Credit, request);
        self.client.send(&self.hand.up(Up::Credit), false, octets);
        loop {
            // What is pushed after a purchase is no answer.
            let (answer, _): (CreditAnswer, _) =
                answer(&mut self.client, &self.hand, Down::Credit).await;
            if answer.number == request.number {
                return answer;
            }
        }
    }

    async fn reports(&mut self, batch: &UsageBatch) -> UsageAck {
        let octets = self.hand.sealed(Up::Usage, batch);
        self.client.send(&self.hand.up(Up::Usage), false, octets);
        answer(&mut self.client, &self.hand, Down::Usage).await.0
    }
}

/// Grants that end within a second, silence that is told after one, and a receiver of all of it.
fn hurried(world: &mut World, port: u16) {
    let path = world.folder.path().join("cloud.toml");
    let text = read(&path)
        .replace("[grant]\n", "[grant]\nvalidity_min_s = 1\n")
        .replace("[policy]\n", "[policy]\nvalidity_s = 1\n");
    fs::write(&path, text).unwrap();
    restart_with(
        world,
        &format!(
            "[registration]\nsilent_s = 1\n[[hook]]\nname = \"pager\"\nurl = \"http://127.0.0.1:{port}/events\"\n"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_event_arrives_signed_over_a_web_hook() {
    let mut world = World::start();
    let port = simquota_tests::port::free_port().unwrap();
    let got = Arc::new(Mutex::new(Vec::new()));
    let receiver = Receiver::start(port, &got, 0);
    hurried(&mut world, port);

    let mut one = Talk::start(&world, "h-1").await;
    let iccid = one.registers(&registration()).await.sim.unwrap().iccid;
    assert_eq!(one.asks(&request(1, 0)).await.code.0, 4012, "exhausted");
    // Nothing was bought, its clock is not right, and its power was cut.
    let mut first = sample(&iccid, 1, 1_000);
    first.unsure = vec![(0, 100)];
    assert_eq!(one.reports(&first).await.mark, Seq(1), "debt");
    assert_eq!(
        one.reports(&sample(&iccid, 9, 9_000)).await.mark,
        Seq(1),
        "gap"
    );
    let mut damaged = sample(&iccid, 2, 2_000);
    damaged.down = vec![601];
    assert_eq!(one.reports(&damaged).await.code.0, 5004, "suspicious");
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "buses",
        "--volume",
        "10kB",
        "--package",
        "p",
    ]);
    assert_eq!(one.asks(&request(2, 1_000)).await.code.0, 2001);
    // Its lease ends, and what it used beyond its ceiling is told later.
    let lapsed = |kinds: &BTreeSet<String>| kinds.contains("lease-lapsed");
    let heard = || -> BTreeSet<String> { kinds(&got.lock().unwrap()).into_values().collect() };
    simquota_tests::process::await_fact(LIMIT, "the lease to lapse", || {
        lapsed(&heard()).then_some(())
    })
    .unwrap();
    let mut beyond = sample(&iccid, 2, 2_000);
    beyond.flags = vec![(0, flag::OVERRUN)];
    assert_eq!(one.reports(&beyond).await.mark, Seq(2), "overrun");

    // Another device, its SIM in the first one, another serial number, and a new life.
    let mut two = Talk::start(&world, "h-2").await;
    let other = two.registers(&registration()).await.sim.unwrap().iccid;
    let mut stolen = registration();
    stolen.iccid = Some(other);
    one.registers(&stolen).await;
    let mut second = registration();
    second.serial = Text::clipped("s-2");
    one.registers(&second).await;
    let mut reborn = registration();
    reborn.epoch = Epoch(78);
    reborn.closes = Some(Closes {
        epoch: EPOCH,
        total: Octets(2_500),
    });
    one.registers(&reborn).await;

    // What managers and the carrier find out.
    world.cloud(&[
        "package", "debit", "p", "--fleet", "buses", "--volume", "5kB", "--why", "use",
    ]);
    world.cloud(&["package", "cancel", "p", "--fleet", "buses"]);
    let file = world.folder.path().join("carrier.csv");
    let registered = world.cloud(&["device", "show", "h-1"])[0]["registered"]
        .as_u64()
        .unwrap();
    let rows: String = [registered, registered + 60_000]
        .map(|ms| format!("{iccid},{},999999\n", crate::keys::date(ms / 86_400_000)))
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    fs::write(&file, rows).unwrap();
    let (_, code, said) = world.command(&["carrier", file.to_str().unwrap(), "--tell"]);
    assert_eq!(code, 1, "{said}");

    let wanted: BTreeSet<&str> = KINDS.into();
    let all = receiver.await_got("every kind of event", |got| {
        let kinds = kinds(got);
        let heard: BTreeSet<&str> = kinds.values().map(String::as_str).collect();
        wanted.is_subset(&heard)
    });
    let key = world.text(&["hook-key", "pager"]);
    let key: [u8; 32] =
        std::array::from_fn(|n| u8::from_str_radix(&key[2 * n..2 * n + 2], 16).unwrap());
    for one in &all {
        let timestamp = one.headers["simquota-timestamp"].parse().unwrap();
        let expected = signature(&key, timestamp, &one.body).unwrap();
        assert_eq!(one.headers["simquota-signature"], expected, "{}", one.body);
    }
    receiver.kill();
    world.audit();
}
