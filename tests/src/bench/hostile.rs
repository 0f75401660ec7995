//! A hostile client against mosquitto and the service, and what the other devices notice of it.
//!
//! ```text
//! strangers   sealed requests of devices that do not exist, forged ones of devices that do, garbage, giants
//! insider     a valid device that asks as fast as it can, hundreds of times its rate
//! lines       connections that say nothing, that dribble octets, that say garbage and go
//! others      devices that ask for quota at a steady rate, each answer verified
//! ```
//!
//! First calm, then at 30 % of what the broker was just seen to forward, then as fast as the machine can, then calm
//! again. A wait counts from when a request was due, not from when it was sent. The service has the shipped limits.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Event, EventLoop};
use serde::Serialize;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, seal};
use simquota_shared::topic::{Topic, Up};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::figures::{Spread, Times, ratio};
use super::latency::{Asker, answer};
use super::load::key_of;
use super::publisher::{connect, next, subscribe};
use super::stand::{Broker, Folder, Kind, Responder, Template};
use super::world::{Device, Dice};
use crate::process::LIMIT;

/// The first one is the insider, the rest ask.
const DEVICES: usize = 101;
/// Connections of those who ask, and how often each asks.
const ASKERS: usize = 4;
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A request without an answer is sent again, as a device does.
const AGAIN: Duration = Duration::from_secs(10);
/// Outside of an attack it is sent again so soon, to see how soon it is calm again.
const LOOK: Duration = Duration::from_millis(500);
/// A request that nobody answers for so long is one that was lost.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// Connections of the attacker that publish.
const ATTACKERS: usize = 4;
const INFLIGHT: u16 = 100;
/// Connections that dribble, and connections made and dropped each second.
const DRIBBLERS: usize = 100;
const CHURN_EVERY: Duration = Duration::from_millis(20);
const GIANT_OCTETS: usize = 200 * 1024;
/// One giant among so many messages.
const GIANT_OF: u64 = 1000;
/// The attack in thousandths of what the broker forwards.
const SHARE_PERMILLE: u64 = 300;
/// Shipped limits, not those of the other benchmarks.
const LIMITS: &str = "";

/// How long each part takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Before the attack, and after it.
    pub(crate) calm: Duration,
    /// Of each of the two attacks.
    pub(crate) attack: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Messages a second that the broker forwarded at its fastest.
    forwarded_per_s: u64,
    calm: Spread,
    share: Part,
    full: Part,
    /// From five seconds after the end on.
    after: Spread,
    /// Seconds from the attack's end to the last answer that took longer than any calm one, and than 50 ms.
    back_s: f64,
    /// The other devices' p99 at 30 %, beside the calm one.
    ratio_p99: f64,
    service_mib: Memory,
    broker_mib: Memory,
    /// Requests of other devices that were never answered.
    lost: u64,
    load: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Serialize)]
struct Part {
    grant: Spread,
    asked: usize,
    /// Hostile messages that the broker took, a second.
    hostile_per_s: u64,
    /// Connections made.
    lines: u64,
}

/// Resident memory.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    calm: u64,
    /// The most that it ever was.
    most: u64,
}

/// One request of another device.
#[derive(Clone, Copy)]
struct Asked {
    due: Instant,
    took: Duration,
}

/// What the tasks share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Under attack; then an unanswered request waits for the device's timer.
    attacked: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    lost: AtomicU64,
    taken: AtomicU64,
    lines: AtomicU64,
}

/// Runs all of it; none without mosquitto.
///
/// # Errors
/// When the service or the broker did not live through it, or a request was lost for good.
pub(crate) fn run(lengths: Lengths, say: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Figures>> {
    let Some(kind) = Kind::mosquitto("a hostile client") else {
        return Ok(None);
    };
    let folder = Folder::make(None)?;
    let template = Template::make(&folder.path().join("hostile"), DEVICES)?;
    let broker = Broker::start(&kind)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let forwarded = forwards(&runtime, broker.port)?;
    say(&format!(
        "hostile: the broker forwards {forwarded} messages a second"
    ));
    let service = Responder::service_with(&template, broker.port, folder.path(), LIMITS)?;
    let others = Arc::new(Shared::default());
    let askers = ask_all(&runtime, &template, broker.port, &others)?;

    let calm = part(&others, lengths.calm);
    ensure!(
        !calm.is_empty(),
        "no device is answered; {}",
        service.tail()
    );
    let before = [memory(service.id())?, memory(broker.id)?];
    let mut calm_times = times(&calm);
    let calm_spread = calm_times.spread();
    say(&format!("hostile: calm p99 {:.1} ms", calm_spread.p99_ms));
    others.attacked.store(true, Ordering::Release);
    let share = Attack::at(forwarded * SHARE_PERMILLE / 1000);
    let share = share.run(&runtime, &template, broker.port, &others, lengths.attack)?;
    say(&format!(
        "hostile: p99 {:.1} ms beside {} hostile messages a second",
        share.grant.p99_ms, share.hostile_per_s
    ));
    let full = Attack::at(u64::MAX);
    let full = full.run(&runtime, &template, broker.port, &others, lengths.attack)?;
    say(&format!(
        "hostile: p99 {:.1} ms beside {} hostile messages a second",
        full.grant.p99_ms, full.hostile_per_s
    ));
    others.attacked.store(false, Ordering::Release);
    let ended = Instant::now();
    let slow = Duration::from_secs_f64(calm_spread.max_ms.max(50.0) / 1000.0);
    let after = recovery(&others, lengths.calm.max(Duration::from_secs(10)), slow)
        .with_context(|| service.tail())?;
    others.stop.store(true, Ordering::Release);
    runtime.block_on(askers.join_all());
    let back = after
        .iter()
        .filter(|asked| asked.took > slow)
        .map(|asked| asked.due.saturating_duration_since(ended) + asked.took)
        .max()
        .unwrap_or_default();
    let settled: Vec<Asked> = after
        .into_iter()
        .filter(|asked| asked.due >= ended + Duration::from_secs(5))
        .collect();
    let most = [most_memory(service.id())?, most_memory(broker.id)?];
    let lost = others.lost.load(Ordering::Acquire);
    // The very processes that were there at the beginning: nothing was restarted.
    ensure!(service.lives(), "the service ended; {}", service.tail());
    ensure!(
        lost == 0,
        "{lost} requests of other devices were never answered"
    );
    service.end()?;
    let [service_mib, broker_mib] = [0, 1].map(|index: usize| Memory {
        calm: before.get(index).copied().unwrap_or(0),
        most: most.get(index).copied().unwrap_or(0),
    });
    Ok(Some(Figures {
        forwarded_per_s: forwarded,
        calm: calm_spread,
        ratio_p99: ratio(share.grant.p99_ms, calm_spread.p99_ms),
        share,
        full,
        after: times(&settled).spread(),
        back_s: back.as_secs_f64(),
        service_mib,
        broker_mib,
        lost,
        load: super::machine::load().values(),
    }))
}

/// A table of it.
#[must_use]
pub(crate) fn table(figures: &Figures) -> String {
    let row = |name: &str, spread: Spread, hostile: u64| {
        format!(
            "{name:<22} {:>9.2} {:>9.2} {:>9.1} {hostile:>14}",
            spread.p50_ms, spread.p99_ms, spread.max_ms
        )
    };
    let Figures {
        forwarded_per_s,
        calm,
        share,
        full,
        after,
        back_s,
        ratio_p99,
        service_mib,
        broker_mib,
        ..
    } = figures;
    [
        format!(
            "HOSTILE  other devices' grants beside an attacker; mosquitto forwards {forwarded_per_s} messages a second"
        ),
        format!(
            "{:<22} {:>9} {:>9} {:>9} {:>14}",
            "", "p50 ms", "p99 ms", "max ms", "hostile msg/s"
        ),
        row("calm", *calm, 0),
        row("30 %", share.grant, share.hostile_per_s),
        row("full speed", full.grant, full.hostile_per_s),
        row("5 s after the end", *after, 0),
        format!(
            "p99 at 30 % / calm {ratio_p99:.2} (aim 3); back after {back_s:.1} s (aim 5); service {} -> {} MiB at most, mosquitto {} -> {} MiB; nothing restarted",
            service_mib.calm, service_mib.most, broker_mib.calm, broker_mib.most
        ),
    ]
    .join("\n")
}

/// Messages a second that the broker hands from publishers to one subscriber.
fn forwards(runtime: &Runtime, port: u16) -> anyhow::Result<u64> {
    const TOPIC: &str = "csim/v1/bench/forwarded";
    const WARM_UP: Duration = Duration::from_secs(1);
    const LENGTH: Duration = Duration::from_secs(2);
    runtime.block_on(async {
        let (client, mut events) = connect("hostile-ear", port, INFLIGHT);
        subscribe(&client, &mut events, [TOPIC.to_owned()]).await?;
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for index in 0..ATTACKERS {
            let (client, events) = connect(&format!("hostile-mouth-{index}"), port, INFLIGHT);
            let shared = Arc::clone(&shared);
            tasks.spawn(publish(client, events, u64::MAX, shared, |_| {
                (TOPIC.to_owned(), vec![7; 200])
            }));
        }
        let mut count = 0_u64;
        let begin = Instant::now() + WARM_UP;
        while begin.elapsed() < LENGTH {
            if let Event::Incoming(Packet::Publish(_)) = next(&mut events, LIMIT).await?
                && Instant::now() >= begin
            {
                count += 1;
            }
        }
        shared.stop.store(true, Ordering::Release);
        tasks.join_all().await;
        Ok(count / LENGTH.as_secs())
    })
}

/// What became due after the attack, for so long at least and until somebody is answered as when it was calm.
fn recovery(others: &Shared, length: Duration, slow: Duration) -> anyhow::Result<Vec<Asked>> {
    let ended = Instant::now();
    let mut after: Vec<Asked> = Vec::new();
    while ended.elapsed() < GIVEN_UP * 2 {
        std::thread::sleep(Duration::from_secs(1));
        let mut asked = others.asked.lock().unwrap_or_else(PoisonError::into_inner);
        after.extend(asked.drain(..).filter(|asked| asked.due >= ended));
        let calm = after.iter().any(|asked| asked.took <= slow);
        if calm && ended.elapsed() >= length {
            return Ok(after);
        }
    }
    bail!("nobody is answered as before for {:?}", GIVEN_UP * 2)
}

/// All requests that were answered in so long.
fn part(others: &Shared, length: Duration) -> Vec<Asked> {
    let take = || std::mem::take(&mut *others.asked.lock().unwrap_or_else(PoisonError::into_inner));
    take();
    std::thread::sleep(length);
    take()
}

fn times(asked: &[Asked]) -> Times {
    let mut times = Times::default();
    for one in asked {
        times.push(one.took);
    }
    times
}

/// The other devices begin to ask.
fn ask_all(
    runtime: &Runtime,
    template: &Template,
    port: u16,
    shared: &Arc<Shared>,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let others = template.devices.get(1..).unwrap_or_default();
    for (index, devices) in others.chunks(others.len().div_ceil(ASKERS)).enumerate() {
        let askers: Vec<Asker> = devices
            .iter()
            .map(|device| Asker::new(template, device))
            .collect::<anyhow::Result<_>>()?;
        let shared = Arc::clone(shared);
        let task = async move {
            if let Err(error) = ask_in_turns(index, port, askers, &shared).await {
                super::say(&format!("a device that asks: {error:#}"));
                shared.lost.fetch_add(1, Ordering::AcqRel);
            }
        };
        tasks.spawn_on(task, runtime.handle());
    }
    Ok(tasks)
}

async fn ask_in_turns(
    index: usize,
    port: u16,
    mut askers: Vec<Asker>,
    shared: &Shared,
) -> anyhow::Result<()> {
    let (client, mut events) = connect(&format!("hostile-other-{index}"), port, INFLIGHT);
    let topics: Vec<String> = askers.iter().map(|asker| asker.down.clone()).collect();
    subscribe(&client, &mut events, topics).await?;
    let mut due = Instant::now();
    let count = askers.len();
    for turn in (0..count).cycle() {
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        wait_polling(&mut events, due).await?;
        let Some(asker) = askers.get_mut(turn) else {
            return Ok(());
        };
        ask(asker, &client, &mut events, &shared.attacked).await?;
        let asked = Asked {
            due,
            took: due.elapsed(),
        };
        shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(asked);
        // A device has one request under way at most: what would have become due meanwhile is left out.
        due = (due + ASK_EVERY).max(Instant::now());
    }
    Ok(())
}

/// Waits, and keeps the connection alive.
async fn wait_polling(events: &mut EventLoop, until: Instant) -> anyhow::Result<()> {
    while Instant::now() < until {
        tokio::select! {
            polled = events.poll() => drop(polled.context("the connection broke")?),
            () = sleep_until(until.into()) => {}
        }
    }
    Ok(())
}

/// Asks until there is an answer.
async fn ask(
    asker: &mut Asker,
    client: &AsyncClient,
    events: &mut EventLoop,
    attacked: &AtomicBool,
) -> anyhow::Result<()> {
    let request = asker.device.update();
    let message = seal(
        &asker.key,
        &asker.device.kid,
        &asker.up,
        &codec::encode(&request)?,
    )?;
    let (began, mut sent) = (Instant::now(), None::<Instant>);
    while began.elapsed() < GIVEN_UP {
        let again = if attacked.load(Ordering::Acquire) {
            AGAIN
        } else {
            LOOK
        };
        if sent.is_none_or(|at| at.elapsed() >= again) {
            client.try_publish(&asker.up, QoS::AtLeastOnce, false, message.clone())?;
            sent = Some(Instant::now());
        }
        // The answer to an earlier request may come twice, since that was sent twice.
        if let Ok(answer) = timeout(LOOK, answer(events, &asker.down)).await
            && asker.check(&request, &answer?).is_ok()
        {
            return Ok(());
        }
    }
    bail!("{} was not answered in {GIVEN_UP:?}", asker.device.id)
}

/// A hostile client.
struct Attack {
    per_s: u64,
}

impl Attack {
    fn at(per_s: u64) -> Self {
        Self { per_s }
    }

    fn run(
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
async fn publish(
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

fn memory(process: u32) -> anyhow::Result<u64> {
    status_mib(process, "VmRSS:")
}

fn most_memory(process: u32) -> anyhow::Result<u64> {
    status_mib(process, "VmHWM:")
}

fn status_mib(process: u32, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(Path::new(&path))
        .with_context(|| format!("process {process} is gone: it did not live through it"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let kib = kib.context("the kernel does not say how much memory a process has")?;
    Ok(kib / 1024)
}
