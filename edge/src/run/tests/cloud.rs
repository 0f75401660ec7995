//! The smallest broker and the smallest cloud, spoken by hand: one device, every request granted.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Received, seal};
use simquota_shared::ids::Text;
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Policy, RegisterAnswer, RegisterRequest, SimProfile, Status,
    UsageAck, UsageBatch,
};
use simquota_shared::units::{Epoch, Octets, Push, Seq, UnixMillis};

use crate::io::keyfile::Enrolment;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// What the cloud knows and did.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) registrations: Vec<RegisterRequest>,
    pub(super) requests: Vec<CreditRequest>,
    pub(super) statuses: Vec<Status>,
    /// Of the present epoch: the mark and the used total there.
    pub(super) mark: u64,
    pub(super) charged: u64,
    pub(super) ceiling: u64,
    pub(super) flags: u64,
    /// A row was metered beyond the ceiling of that moment.
    pub(super) overrun: u64,
    /// What the last CONNECT held, and the wills of all of them.
    pub(super) will: Vec<u8>,
    pub(super) wills: Vec<Status>,
    pub(super) connections: u64,
    /// Of how many epochs the first registration is answered with "superseded".
    pub(super) supersede: usize,
    /// Each answer is preceded by messages that count for nothing.
    pub(super) noise: bool,
}

pub(super) struct Cloud {
    ledger: Arc<Mutex<Ledger>>,
    line: Arc<Mutex<Option<TcpStream>>>,
    port: u16,
    _thread: JoinHandle<()>,
}

impl Cloud {
    pub(super) fn begin(enrolment: Enrolment) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let shared = Arc::clone(&ledger);
        let line = Arc::new(Mutex::new(None));
        let present = Arc::clone(&line);
        // It ends with the process: a test that is over has dropped its agent.
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                *present.lock().unwrap() = Some(stream.try_clone().unwrap());
                let line = Line {
                    stream,
                    enrolment: enrolment.clone(),
                    ledger: Arc::clone(&shared),
                };
                line.serve();
            }
        });
        Cloud {
            ledger,
            line,
            port,
            _thread: thread,
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Cuts the connection as a broker that dies does.
    pub(super) fn hang_up(&self) {
        let line = self.line.lock().unwrap().take().unwrap();
        line.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

struct Line {
    stream: TcpStream,
    enrolment: Enrolment,
    ledger: Arc<Mutex<Ledger>>,
}

impl Line {
    fn serve(mut self) {
        while let Some((kind, body)) = self.read() {
            match kind {
                0x10 => {
                    let will = self.will(&body);
                    let mut ledger = self.ledger.lock().unwrap();
                    ledger.connections += 1;
                    ledger.wills.push(will);
                    ledger.will = body;
                    drop(ledger);
                    self.write(&[0x20, 3, 0, 0, 0]);
                }
                0x82 => self.write(&[0x90, 4, body[0], body[1], 0, 1]),
                0x32 | 0x33 => {
                    let length = usize::from(body[0]) << 8 | usize::from(body[1]);
                    let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
                    let rest = &body[2 + length..];
                    self.write(&[0x40, 2, rest[0], rest[1]]);
                    assert_eq!(rest[2], 0, "no properties");
                    self.published(&topic, &rest[3..]);
                }
                0xc0 => self.write(&[0xd0, 0]),
                0xe0 => return,
                other => panic!("packet {other:#x}"),
            }
        }
    }

    /// The will is sealed like any status: found by its envelope within CONNECT.
    fn will(&self, connect: &[u8]) -> Status {
        let topic = format!("csim/v1/d/{}/status", self.enrolment.device);
        let at = connect
            .windows(topic.len())
            .position(|octets| octets == topic.as_bytes())
            .unwrap();
        let rest = &connect[at + topic.len()..];
        let length = usize::from(rest[0]) << 8 | usize::from(rest[1]);
        let received = Received::parse(&rest[2..2 + length]).unwrap();
        codec::decode(received.verify(&self.enrolment.key, &topic).unwrap()).unwrap()
    }

    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        self.stream.read_exact(&mut first).ok()?;
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let mut octet = [0];
            self.stream.read_exact(&mut octet).ok()?;
            length |= usize::from(octet[0] & 0x7f) << shift;
            if octet[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((first[0], body))
    }

    fn write(&mut self, octets: &[u8]) {
        // The device may be gone; then the next read ends it.
        let _ = self.stream.write_all(octets);
    }

    fn send(&mut self, topic: &str, message: &[u8]) {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(topic.as_bytes());
        body.push(0);
        body.extend_from_slice(message);
        let (low, high) = (body.len() % 128, body.len() / 128);
        let mut packet = vec![
            0x30,
            u8::try_from(low).unwrap() | 0x80,
            u8::try_from(high).unwrap(),
        ];
        packet.extend_from_slice(&body);
        self.write(&packet);
    }

    fn answer<T: serde::Serialize>(&mut self, what: &str, answer: &T) {
        let Enrolment { device, kid, key } = self.enrolment.clone();
        let topic = format!("csim/v1/d/{device}/down/{what}");
        let message = seal(&key, &kid, &topic, &codec::encode(answer).unwrap()).unwrap();
        if self.ledger.lock().unwrap().noise {
            self.send(&topic, b"not a message");
            self.send(&topic, &message[..message.len() - 1]);
            let forged = simquota_shared::envelope::Key::new([0; 32]);
            let forged = seal(&forged, &kid, &topic, &codec::encode(answer).unwrap()).unwrap();
            self.send(&topic, &forged);
        }
        self.send(&topic, &message);
    }

    fn published(&mut self, topic: &str, message: &[u8]) {
        let received = Received::parse(message).unwrap();
        assert_eq!(received.kid, self.enrolment.kid);
        let payload = received.verify(&self.enrolment.key, topic).unwrap();
        let (_, what) = topic.split_at("csim/v1/d/".len() + self.enrolment.device.as_str().len());
        match what {
            "/up/register" => self.register(codec::decode(payload).unwrap()),
            "/up/credit" => self.credit(codec::decode(payload).unwrap()),
            "/up/usage" => self.usage(codec::decode(payload).unwrap()),
            "/status" => {
                let status = codec::decode(payload).unwrap();
                self.ledger.lock().unwrap().statuses.push(status);
            }
            other => panic!("topic {other}"),
        }
    }

    fn register(&mut self, request: RegisterRequest) {
        let mut ledger = self.ledger.lock().unwrap();
        let known = ledger
            .registrations
            .last()
            .is_some_and(|last| last.epoch == request.epoch);
        if !known {
            ledger.mark = 0;
            ledger.charged = 0;
            ledger.ceiling = 0;
        }
        let mut epochs: Vec<Epoch> = ledger.registrations.iter().map(|r| r.epoch).collect();
        epochs.push(request.epoch);
        epochs.dedup();
        let superseded = epochs.len() <= ledger.supersede;
        ledger.registrations.push(request.clone());
        let (mark, total) = (Seq(ledger.mark), Octets(ledger.charged));
        drop(ledger);
        let text = |text: &str| -> Text { text.parse().unwrap() };
        let answer = RegisterAnswer {
            epoch: request.epoch,
            boot: request.boot,
            code: if superseded {
                Code::EPOCH_SUPERSEDED
            } else {
                Code::SUCCESS
            },
            now: NOW,
            sim: (!superseded).then(|| SimProfile {
                iccid: "8901".parse().unwrap(),
                imsi: text("00101"),
                operator: text("test"),
                zones: vec!["home".parse().unwrap()],
                apn: text("internet"),
            }),
            policy: (!superseded).then_some(Policy {
                version: 1,
                sample_s: 1,
                report_s: 1,
                ..Policy::DEFAULT
            }),
            retry_s: None,
            mark,
            total,
        };
        self.answer("register", &answer);
    }

    fn credit(&mut self, request: CreditRequest) {
        let mut ledger = self.ledger.lock().unwrap();
        let p = request.used.0.max(ledger.charged);
        ledger.ceiling = match request.kind {
            Kind::Initial => p + request.want.0,
            Kind::Update => ledger.ceiling.max(p) + request.want.0,
            Kind::Final => p,
        };
        let ceiling = Octets(ledger.ceiling);
        ledger.requests.push(request.clone());
        drop(ledger);
        let answer = CreditAnswer {
            epoch: request.epoch,
            number: request.number,
            push: Push(0),
            code: Code::SUCCESS,
            ceiling,
            stop: Octets(ceiling.0 + 100_000),
            decided: NOW,
            valid_until: (request.kind != Kind::Final).then(|| NOW.plus_s(600).unwrap()),
            renew_below: Octets(request.want.0 / 2),
            final_unit: None,
            silence_s: 0,
            hold_s: 0,
            balance: Octets(1_000_000_000),
            retry_s: None,
        };
        self.answer("credit", &answer);
    }

    fn usage(&mut self, batch: UsageBatch) {
        let rows = u64::try_from(batch.up.len()).unwrap();
        let last = batch.first.0 + rows - 1;
        let mut ledger = self.ledger.lock().unwrap();
        if batch.first.0 == ledger.mark + 1 {
            let sum: u64 = batch.up.iter().chain(&batch.down).sum();
            assert_eq!(ledger.charged + sum, batch.total.0, "totals and sums");
            ledger.mark = last;
            ledger.charged = batch.total.0;
            ledger.flags |= batch.flags.iter().fold(0, |all, (_, bits)| all | bits);
            ledger.overrun = ledger
                .overrun
                .max(batch.total.0.saturating_sub(ledger.ceiling));
        }
        let answer = UsageAck {
            epoch: batch.epoch,
            code: Code::SUCCESS,
            mark: Seq(ledger.mark),
            total: Octets(ledger.charged),
            first: batch.first,
            retry_s: None,
            now: NOW,
        };
        drop(ledger);
        self.answer("usage", &answer);
    }
}
