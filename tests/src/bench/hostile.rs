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

mod attack;
mod others;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use self::attack::{Attack, publish};
use self::others::ask_all;
use super::figures::{Spread, Times, ratio};
use super::publisher::{connect, next, subscribe};
use super::stand::{Broker, Folder, Kind, Responder, Template};
use crate::process::LIMIT;

/// The first one is the insider, the rest ask.
const DEVICES: usize = 101;
/// A request that nobody answers for so long is one that was lost.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// Connections of the attacker that publish.
const ATTACKERS: usize = 4;
const INFLIGHT: u16 = 100;
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
