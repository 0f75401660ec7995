//! What people do: a top-up until a blocked device's traffic flows again; and a service at half of what it can take,
//! alone and while `top` and `watch` look on.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::figures::{Spread, Times, grouped, median, number, ratio};
use super::latency;
use super::load::Load;
use super::options::Options;
use super::publisher::{self, PUBLISHERS, Plan, connect, current_runtime, next, subscribe};
use super::stand::{Broker, Kind, Responder, Template};
use super::{child, machine, say};
use crate::broker::Mosquitto;
use crate::process::{Child, LIMIT};
use crate::world::World;

const DEVICES: usize = 1_000;
/// The others ask for quota.
const REPORTING: usize = 500;
/// Of one blocked device.
const TOP_UPS: usize = 3;
/// What the device takes before it is blocked again, and how much of it there is in a second.
const TOP_UP: &str = "50kB";
const OCTETS_A_S: u64 = 50_000;
const ANSWERS: &str = "csim/v1/+/+/down/usage";
const INFLIGHT: u16 = 100;
/// People look on from machines of their own: here they come behind everybody else. (`chrt --idle` would be nearer to that,
/// but on a machine that is never idle they would see nothing.)
const BEHIND: &str = "nice -n 19";
/// How `watch` says what it did not show, behind the number.
const LEFT_OUT: &str = " messages were left out: more came than could be verified and written";
const TICK: Duration = Duration::from_millis(5);

/// All rounds.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    broker: &'static str,
    top_up: Option<Spread>,
    top_ups: usize,
    half: Option<Half>,
}

/// At half the limit.
#[derive(Debug, Serialize)]
struct Half {
    limit_per_s: f64,
    alone: Spread,
    watched: Spread,
    /// Watched beside alone, the median of the rounds.
    ratio_p50: f64,
    ratio_p99: f64,
    /// Devices whose last report was not answered when the sending ended, of those that report.
    waiting_alone: f64,
    waiting_watched: f64,
    watch_wrote: f64,
    watch_left_out: f64,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    limit_per_s: f64,
    alone: Side,
    watched: Side,
    load: Vec<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    grant: Spread,
    grants: usize,
    reports_per_s: f64,
    waiting: u64,
    /// Until all was answered, after the last report was sent.
    drained_ms: f64,
    /// Octets that `watch` wrote, and messages that it left out.
    watch_wrote: u64,
    watch_left_out: u64,
}

pub(super) fn measure(options: &Options, folder: &Path) -> anyhow::Result<Option<Figures>> {
    let Some(kind) = Kind::mosquitto("operate") else {
        return Ok(None);
    };
    let count = options.rounds() as usize * TOP_UPS;
    say(&format!("operate: {count} top-ups of a blocked device …"));
    let mut times = Times::default();
    for _ in 0..options.rounds() {
        top_ups(&mut times, TOP_UPS)?;
    }
    let mut top_ups = times;
    let half = half(options, folder, &kind)?;
    Ok(Some(Figures {
        broker: kind.name(),
        top_ups: top_ups.len(),
        top_up: (top_ups.len() > 0).then(|| top_ups.spread()),
        half,
    }))
}

/// From the start of `simquota-cloud package buy` to the blocked agent's gate being open; real processes all. A world of
/// its own for each round: a device that is blocked again and again asks more and more seldom.
fn top_ups(times: &mut Times, count: usize) -> anyhow::Result<()> {
    let program = Mosquitto::find().context("mosquitto is gone")?;
    let world = World::over(Mosquitto::start(&program)?);
    let buy = || world.cloud(&["package", "buy", "--fleet", "buses", "--volume", TOP_UP]);
    buy();
    let trace = crate::world::steady(3600, OCTETS_A_S);
    let mut device = world.device("tracker-1", &trace, 1, TOP_UP);
    device.start_logging("info,simquota_edge::io::gate=debug");
    for _ in 0..count {
        device.await_status("to be blocked", |status| {
            status["gate_open"] == false && status["answer_code"] == 4012
        });
        let before = device
            .status()
            .and_then(|status| status.get("used")?.as_u64());
        let process = device.process.as_ref().context("the agent is gone")?;
        let mark = process.mark();
        let began = Instant::now();
        thread::scope(|scope| {
            let bought = scope.spawn(buy);
            let open = |line: &str| line.contains("gate set") && line.contains("open=true");
            process.wait_line_after(mark, open, LIMIT)?;
            times.push(began.elapsed());
            bought.join().map_err(|_| anyhow!("the top-up failed"))?;
            anyhow::Ok(())
        })?;
        device.await_status("to use on", |status| status["used"].as_u64() > before);
    }
    world.audit();
    Ok(())
}

fn half(options: &Options, folder: &Path, kind: &Kind) -> anyhow::Result<Option<Half>> {
    if Command::new("script").arg("--version").output().is_err() {
        say("NOT MEASURED: top on a terminal; install `script` (util-linux)");
        return Ok(None);
    }
    say(&format!("operate: making {DEVICES} devices …"));
    let template = Template::make(&folder.join("operate"), DEVICES)?;
    let mut load = Arc::new(Load::new(&template)?);
    let mut rounds = Vec::new();
    for round in 1..=options.rounds() {
        say(&format!(
            "operate: round {round} of {} (load {}) …",
            options.rounds(),
            machine::load()
        ));
        rounds.push(one_round(options, folder, &template, &mut load, kind)?);
    }
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let side =
        |value: fn(&Round) -> Spread| Spread::median(&rounds.iter().map(value).collect::<Vec<_>>());
    Ok(Some(Half {
        limit_per_s: of(|round| round.limit_per_s),
        alone: side(|round| round.alone.grant),
        watched: side(|round| round.watched.grant),
        ratio_p50: of(|round| ratio(round.watched.grant.p50_ms, round.alone.grant.p50_ms)),
        ratio_p99: of(|round| ratio(round.watched.grant.p99_ms, round.alone.grant.p99_ms)),
        waiting_alone: of(|round| number(round.alone.waiting)),
        waiting_watched: of(|round| number(round.watched.waiting)),
        watch_wrote: of(|round| number(round.watched.watch_wrote)),
        watch_left_out: of(|round| number(round.watched.watch_left_out)),
        rounds,
    }))
}

/// What the service can take, then half of it alone, then half of it while people look on.
fn one_round(
    options: &Options,
    folder: &Path,
    template: &Template,
    load: &mut Arc<Load>,
    kind: &Kind,
) -> anyhow::Result<Round> {
    // More than any service here answers.
    let most = 40_000.0 * (options.warm_up() + options.slice()).as_secs_f64();
    ensure(load, most / number(DEVICES as u64))?;
    let broker = Broker::start(kind)?;
    let service = Responder::service(template, broker.port, folder)?;
    let plan = Plan {
        port: broker.port,
        warm_up: options.warm_up(),
        length: options.slice(),
        verify: true,
        broker: broker.id,
        responder: service.id(),
    };
    let limit = publisher::run(load, plan).with_context(|| service.tail())?;
    service.end()?;
    drop(broker);
    let rate = limit.per_s / 2.0;
    let length = options.slice() * 2;
    ensure(load, rate * length.as_secs_f64() / number(REPORTING as u64))?;
    let alone = side(template, load, kind, folder, (rate, length), false)?;
    let watched = side(template, load, kind, folder, (rate, length), true)?;
    Ok(Round {
        limit_per_s: limit.per_s,
        alone,
        watched,
        load: machine::load().values(),
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of reports"
)]
fn ensure(load: &mut Arc<Load>, each: f64) -> anyhow::Result<()> {
    Arc::get_mut(load)
        .context("publishers still hold their reports; report this")?
        .ensure(each as usize + 10)
}

fn side(
    template: &Template,
    load: &Arc<Load>,
    kind: &Kind,
    folder: &Path,
    (rate, length): (f64, Duration),
    watched: bool,
) -> anyhow::Result<Side> {
    let broker = Broker::start(kind)?;
    let service = Responder::service(template, broker.port, folder)?;
    let config = service.config().context("the service has no folder")?;
    let people = match watched {
        true => Some(People::start(&config)?),
        false => None,
    };
    let asking = template.devices.get(REPORTING..).unwrap_or_default();
    let port = broker.port;
    let (sent, grants) = thread::scope(|scope| {
        let asked = scope.spawn(|| latency::asked(template, asking, port, length, true));
        let sent = current_runtime()?.block_on(send(load, port, rate, length));
        let grants = asked.join().map_err(|_| anyhow!("the asker panicked"))?;
        anyhow::Ok((sent?, grants?))
    })
    .with_context(|| service.tail())?;
    let (wrote, left_out) = match people {
        Some(people) => people.end()?,
        None => (0, 0),
    };
    service.end()?;
    let mut grants = grants;
    Ok(Side {
        grants: grants.len(),
        grant: grants.spread(),
        watch_wrote: wrote,
        watch_left_out: left_out,
        ..sent
    })
}

/// `watch` with everything there is, and `top` on a terminal of its own.
struct People {
    watch: Child,
    top: std::process::Child,
}

impl People {
    fn start(config: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let ours = format!(
            "exec {BEHIND} {} {} --config {}",
            program.display(),
            child::CLOUD,
            config.display()
        );
        // To read what it prints would be work of ours, beside what is measured.
        let line = format!("{ours} watch >/dev/null");
        let watch = Child::start("watch", Command::new("sh").args(["-c", &line]))?;
        watch.wait_line(|line| line.contains("watching "), LIMIT)?;
        let line = format!("stty rows 40 cols 140; {ours} top --fleet fleet-0 --every 1");
        let top = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start script")?;
        Ok(Self { watch, top })
    }

    /// Both have to have been there to the end. What `watch` wrote in octets, and how many messages it left out.
    fn end(mut self) -> anyhow::Result<(u64, u64)> {
        let there = self.watch.exited()?.is_none() && self.top.try_wait()?.is_none();
        let wrote = machine::written(self.watch.id()).unwrap_or(0);
        let lines = self.watch.lines();
        let left_out = lines.iter().filter_map(|line| {
            let count = line.text.strip_suffix(LEFT_OUT)?;
            count.parse::<u64>().ok()
        });
        let left_out = left_out.sum();
        self.watch.kill9()?;
        self.top.kill()?;
        self.top.wait()?;
        if !there || wrote == 0 {
            bail!("nobody looked on: {}", self.watch.tail());
        }
        Ok((wrote, left_out))
    }
}

/// Sends reports at a rate, not minding the answers; then waits until each device's last one is answered.
async fn send(load: &Load, port: u16, rate: f64, length: Duration) -> anyhow::Result<Side> {
    let talks = load.talks().get(..REPORTING).unwrap_or_default();
    let (client, mut events) = connect("bench-hearing", port, INFLIGHT);
    subscribe(&client, &mut events, [ANSWERS.to_owned()]).await?;
    let mut connections = JoinSet::new();
    let publishers: Vec<AsyncClient> = (0..PUBLISHERS)
        .map(|number| {
            let (publisher, mut sending) = connect(&format!("bench-pace-{number}"), port, INFLIGHT);
            connections.spawn(async move { while sending.poll().await.is_ok() {} });
            publisher
        })
        .collect();
    let by_topic: HashMap<&[u8], usize> = talks
        .iter()
        .enumerate()
        .map(|(index, talk)| (talk.down.as_bytes(), index))
        .collect();
    let mut waits = vec![false; talks.len()];
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (began, mut sent) = (Instant::now(), 0_u64);
    let took = loop {
        tokio::select! {
            _ = ticks.tick() => {
                let passed = began.elapsed();
                if passed >= length {
                    break passed;
                }
                while number(sent) < rate * passed.as_secs_f64() {
                    let index = usize::try_from(sent)? % talks.len().max(1);
                    let place = usize::try_from(sent)? / talks.len().max(1);
                    let talk = talks.get(index).context("no device")?;
                    let message = talk.messages.get(place).context("a device ran out of reports")?;
                    let publisher = publishers.get(index % PUBLISHERS).context("no publisher")?;
                    publisher.try_publish(&talk.up, QoS::AtLeastOnce, false, message.clone())?;
                    if let Some(waits) = waits.get_mut(index) {
                        *waits = true;
                    }
                    sent += 1;
                }
            }
            event = events.poll() => heard(&event?, &by_topic, &mut waits),
        }
    };
    let waiting = waits.iter().filter(|waits| **waits).count() as u64;
    let ended = Instant::now();
    let drained = async {
        while waits.contains(&true) {
            heard(&next(&mut events, LIMIT).await?, &by_topic, &mut waits);
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, drained)
        .await
        .context("reports were never answered")??;
    Ok(Side {
        grant: Times::default().spread(),
        grants: 0,
        watch_wrote: 0,
        watch_left_out: 0,
        reports_per_s: ratio(number(sent), took.as_secs_f64()),
        waiting,
        drained_ms: ended.elapsed().as_secs_f64() * 1000.0,
    })
}

fn heard(event: &Event, by_topic: &HashMap<&[u8], usize>, waits: &mut [bool]) {
    if let Event::Incoming(Packet::Publish(publish)) = event
        && let Some(index) = by_topic.get(publish.topic.as_ref())
        && let Some(waits) = waits.get_mut(*index)
    {
        *waits = false;
    }
}

pub(super) fn table(figures: &Option<Figures>) -> String {
    let Some(figures) = figures else {
        return "\nOPERATE  not measured: mosquitto is not installed here".to_owned();
    };
    let row = |name: &str, spread: Spread, more: String| {
        format!(
            "{name:<40}   {:>8.1}   {:>8.1}   {:>8.1}{more}",
            spread.p50_ms, spread.p99_ms, spread.max_ms
        )
    };
    let mut lines = vec![
        format!("\nOPERATE  over {}", figures.broker),
        format!(
            "{:<40}   {:>8}   {:>8}   {:>8}",
            "", "p50 ms", "p99 ms", "max ms"
        ),
    ];
    if let Some(top_up) = figures.top_up {
        let more = format!("   {} top-ups; aim: under 1,000", figures.top_ups);
        lines.push(row("top-up command to traffic flowing again", top_up, more));
    }
    if let Some(half) = &figures.half {
        let waits = |waiting| format!("   {waiting:.0} of {REPORTING} devices waiting at the end");
        let rate = grouped(half.limit_per_s / 2.0);
        lines.push(row(
            &format!("grant at half the limit, {rate} reports/s"),
            half.alone,
            waits(half.waiting_alone),
        ));
        lines.push(row(
            "the same with `top` and one `watch`",
            half.watched,
            waits(half.waiting_watched),
        ));
        lines.push(format!(
            "{:<40}   {:>8.2}   {:>8.2}   aim: p99 at most 1.5",
            "with / without", half.ratio_p50, half.ratio_p99
        ));
        lines.push(format!(
            "`watch` wrote {} octets, and left out {} messages",
            grouped(half.watch_wrote),
            grouped(half.watch_left_out)
        ));
    }
    lines.join("\n")
}
