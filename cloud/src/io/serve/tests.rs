#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;
use std::path::Path;

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Received, open_signed, seal};
use simquota_shared::ids::{DeviceId, Text};
use simquota_shared::message::{NodeStatus, RegisterAnswer, RegisterRequest, Rejected, SimProfile};
use simquota_shared::units::{Boot, EntryNumber, Epoch, UnixMillis};

use super::*;
use crate::io::peer::{Peer, Published, Word, broker};
use crate::ledger::entry::{Cause, EnrolmentCreated, FleetCreated, SimsImported, Subject};

const REGISTER: &str = "csim/v1/d/dev-1/up/register";

/// A service with one fleet, one enrolment key and one SIM, on a broker spoken by hand.
struct Room {
    data: tempfile::TempDir,
    config: Config,
    listener: TcpListener,
    device: Key,
}

fn room() -> Room {
    let data = tempfile::tempdir().unwrap();
    let (listener, port) = broker();
    let text = format!(
        "data = 'd'\n[broker]\nport = {port}\n[limits]\nsender_per_s = 1\nsender_burst = 3"
    );
    let config = Config::parse(&text, &data.path().join("cloud.toml")).unwrap();
    let keys = KeyFolder::create(&config.data).unwrap();
    keys.make_node().unwrap();
    keys.make_person(&ADMIN.parse().unwrap()).unwrap();
    keys.make_enrolment(&"batch".parse().unwrap()).unwrap();
    let batch = keys.enrolment(&Kid::first(&"batch")).unwrap().unwrap();
    let room = Room {
        data,
        config,
        listener,
        device: batch.for_device(&"dev-1".parse().unwrap(), 1),
    };
    room.fill();
    room
}

impl Room {
    fn store(&self) -> Store {
        Store::open(&self.config.store_folder()).unwrap()
    }

    fn fill(&self) {
        let mut store = self.store();
        let mut ledger = store.load().unwrap();
        let causes = [
            Cause::FleetCreated(FleetCreated {
                fleet: "acme".parse().unwrap(),
            }),
            Cause::EnrolmentCreated(EnrolmentCreated {
                enrolment: "batch".parse().unwrap(),
                fleet: "acme".parse().unwrap(),
                devices_max: 10,
            }),
            Cause::SimsImported(SimsImported {
                sims: vec![SimProfile {
                    iccid: "8901".parse().unwrap(),
                    imsi: "9014".parse().unwrap(),
                    operator: "o".parse().unwrap(),
                    zones: Vec::new(),
                    apn: "a".parse().unwrap(),
                }],
            }),
        ];
        let entries: Vec<_> = causes
            .into_iter()
            .map(|cause| {
                ledger
                    .record(UnixMillis(1), Subject::Platform, cause, Vec::new())
                    .unwrap()
            })
            .collect();
        store.commit(&entries).unwrap();
    }

    /// Starts the service, and takes both connections: control, then usage.
    fn start(&self) -> (Service, Peer, Peer) {
        let service = Service::start(&self.config).unwrap();
        let (mut control, mut usage) = (None, None);
        for _ in 0..2 {
            let mut peer = Peer::accept(&self.listener);
            // Too many codes for usage's one filter do no harm.
            let connect = peer.greet(&[1; 7]);
            let is_control = contains(&connect, b"-control");
            *(if is_control { &mut control } else { &mut usage }) = Some(peer);
        }
        (service, control.unwrap(), usage.unwrap())
    }

    fn register(&self) -> Vec<u8> {
        let request = RegisterRequest {
            epoch: Epoch(7),
            boot: Boot(1),
            serial: Text::clipped("s-1"),
            model: Text::clipped("m"),
            firmware: Text::clipped("f"),
            capabilities: Vec::new(),
            iccid: None,
            closes: None,
        };
        let payload = codec::encode(&request).unwrap();
        seal(&self.device, &Kid::first(&"batch"), REGISTER, &payload).unwrap()
    }

    fn node_says<T: serde::de::DeserializeOwned>(&self, published: &Published) -> T {
        let keys = KeyFolder::open(&self.config.data).unwrap();
        let node = keys.node().unwrap().verifying_key();
        let (_, payload) = open_signed(&node, &published.topic, &published.payload).unwrap();
        codec::decode(&payload).unwrap()
    }
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

/// The next message on a topic; others are acknowledged and passed over, an acknowledgement is a fault.
fn await_on(peer: &mut Peer, topic: &str) -> Published {
    loop {
        let published = peer.published();
        peer.ack(&published);
        if published.topic == topic {
            return published;
        }
    }
}

#[test]
fn a_request_is_answered_then_acknowledged_and_durable_before_both() {
    let room = room();
    let (service, mut control, _usage) = room.start();
    control.deliver(REGISTER, 1, &room.register());
    let answer = await_on(&mut control, "csim/v1/d/dev-1/down/register");
    // Before the PUBACK, which comes next: `await_on` would have failed on an earlier one.
    loop {
        match control.hear() {
            Word::Acknowledged(id) => break assert_eq!(id, 1),
            Word::Published(published) => control.ack(&published),
            Word::Disconnect => panic!("DISCONNECT"),
        }
    }
    let received = Received::parse(&answer.payload).unwrap();
    let body = received.verify(&room.device, &answer.topic).unwrap();
    let answer: RegisterAnswer = codec::decode(body).unwrap();
    assert_eq!(answer.code, Code::SUCCESS);
    assert_eq!(answer.sim.unwrap().iccid.as_str(), "8901");
    drop(service);
}

#[test]
fn what_was_promised_outlives_the_service_and_stopping_says_so() {
    let room = room();
    let (service, mut control, mut usage) = room.start();
    control.deliver(REGISTER, 1, &room.register());
    await_on(&mut control, "csim/v1/d/dev-1/down/register");
    let stopped = std::thread::spawn(move || service.stop());
    let mut last = None;
    loop {
        match control.hear() {
            Word::Disconnect => break,
            Word::Acknowledged(_) => {}
            Word::Published(published) => {
                control.ack(&published);
                if published.topic == "csim/v1/ops/node/cloud-1" {
                    last = Some(published);
                }
            }
        }
    }
    loop {
        match usage.hear() {
            Word::Disconnect => break,
            Word::Acknowledged(_) => {}
            Word::Published(published) => usage.ack(&published),
        }
    }
    stopped.join().unwrap().unwrap();
    let last = last.expect("a node status");
    assert!(last.retain);
    let status: NodeStatus = room.node_says(&last);
    assert!(!status.online);
    assert_eq!(status.state.as_str(), "stopped");
    let store = room.store();
    let ledger = store.load().unwrap();
    assert!(
        ledger
            .devices
            .contains_key(&"dev-1".parse::<DeviceId>().unwrap())
    );
    // The orderly end left a checkpoint of all of it: reading needs no journal.
    assert!(store.last() >= EntryNumber(5));
}

#[test]
fn a_forged_message_is_rejected_with_a_reason_acknowledged_and_changes_nothing() {
    let room = room();
    let (service, mut control, _usage) = room.start();
    let mut forged = room.register();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    control.deliver(REGISTER, 9, &forged);
    let rejected = await_on(&mut control, "csim/v1/ops/rejected");
    let rejected: Rejected = room.node_says(&rejected);
    assert_eq!(rejected.reason.as_str(), "forged");
    assert_eq!(rejected.topic.as_str(), REGISTER);
    assert_eq!(control.acknowledged(), 9);
    drop(service);
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let room = room();
    let (service, mut control, _usage) = room.start();
    let message = room.register();
    for id in 1..=20 {
        control.deliver(REGISTER, id, &message);
    }
    let codes: Vec<Code> = std::iter::from_fn(|| {
        loop {
            match control.hear() {
                Word::Published(published) => {
                    control.ack(&published);
                    if published.topic.ends_with("down/register") {
                        let received = Received::parse(&published.payload).unwrap();
                        let body = received.verify(&room.device, &published.topic).unwrap();
                        return Some(codec::decode::<RegisterAnswer>(body).unwrap().code);
                    }
                }
                Word::Acknowledged(_) => {}
                Word::Disconnect => panic!("DISCONNECT"),
            }
        }
    })
    .take(20)
    .collect();
    let busy = codes.iter().filter(|code| **code == Code::TOO_BUSY).count();
    assert_eq!(codes.first(), Some(&Code::SUCCESS));
    // A burst of 3, and one more for each second that this takes.
    assert!(busy > 0, "{codes:?}");
    drop(service);
}

#[test]
fn a_service_without_its_keys_or_on_a_store_in_use_says_what_to_do() {
    let room = room();
    let text = |config: &Config| {
        let error = Service::start(config).err().unwrap().to_string();
        assert_eq!(error.lines().count(), 1);
        error.replace(&room.data.path().display().to_string(), "DATA")
    };
    let held = room.store();
    let locked = text(&room.config);
    drop(held);
    std::fs::remove_file(room.config.data.join("keys/person/admin.1.key")).unwrap();
    let no_admin = text(&room.config);
    std::fs::remove_file(room.config.data.join("keys/node.key")).unwrap();
    let no_node = text(&room.config);
    let nowhere = Config {
        data: Path::new("/nowhere").to_owned(),
        ..room.config.clone()
    };
    let no_folder = text(&nowhere);
    insta::assert_snapshot!([locked, no_admin, no_node, no_folder].join("\n"));
}
