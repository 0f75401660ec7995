//! A device's life as it was said once, told again to the cloud of today: it is answered as it was.
//!
//! The recording is what agent and cloud said in the test of `skew`, before that test changed it. It is written by that
//! test with `SIMQUOTA_GOLDEN=write` where there is none, and never changed: a wire that grows gets one beside it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use serde_cbor::Value;
use simquota_cloud::charging::{DeviceRequest, Rules, Turn, Verdict};
use simquota_cloud::ledger::Ledger;
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, KeyId, Text};
use simquota_shared::message::{
    Body, Command, CreditAnswer, FleetCommand, FleetReply, RegisterAnswer, SimProfile, UsageAck,
    UsageBatch,
};
use simquota_shared::topic::{Down, Topic, Up};
use simquota_shared::units::{Octets, UnixMillis};

use super::sniffer::hex;

/// A message as it was said, without its envelope.
pub(crate) struct Said {
    pub(crate) topic: Topic,
    pub(crate) payload: Vec<u8>,
}

impl Said {
    pub(crate) fn is_of_device(&self) -> bool {
        !matches!(self.topic, Topic::Down(..))
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recorded/v1.txt")
}

/// Writes the recording, if it is asked for and there is none: a line for each message, topic and payload.
pub(crate) fn write(said: &[Said]) {
    if std::env::var("SIMQUOTA_GOLDEN").as_deref() != Ok("write") || path().exists() {
        return;
    }
    let lines: String = said
        .iter()
        .map(|said| format!("{} {}\n", said.topic, hex(&said.payload)))
        .collect();
    std::fs::write(path(), lines).unwrap();
}

pub(super) fn read() -> Vec<Said> {
    let text = std::fs::read_to_string(path()).unwrap();
    text.lines()
        .map(|line| {
            let (topic, payload) = line.split_once(' ').unwrap();
            let octets = (0..payload.len()).step_by(2);
            Said {
                topic: topic.parse().unwrap(),
                payload: octets
                    .map(|at| u8::from_str_radix(&payload[at..at + 2], 16).unwrap())
                    .collect(),
            }
        })
        .collect()
}

/// The cloud's clock when it said something, as far as a message tells.
fn clock(said: &Said) -> Option<UnixMillis> {
    Some(match said.topic {
        Topic::Down(_, Down::Register) => decode::<RegisterAnswer>(&said.payload).unwrap().now,
        Topic::Down(_, Down::Usage) => decode::<UsageAck>(&said.payload).unwrap().now,
        Topic::Down(_, Down::Credit) => decode::<CreditAnswer>(&said.payload).unwrap().decided,
        Topic::Down(_, Down::Command) => decode::<Command>(&said.payload).unwrap().now,
        _ => return None,
    })
}

/// What an answer says that its device goes by; how much is granted is the cloud's to decide.
pub(super) fn meaning(said: &Said) -> String {
    match said.topic {
        Topic::Down(_, Down::Register) => {
            let answer: RegisterAnswer = decode(&said.payload).unwrap();
            let sim = answer.sim.map(|sim| sim.iccid);
            format!(
                "register {} {} {sim:?} {}",
                answer.boot, answer.code, answer.mark
            )
        }
        Topic::Down(_, Down::Usage) => {
            let ack: UsageAck = decode(&said.payload).unwrap();
            format!("usage {} {} {}", ack.code, ack.mark, ack.total)
        }
        Topic::Down(_, Down::Credit) => {
            let answer: CreditAnswer = decode(&said.payload).unwrap();
            format!("credit {} {} {}", answer.number, answer.push, answer.code)
        }
        Topic::Down(_, Down::Command) => {
            let command: Command = decode(&said.payload).unwrap();
            format!("command {} {:?}", command.number, command.body)
        }
        ref other => panic!("the cloud does not say {other} to a device"),
    }
}

fn map<T: Serialize>(pairs: &[(&str, T)]) -> Value {
    let value = |value: &T| serde_cbor::value::to_value(value).unwrap();
    Value::Map(
        pairs
            .iter()
            .map(|(key, item)| (Value::Text((*key).into()), value(item)))
            .collect(),
    )
}

/// A platform as the recording's was.
struct Platform {
    ledger: Ledger,
    rules: Rules,
    now: UnixMillis,
    kid: Kid,
    commands: u32,
}

impl Platform {
    fn new(iccid: &Iccid, now: UnixMillis) -> Self {
        let mut platform = Self {
            ledger: Ledger::default(),
            rules: Rules {
                grant_min: Octets(1_000),
                // Grants were what was asked for.
                target_s: 0,
                ..Rules::default()
            },
            now,
            kid: Kid::first(&"spring"),
            commands: 0,
        };
        let admin: KeyId = "admin".parse().unwrap();
        let mut turn = Turn::new(&mut platform.ledger, &platform.rules, now);
        turn.bootstrap_admin(&admin).unwrap();
        platform.command(None, "fleet-create", map(&[("fleet", "buses")]));
        let enrolment = Value::Map(
            [
                ("enrolment", Value::Text("spring".into())),
                ("fleet", Value::Text("buses".into())),
                ("devices", Value::from(10)),
            ]
            .map(|(key, value)| (Value::Text(key.into()), value))
            .into(),
        );
        platform.command(None, "enrolment-create", enrolment);
        let sim = SimProfile {
            iccid: iccid.clone(),
            imsi: Text::clipped("901280000000000"),
            operator: Text::clipped("CloudMobile"),
            zones: vec!["home".parse().unwrap()],
            apn: Text::clipped("iot"),
        };
        platform.command(None, "sim-import", map(&[("sims", [sim])]));
        platform.command(Some("buses"), "package-buy", map(&[("volume", 1_000_000)]));
        platform
    }

    fn command(&mut self, fleet: Option<&str>, name: &str, args: Value) -> Vec<Said> {
        self.commands += 1;
        let command = FleetCommand {
            id: format!("c-{}", self.commands).parse().unwrap(),
            expires: UnixMillis(u64::MAX),
            expected: None,
            dry: false,
            name: Text::clipped(name),
            args: decode(&encode(&args).unwrap()).unwrap(),
        };
        let fleet: Option<FleetId> = fleet.map(|fleet| fleet.parse().unwrap());
        let mut turn = Turn::new(&mut self.ledger, &self.rules, self.now);
        turn.command(fleet.as_ref(), &Kid::first(&"admin"), &command)
            .unwrap();
        let (replies, others): (Vec<_>, Vec<_>) = turn
            .outgoing
            .into_iter()
            .partition(|out| matches!(out.topic, Topic::OpsReply(_) | Topic::FleetReply(..)));
        let reply: FleetReply = decode(&replies[0].payload).unwrap();
        assert!(reply.code.is_success(), "{name}: {:?}", reply.why);
        others
            .into_iter()
            .map(|out| Said {
                topic: out.topic,
                payload: out.payload,
            })
            .collect()
    }

    fn device(&mut self, id: &DeviceId, request: DeviceRequest) -> Vec<Said> {
        let mut turn = Turn::new(&mut self.ledger, &self.rules, self.now);
        let verdict = turn.device(id, &self.kid, request).unwrap();
        assert_eq!(verdict, Verdict::Done);
        turn.outgoing
            .into_iter()
            .map(|out| Said {
                topic: out.topic,
                payload: out.payload,
            })
            .collect()
    }
}

#[test]
fn the_cloud_answers_a_recorded_device_as_it_did() {
    let recording = read();
    let first = recording.iter().find_map(clock).unwrap();
    let iccid = recording
        .iter()
        .find(|said| matches!(said.topic, Topic::Down(_, Down::Register)))
        .and_then(|said| decode::<RegisterAnswer>(&said.payload).unwrap().sim)
        .unwrap()
        .iccid;
    let mut platform = Platform::new(&iccid, first);
    let (mut told, mut now) = (BTreeSet::new(), BTreeSet::new());
    let mut total = Octets::ZERO;
    for said in &recording {
        platform.now = platform.now.max(clock(said).unwrap_or(first));
        let answers = match &said.topic {
            Topic::Up(id, up) => {
                let request = match up {
                    Up::Register => DeviceRequest::Register(decode(&said.payload).unwrap()),
                    Up::Usage => {
                        let batch: UsageBatch = decode(&said.payload).unwrap();
                        total = total.max(batch.total);
                        DeviceRequest::Usage(batch)
                    }
                    Up::Credit => DeviceRequest::Credit(decode(&said.payload).unwrap()),
                    Up::Ack => DeviceRequest::Ack(decode(&said.payload).unwrap()),
                };
                platform.device(id, request)
            }
            Topic::Status(id) => {
                let status = DeviceRequest::Status(decode(&said.payload).unwrap());
                // Before its registration a device is not known: it is told so, then as now.
                platform.device(id, status)
            }
            Topic::Down(id, _) => {
                let new = told.insert(meaning(said));
                let name = match said.topic {
                    Topic::Down(_, Down::Command) if new => {
                        match decode::<Command>(&said.payload).unwrap().body {
                            Body::Suspend => "device-suspend",
                            Body::Resume => "device-resume",
                            other => panic!("not of this recording: {other:?}"),
                        }
                    }
                    _ => continue,
                };
                platform.command(Some("buses"), name, map(&[("device", id)]))
            }
            other => panic!("not of a device: {other}"),
        };
        now.extend(answers.iter().map(meaning));
    }
    // The same things were said; in which order one commit says them is not of the wire.
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| -> Vec<String> {
        these.difference(those).cloned().collect()
    };
    assert_eq!(only(&told, &now), only(&now, &told));
    let device = platform.ledger.devices.values().next().unwrap();
    assert_eq!(device.charged(), u128::from(total.value()));
    assert!(device.holds());
    println!(
        "recorded: {} messages of a device's life, answered as they were; {total} octets charged",
        recording.len()
    );
}
