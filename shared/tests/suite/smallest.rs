//! SMALLEST_DEVICE.md: every block of it is written here, from the code, and compared.
//!
//! To write the page anew, run the tests with `SIMQUOTA_PAGE=write`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::ids::{DeviceId, EnrolmentId};
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Policy, Reason, RegisterAnswer, RegisterRequest, SimProfile,
    UsageAck, UsageBatch,
};
use simquota_shared::topic::{Down, Topic, Up, filter};
use simquota_shared::units::{Boot, Octets, Push, RequestNumber, Seq};

use crate::message::plain_diag;
use crate::samples::{EPOCH, NOW, id};
use crate::source;

const ENROLMENT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Length with 7 bits an octet, as MQTT 3.1.1 writes it (2.2.3).
fn remaining_length(mut length: usize) -> Vec<u8> {
    let mut octets = vec![];
    loop {
        let low = u8::try_from(length % 128).unwrap();
        length /= 128;
        octets.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return octets;
        }
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [length.to_be_bytes().as_slice(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], remaining_length(body.len()).as_slice(), body].concat()
}

struct Page {
    device: DeviceId,
    key: Key,
    kid: Kid,
    blocks: BTreeMap<String, String>,
    /// What, octets of payload, of message, of packet.
    costs: Vec<(String, Option<usize>, Option<usize>, usize)>,
}

impl Page {
    /// One message each way: payload, envelope, PUBLISH at QoS 1.
    fn message<T: Serialize>(&mut self, block: &str, message: &T, topic: &Topic) {
        let payload = codec::encode(message).unwrap();
        let topic = topic.to_string();
        let sealed = seal(&self.key, &self.kid, &topic, &payload).unwrap();
        let received = Received::parse(&sealed).unwrap();
        assert_eq!(received.verify(&self.key, &topic).unwrap(), payload);
        let packet_id = [0, u8::try_from(self.costs.len()).unwrap()];
        let body = [string(&topic).as_slice(), &packet_id, &sealed].concat();
        let publish = packet(0x32, &body);
        let name = std::any::type_name::<T>().rsplit("::").next().unwrap();

        let mut text = format!("payload: {name}, {} octets\n\n", payload.len());
        text += &annotated(&payload, &source::documented(name));
        write!(text, "\n\nmessage: on {topic}, {} octets\n\n", sealed.len()).unwrap();
        text += &self.envelope(&sealed, &payload);
        write!(
            text,
            "\n\nMQTT PUBLISH, QoS 1, packet {}: {} octets\n\n{}\n",
            packet_id[1],
            publish.len(),
            hex_lines(&publish)
        )
        .unwrap();
        self.blocks.insert(format!("cbor {block}"), text);
        self.costs.push((
            block.into(),
            Some(payload.len()),
            Some(sealed.len()),
            publish.len(),
        ));
    }

    fn envelope(&self, sealed: &[u8], payload: &[u8]) -> String {
        let protected = [
            b"\xa2\x01\x04\x04\x43".as_slice(),
            self.kid.to_string().as_bytes(),
        ]
        .concat();
        let tag = &sealed[sealed.len() - 8..];
        let rows = vec![
            (vec![0xd1], "tag 17: COSE_Mac0".to_owned()),
            (vec![0x84], "an array of 4".to_owned()),
            (
                bytes(&protected),
                format!(
                    "protected    <<{{1: 4, 4: '{}'}}>>  HMAC 256/64, kid",
                    self.kid
                ),
            ),
            (vec![0xa0], "unprotected  {}".to_owned()),
            (
                bytes(payload),
                format!("payload      the {} octets above", payload.len()),
            ),
            (bytes(tag), "tag".to_owned()),
        ];
        let whole: Vec<u8> = rows.iter().flat_map(|(octets, _)| octets.clone()).collect();
        assert_eq!(whole, sealed);
        table(&rows)
    }

    fn finish(mut self) -> BTreeMap<String, String> {
        let mut text = format!(
            "{:<16}{:>8}{:>9}{:>8}\n",
            "octets", "payload", "message", "packet"
        );
        let shown = |count: Option<usize>| count.map_or(String::new(), |count| count.to_string());
        for (what, payload, message, packet) in &self.costs {
            writeln!(
                text,
                "{what:<16}{:>8}{:>9}{packet:>8}",
                shown(*payload),
                shown(*message)
            )
            .unwrap();
        }
        let messages = self.costs.iter().filter(|cost| cost.1.is_some()).count();
        let packets: usize = self.costs.iter().map(|cost| cost.3).sum();
        writeln!(
            text,
            "{:<33}{:>8}",
            format!("{messages} x PUBACK"),
            messages * 4
        )
        .unwrap();
        writeln!(text, "{:<33}{:>8}", "in all", packets + messages * 4).unwrap();
        self.blocks.insert("text cost".into(), text);
        self.blocks
    }
}

/// A byte string's head and content.
fn bytes(content: &[u8]) -> Vec<u8> {
    codec::encode(&Value::Bytes(content.to_vec())).unwrap()
}

fn hex_lines(octets: &[u8]) -> String {
    let lines: Vec<String> = octets.chunks(48).map(hex::encode).collect();
    lines.join("\n")
}

/// Octets to the left, what they are to the right. Long ones stand above what they are.
fn table(rows: &[(Vec<u8>, String)]) -> String {
    let lines: Vec<String> = rows
        .iter()
        .map(|(octets, what)| {
            let hex = hex_lines(octets);
            if hex.len() <= 24 {
                format!("{hex:<26}{what}")
            } else {
                format!("{hex}\n{:<26}{what}", "")
            }
        })
        .collect();
    lines.join("\n")
}

/// Each element of a payload with its name, and the whole in diagnostic notation.
fn annotated(payload: &[u8], names: &[String]) -> String {
    let items: Vec<Value> = serde_cbor::from_slice(payload).unwrap();
    assert_eq!(items.len(), names.len());
    let head = 0x80 + u8::try_from(items.len()).unwrap();
    let mut rows = vec![(vec![head], format!("an array of {}", items.len()))];
    for (item, name) in items.iter().zip(names) {
        let octets = codec::encode(item).unwrap();
        let name = if name == "1" { "version" } else { name };
        let shown = plain_diag(&octets, false);
        rows.push((octets, format!("{name:<14}{shown}")));
    }
    let whole: Vec<u8> = rows.iter().flat_map(|(octets, _)| octets.clone()).collect();
    assert_eq!(whole, payload);
    format!("{}\n\n{}", table(&rows), plain_diag(payload, false))
}

fn blocks() -> BTreeMap<String, String> {
    let device: DeviceId = id("a");
    let batch: EnrolmentId = id("b");
    let enrolment = Key::from_hex(ENROLMENT).unwrap();
    let key = enrolment.for_device(&device, 1);
    let mut page = Page {
        kid: Kid::first(&batch),
        blocks: BTreeMap::new(),
        costs: vec![],
        device,
        key,
    };
    let password = page.key.mqtt_password();
    let keys = format!(
        "enrolment key of b    {ENROLMENT}\nkey of a              {}\n  HKDF-SHA-256, no salt, info csim/v1/device/a/1\n\
         password of a         {}\n  HKDF-SHA-256 of that key, no salt, info mqtt, as hexadecimal digits\n",
        page.key.to_hex().as_str(),
        password.as_str()
    );
    page.blocks.insert("text keys".into(), keys);
    connect(&mut page, password.as_str());
    register(&mut page);
    credit(&mut page);
    usage(&mut page);
    page.finish()
}

fn connect(page: &mut Page, password: &str) {
    // Protocol level 4, user name, password and clean session, keep-alive 600 s (MQTT 3.1.1, 3.1).
    let head = [string("MQTT").as_slice(), &[4, 0xc2, 0x02, 0x58]].concat();
    let device = string(page.device.as_str());
    let connect = packet(
        0x10,
        &[head, device.clone(), device, string(password)].concat(),
    );
    let subscription = filter::device_down(&page.device);
    let subscribe = packet(
        0x82,
        &[&[0, 1], string(&subscription).as_slice(), &[1]].concat(),
    );
    let text = format!(
        "CONNECT, client a, user a, {} octets\n\n{}\n\nCONNACK, 4 octets\n\n20020000\n\n\
         SUBSCRIBE {subscription}, QoS 1, {} octets\n\n{}\n\nSUBACK, 5 octets\n\n9003000101\n",
        connect.len(),
        hex_lines(&connect),
        subscribe.len(),
        hex_lines(&subscribe)
    );
    page.blocks.insert("text connect".into(), text);
    page.costs
        .push(("CONNECT, CONNACK".into(), None, None, connect.len() + 4));
    page.costs
        .push(("SUBSCRIBE, SUBACK".into(), None, None, subscribe.len() + 5));
}

fn register(page: &mut Page) {
    let up = RegisterRequest {
        epoch: EPOCH,
        boot: Boot(1),
        serial: id("17"),
        model: id("t1"),
        firmware: id("1.0"),
        capabilities: vec![],
        iccid: Some(id("8986012345678901234")),
        closes: None,
    };
    let down = RegisterAnswer {
        epoch: EPOCH,
        boot: Boot(1),
        code: Code::SUCCESS,
        now: NOW,
        sim: Some(SimProfile {
            iccid: id("8986012345678901234"),
            imsi: id("460001234567890"),
            operator: id("Example"),
            zones: vec![id("home")],
            apn: id("iot"),
        }),
        policy: Some(Policy {
            version: 1,
            ..Policy::DEFAULT
        }),
        retry_s: None,
        mark: Seq(0),
        total: Octets(0),
    };
    let (to, from) = topics(page, Up::Register, Down::Register);
    page.message("register-up", &up, &to);
    page.message("register-down", &down, &from);
}

fn credit(page: &mut Page) {
    let up = CreditRequest {
        epoch: EPOCH,
        number: RequestNumber(1),
        kind: Kind::Initial,
        used: Octets(2300),
        want: Octets(1_000_000),
        reason: Reason::BOOT,
        zone: id("home"),
        held: None,
    };
    let down = CreditAnswer {
        epoch: EPOCH,
        number: RequestNumber(1),
        push: Push(0),
        code: Code::SUCCESS,
        ceiling: Octets(1_002_300),
        stop: Octets(1_002_300),
        decided: NOW,
        valid_until: NOW.plus_s(3600),
        renew_below: Octets(200_000),
        final_unit: None,
        silence_s: 0,
        hold_s: 0,
        balance: Octets(9_000_000),
        retry_s: None,
    };
    let (to, from) = topics(page, Up::Credit, Down::Credit);
    page.message("credit-up", &up, &to);
    page.message("credit-down", &down, &from);
}

fn usage(page: &mut Page) {
    let up = UsageBatch {
        epoch: EPOCH,
        boot: Boot(1),
        iccid: id("8986012345678901234"),
        zone: id("home"),
        first: Seq(1),
        clock: 0,
        t0: 60,
        interval_s: 60,
        total: Octets(4600),
        dt: vec![],
        up: vec![2600],
        down: vec![2000],
        own: vec![4300],
        flags: vec![],
        spans: vec![],
        unsure: vec![],
    };
    let down = UsageAck {
        epoch: EPOCH,
        code: Code::SUCCESS,
        mark: Seq(1),
        total: Octets(4600),
        first: Seq(1),
        retry_s: None,
        now: NOW.plus_s(61).unwrap(),
    };
    let (to, from) = topics(page, Up::Usage, Down::Usage);
    page.message("usage-up", &up, &to);
    page.message("usage-down", &down, &from);
}

fn topics(page: &Page, up: Up, down: Down) -> (Topic, Topic) {
    (
        Topic::Up(page.device.clone(), up),
        Topic::Down(page.device.clone(), down),
    )
}

/// The page with every fenced block filled; also how many of the blocks it used.
fn filled(page: &str, blocks: &BTreeMap<String, String>) -> (String, usize) {
    let mut text = String::new();
    let mut used = 0;
    let mut within = false;
    for line in page.lines() {
        match (within, line.strip_prefix("```")) {
            (false, Some(name)) => {
                within = true;
                used += 1;
                let block = blocks
                    .get(name)
                    .unwrap_or_else(|| panic!("nothing writes '{name}'"));
                writeln!(text, "{line}\n{}\n```", block.trim_end()).unwrap();
            }
            (true, Some(_)) => within = false,
            (true, None) => {}
            (false, None) => writeln!(text, "{line}").unwrap(),
        }
    }
    (text, used)
}

#[test]
fn the_page_is_what_the_code_does() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("SMALLEST_DEVICE.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let blocks = blocks();
    let (expected, used) = filled(&page, &blocks);
    assert_eq!(used, blocks.len(), "a block is missing on the page");
    if std::env::var("SIMQUOTA_PAGE").as_deref() == Ok("write") {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    let line = page
        .lines()
        .zip(expected.lines())
        .position(|(is, should)| is != should);
    assert_eq!(
        page, expected,
        "line {line:?} differs: run with SIMQUOTA_PAGE=write, and read what changed on the wire"
    );
}
