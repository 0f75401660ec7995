//! The hostile client: what it says, and over how many lines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use simquota_shared::codec;
use simquota_shared::envelope::{Key, seal};
use simquota_shared::topic::{Topic, Up};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::load::key_of;
use super::super::publisher::connect;
use super::super::stand::Template;
use super::super::world::{Device, Dice};
use super::{ATTACKERS, INFLIGHT, Part, Shared, part, times};

/// Connections that dribble, and connections made and dropped each second.
const DRIBBLERS: usize = 100;
const CHURN_EVERY: Duration = Duration::from_millis(20);
const GIANT_OCTETS: usize = 200 * 1024;
/// One giant among so many messages.
const GIANT_OF: u64 = 1000;

/// A hostile client.
pub(super) struct Attack {
    per_s: u64,
}

impl Attack {
    pub(super) fn at(per_s: u64) -> Self {
        Self { per_s }
    }

    pub(super) fn run(
        &self,
        runtime: &Runtime,
        template: &Template,
        port: u16,
        others: &Shared,
        length: Duration,
    ) -> anyhow::Result<Part> {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let each = (self.per_s / ATTACKERS as u64).max(1);
        for index in 0..ATTACKERS {
            let mut liar = Liar::new(template, index)?;
            let (client, events) = connect(&format!("hostile-{index}"), port, INFLIGHT);
            let says = move |count| liar.says(count);
            tasks.spawn_on(
                publish(client, events, each, Arc::clone(&shared), says),
                runtime.handle(),
            );
        }
        let broker = SocketAddr::from(([127, 0, 0, 1], port));
        for _ in 0..DRIBBLERS {
            tasks.spawn_on(dribble(broker, Arc::clone(&shared)), runtime.handle());
        }
        tasks.spawn_on(churn(broker, Arc::clone(&shared)), runtime.handle());
        let began = Instant::now();
        let asked = part(others, length);
        let taken = shared.taken.load(Ordering::Acquire);
        shared.stop.store(true, Ordering::Release);
        let lasted = began.elapsed().as_secs().max(1);
        tasks.abort_all();
        runtime.block_on(async { while tasks.join_next().await.is_some() {} });
        Ok(Part {
            asked: asked.len(),
            grant: times(&asked).spread(),
            hostile_per_s: taken / lasted,
            lines: shared.lines.load(Ordering::Acquire),
        })
    }
}

/// Publishes what `says` says, so many a second; connects again when thrown out.
pub(super) async fn publish(
    client: AsyncClient,
    mut events: EventLoop,
    per_s: u64,
    shared: Arc<Shared>,
    mut says: impl FnMut(u64) -> (String, Vec<u8>),
) {
    const TICK: Duration = Duration::from_millis(10);
    const WAITING_MAX: u64 = 500;
    let began = Instant::now();
    let (mut sent, mut taken) = (0_u64, 0_u64);
    while !shared.stop.load(Ordering::Acquire) {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = per_s.saturating_mul(ms.max(1)) / 1000;
        while sent < due && sent - taken < WAITING_MAX {
            let (topic, payload) = says(sent);
            if client
                .try_publish(topic, QoS::AtLeastOnce, false, payload)
                .is_err()
            {
                break;
            }
            sent += 1;
        }
        // Drains what has come, and a little longer when there is time.
        match timeout(TICK, events.poll()).await {
            Ok(Ok(Event::Incoming(Packet::PubAck(_)))) => {
                taken += 1;
                shared.taken.fetch_add(1, Ordering::AcqRel);
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(_)) => {
                taken = sent;
                sleep(TICK).await;
            }
        }
    }
}

/// What one hostile connection says.
struct Liar {
    dice: Dice,
    insider: (Device, Key),
    victim: Device,
    wrong: Key,
    up: String,
}

impl Liar {
    fn new(template: &Template, index: usize) -> anyhow::Result<Self> {
        let insider = template.devices.first().context("there are no devices")?;
        let victim = template.devices.last().context("there are no devices")?;
        Ok(Self {
            dice: Dice::new(index as u64),
            insider: (insider.clone(), key_of(template, insider)?),
            victim: victim.clone(),
            wrong: Key::new([index.to_le_bytes().first().copied().unwrap_or(0); 32]),
            up: Topic::Up(insider.id.clone(), Up::Credit).to_string(),
        })
    }

    fn says(&mut self, count: u64) -> (String, Vec<u8>) {
        if count % GIANT_OF == GIANT_OF - 1 {
            let topic = Topic::Up(self.victim.id.clone(), Up::Usage).to_string();
            return (topic, self.noise(GIANT_OCTETS));
        }
        match count % 10 {
            // Devices that do not exist, in good form.
            0..=2 => {
                let ghost = format!("ghost-{}", self.dice.below(1_000_000));
                let topic = format!("csim/v1/d/{ghost}/up/credit");
                let sealed = self.sealed(&topic, None);
                (topic, sealed)
            }
            // Octets.
            3 | 4 => {
                let topic = Topic::Up(self.victim.id.clone(), Up::Register).to_string();
                (topic, self.noise(200))
            }
            // In somebody's name, under another key.
            5 | 6 => {
                let topic = Topic::Up(self.victim.id.clone(), Up::Credit).to_string();
                let sealed = self.sealed(&topic, None);
                (topic, sealed)
            }
            // A real device that does not stop asking.
            _ => {
                let topic = self.up.clone();
                let key = self.insider.1.clone();
                let sealed = self.sealed(&topic, Some(&key));
                (topic, sealed)
            }
        }
    }

    fn sealed(&mut self, topic: &str, key: Option<&Key>) -> Vec<u8> {
        let request = self.insider.0.update();
        let key = key.unwrap_or(&self.wrong);
        codec::encode(&request)
            .ok()
            .and_then(|body| seal(key, &self.insider.0.kid, topic, &body).ok())
            .unwrap_or_default()
    }

    fn noise(&mut self, octets: usize) -> Vec<u8> {
        (0..octets).map(|_| self.dice.octet()).collect()
    }
}

/// A CONNECT that comes an octet a second, or never comes.
async fn dribble(broker: SocketAddr, shared: Arc<Shared>) {
    let connect = b"\x10\x1b\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x0eslow-sender-01";
    while !shared.stop.load(Ordering::Acquire) {
        let Ok(mut stream) = TcpStream::connect(broker).await else {
            sleep(CHURN_EVERY).await;
            continue;
        };
        shared.lines.fetch_add(1, Ordering::AcqRel);
        for octet in connect {
            if stream.write_all(&[*octet]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Connections that say garbage and go.
async fn churn(broker: SocketAddr, shared: Arc<Shared>) {
    let mut dice = Dice::new(7);
    while !shared.stop.load(Ordering::Acquire) {
        if let Ok(mut stream) = TcpStream::connect(broker).await {
            let garbage: Vec<u8> = (0..64).map(|_| dice.octet()).collect();
            // The broker may have hung up already.
            let _ = stream.write_all(&garbage).await;
            shared.lines.fetch_add(1, Ordering::AcqRel);
        }
        sleep(CHURN_EVERY).await;
    }
}
