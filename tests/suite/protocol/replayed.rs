//! The recorded life of a device once more, between processes over a broker: what that device said, to the service of
//! today; what the cloud answered then, to the agent of today. (PROTOCOL.md, 13)

use std::collections::BTreeSet;

use serde_cbor::Value;
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::message::{Body, Command, CreditRequest, Kind, RegisterRequest, UsageBatch};
use simquota_shared::topic::{Down, Topic, Up};
use simquota_tests::broker::{Broker as _, EmbeddedBroker};
use simquota_tests::process::LIMIT;
use simquota_tests::world::Device;

use super::recorded::{self, Said, meaning};
use crate::broker::client::{Client, options};
use crate::world::{World, octets, read, steady};

fn key(device: &Device) -> Key {
    let enrolment = read(&device.folder.join("edge.key"));
    let digits = enrolment.trim().rsplit(':').next().unwrap();
    Key::from_hex(digits).unwrap()
}

/// The device of the recording, as one that hears what its cloud says.
struct Replayed {
    client: Client,
    key: Key,
    kid: Kid,
    heard: BTreeSet<String>,
}

impl Replayed {
    fn say(&self, said: &Said) {
        let topic = said.topic.to_string();
        let kept = matches!(said.topic, Topic::Status(_));
        let message = seal(&self.key, &self.kid, &topic, &said.payload).unwrap();
        self.client.send(&topic, kept, message);
    }

    /// Listens until something was heard that means the same.
    async fn hears(&mut self, wanted: &str) {
        while !self.heard.contains(wanted) {
            let publish = self.client.message().await;
            let text = std::str::from_utf8(&publish.topic).unwrap();
            let topic: Topic = text.parse().unwrap();
            // A device's own status is kept, and comes back.
            if publish.payload.is_empty() || !matches!(topic, Topic::Down(..)) {
                continue;
            }
            let received = Received::parse(&publish.payload).unwrap();
            let payload = received.verify(&self.key, text).unwrap().to_vec();
            self.heard.insert(meaning(&Said { topic, payload }));
        }
    }
}

#[test]
fn the_service_answers_a_recorded_device_as_it_was_answered() {
    let world = World::start();
    let recording = recorded::read();
    let device = world.device("tracker-1", "", 1, "40 kB");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut told = BTreeSet::new();
    let heard = runtime.block_on(async {
        let (mut client, _) = Client::connect_with(options(&world.broker, "tracker-1")).await;
        client.subscribe("csim/v1/d/tracker-1/down/+").await;
        let mut replayed = Replayed {
            client,
            key: key(&device),
            kid: Kid::first(&"spring"),
            heard: BTreeSet::new(),
        };
        for said in &recording {
            let Topic::Down(_, down) = &said.topic else {
                replayed.say(said);
                continue;
            };
            let wanted = meaning(said);
            if told.insert(wanted.clone()) && *down == Down::Command {
                let command: Command = decode(&said.payload).unwrap();
                let name = match command.body {
                    Body::Suspend => "suspend",
                    Body::Resume => "resume",
                    other => panic!("not of this recording: {other:?}"),
                };
                world.cloud(&["device", name, "tracker-1"]);
            }
            replayed.hears(&wanted).await;
        }
        replayed.heard
    });
    assert_eq!(told, heard);
    let shown = world.show(&device);
    let total = recording
        .iter()
        .filter(|said| matches!(said.topic, Topic::Up(_, Up::Usage)))
        .map(|said| decode::<UsageBatch>(&said.payload).unwrap().total)
        .max()
        .unwrap();
    assert_eq!(shown["charged"].as_u64(), Some(total.value()), "{shown}");
    assert_eq!(shown["reserved"], 0, "{shown}");
    let audit = world.audit();
    println!(
        "replayed: {} messages of a recorded device to the service, {} different answers, the same as then; {total} \
         octets charged, the audit holds over {} entries",
        recording.len(),
        heard.len(),
        audit["entries"]
    );
}

/// Answers of the recording in order, by what they answer. Only what names the request is put in anew: epoch, boot,
/// number, mark and total.
struct Answers {
    registrations: Vec<Vec<Value>>,
    grants: Vec<Vec<Value>>,
    last: Vec<Value>,
    mark: Vec<Value>,
    /// The number that was answered last, with its answer.
    answered: Option<(u64, Vec<Value>)>,
    /// Mark and total of what was reported.
    reported: (u64, u64),
}

impl Answers {
    fn of(recording: &[Said]) -> Self {
        let items = |wanted: Down| -> Vec<Vec<Value>> {
            let answers = recording
                .iter()
                .filter(|said| matches!(&said.topic, Topic::Down(_, down) if *down == wanted));
            let values = answers.map(|said| serde_cbor::from_slice(&said.payload).unwrap());
            values.collect()
        };
        let mut grants = items(Down::Credit);
        let last = grants.pop().unwrap();
        assert_eq!(last[8], Value::Null, "a final's answer");
        Self {
            registrations: items(Down::Register),
            grants,
            last,
            mark: items(Down::Usage).pop().unwrap(),
            answered: None,
            reported: (0, 0),
        }
    }

    /// The answer to what a device says, if it gets one.
    fn to(&mut self, topic: &Topic, payload: &[u8]) -> Option<(Down, Vec<Value>)> {
        let number = |number: u64| Value::Integer(number.into());
        match topic {
            Topic::Up(_, Up::Register) => {
                let request: RegisterRequest = decode(payload).unwrap();
                let mut answer = self.registrations[0].clone();
                answer[1] = number(request.epoch.0);
                answer[2] = number(request.boot.0);
                answer[8] = number(self.reported.0);
                answer[9] = number(self.reported.1);
                Some((Down::Register, answer))
            }
            Topic::Up(_, Up::Credit) => {
                let request: CreditRequest = decode(payload).unwrap();
                if let Some((answered, answer)) = &self.answered
                    && request.number.0 <= *answered
                {
                    return Some((Down::Credit, answer.clone()));
                }
                let mut answer = match request.kind {
                    Kind::Final => self.last.clone(),
                    _ => self.grants.remove(0),
                };
                answer[1] = number(request.epoch.0);
                answer[2] = number(request.number.0);
                self.answered = Some((request.number.0, answer.clone()));
                Some((Down::Credit, answer))
            }
            Topic::Up(_, Up::Usage) => {
                let batch: UsageBatch = decode(payload).unwrap();
                let merged: u64 = batch.spans.iter().map(|(_, count)| count - 1).sum();
                let mark = batch.first.0 + u64::try_from(batch.up.len()).unwrap() + merged - 1;
                self.reported = self.reported.max((mark, batch.total.value()));
                let mut answer = self.mark.clone();
                answer[1] = number(batch.epoch.0);
                answer[3] = number(self.reported.0);
                answer[4] = number(self.reported.1);
                answer[5] = number(batch.first.0);
                Some((Down::Usage, answer))
            }
            _ => None,
        }
    }
}

#[test]
fn the_agent_lives_by_the_recorded_answers() {
    let world = World::start();
    // No cloud is on its broker.
    let agents = EmbeddedBroker::start().unwrap();
    let trace = steady(100, 2_000);
    let mut device = world.device("tracker-1", &trace, 10, "40 kB");
    let config = device.folder.join("edge.toml");
    let text = read(&config).replace(
        &format!("port = {}", world.broker.port()),
        &format!("port = {}", agents.port()),
    );
    std::fs::write(&config, text).unwrap();
    let (key, kid) = (key(&device), Kid::first(&"spring"));
    let mut answers = Answers::of(&recorded::read());
    let recorded_grants = answers.grants.len();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut client, _) = Client::connect_with(options(&agents, "recorded-cloud")).await;
        client.subscribe("csim/v1/d/tracker-1/up/+").await;
        client.subscribe("csim/v1/d/tracker-1/status").await;
        device.start();
        // Until its last will, or its own word, says that it went.
        loop {
            let publish = client.message().await;
            let text = std::str::from_utf8(&publish.topic).unwrap();
            let topic: Topic = text.parse().unwrap();
            let received = Received::parse(&publish.payload).unwrap();
            let payload = received.verify(&key, text).unwrap().to_vec();
            let Some((down, answer)) = answers.to(&topic, &payload) else {
                let status: Option<simquota_shared::message::Status> =
                    matches!(topic, Topic::Status(_)).then(|| decode(&payload).unwrap());
                match status {
                    Some(status) if !status.online => break,
                    _ => continue,
                }
            };
            let topic = Topic::Down("tracker-1".parse().unwrap(), down).to_string();
            let message = seal(&key, &kid, &topic, &encode(&answer).unwrap()).unwrap();
            client.send(&topic, down == Down::Credit, message);
        }
    });
    let process = device.process.as_mut().unwrap();
    let status = process.wait_exit(2 * LIMIT).unwrap();
    assert!(status.success(), "{:#?}", process.tail());
    let used = octets(&trace);
    assert_eq!(answers.reported.1, used, "what it reported");
    let granted = recorded_grants - answers.grants.len();
    println!(
        "replayed: the agent lived by {granted} recorded grants and a recorded end; {used} octets used and reported"
    );
    assert!(granted > 3, "{granted}");
}
