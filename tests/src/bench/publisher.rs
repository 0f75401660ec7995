//! Devices: they speak over a few connections and hear over one. A device sends its next report when the one before is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::load::Load;
use super::machine;
use crate::process::{LIMIT, await_fact};

/// Connections; each device belongs to one of them.
pub(super) const PUBLISHERS: usize = 8;
/// Packets that may wait to be written: more than there are devices.
pub(super) const QUEUE: usize = 100_000;
/// As many as the service has, and as the embedded broker lets.
const INFLIGHT: u16 = 100;
/// All answers to reports. A filter for each device would cost the brokers more than the messages do; and this one
/// is none of those for which the embedded broker's settings keep a small log.
const ANSWERS: &str = "csim/v1/+/+/down/usage";
const PACKET_OCTETS_MAX: u32 = 256 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Nothing came for so long: something is broken, or it is the end.
const SILENCE: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(3);
/// How often the first report is sent while nobody answers.
const KNOCK: Duration = Duration::from_millis(200);

/// A client of a broker on loopback, connected with the first poll.
pub(super) fn connect(id: &str, port: u16, inflight: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_receive_maximum(Some(1000))
        .set_max_packet_size(Some(PACKET_OCTETS_MAX))
        .set_outgoing_inflight_upper_limit(inflight);
    let mut network = options.network_options();
    // Without it a small packet waits for the acknowledgement of the one before: 88 ms a round trip.
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    AsyncClient::new(options, QUEUE)
}

pub(super) fn current_runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system gives no runtime: raise its limits")
}

/// Subscribes, and waits until that is granted.
pub(super) async fn subscribe(
    client: &AsyncClient,
    events: &mut EventLoop,
    topics: impl IntoIterator<Item = String>,
) -> anyhow::Result<()> {
    let filters = topics
        .into_iter()
        .map(|topic| Filter::new(topic, QoS::AtLeastOnce));
    client.try_subscribe_many(filters)?;
    loop {
        if let Event::Incoming(Packet::SubAck(_)) = next(events, SILENCE).await? {
            return Ok(());
        }
    }
}

/// The next thing that happens on a connection.
pub(super) async fn next(events: &mut EventLoop, within: Duration) -> anyhow::Result<Event> {
    let polled = timeout(within, events.poll()).await;
    polled
        .context("nothing came from the broker for a long time")?
        .context("the connection to the broker broke")
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) per_s: f64,
    /// Reports that nobody answered in the end.
    pub(super) unanswered: u64,
    /// Microseconds of processor time for each report.
    pub(super) responder_us: f64,
    pub(super) broker_us: f64,
    pub(super) publishers_us: f64,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) port: u16,
    pub(super) warm_up: Duration,
    pub(super) length: Duration,
    /// Answers are verified; without it reports may come again, and answers say nothing.
    pub(super) verify: bool,
    /// Process ids.
    pub(super) broker: u32,
    pub(super) responder: u32,
}

/// What the task that drives the devices and whoever measures share.
#[derive(Default)]
struct Shared {
    answered: AtomicU64,
    ready: AtomicBool,
    stop: AtomicBool,
    /// Devices that have nothing left to say.
    out_of_words: AtomicUsize,
}

/// Processor time taken so far by responder, broker and publishers.
fn cpu(plan: &Plan) -> [f64; 3] {
    [plan.responder, plan.broker, std::process::id()].map(machine::cpu_s)
}

/// Lets all devices talk, and measures in the middle.
pub(super) fn run(load: &Arc<Load>, plan: Plan) -> anyhow::Result<Run> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the system gives no runtime: raise its limits")?;
    let shared = Arc::new(Shared::default());
    let devices = Devices::new(load, &shared, plan);
    let task = runtime.spawn(devices.run());
    let ready = await_fact(LIMIT, "the first report to be answered", || {
        (task.is_finished() || shared.ready.load(Ordering::Acquire)).then_some(())
    });
    std::thread::sleep(plan.warm_up);
    let (began, answered, cpu_before) = (Instant::now(), count(&shared), cpu(&plan));
    std::thread::sleep(plan.length);
    let (lasted, answered) = (began.elapsed(), count(&shared).saturating_sub(answered));
    let cpu_after = cpu(&plan);
    let speechless = shared.out_of_words.load(Ordering::Acquire);
    shared.stop.store(true, Ordering::Release);
    let unanswered = runtime.block_on(task).context("a publisher panicked")??;
    ready?;
    if speechless > 0 {
        bail!("{speechless} devices ran out of reports; report this");
    }
    let answers = super::figures::number(answered);
    let [responder_us, broker_us, publishers_us] = [0, 1, 2].map(|index: usize| {
        let at = |times: &[f64; 3]| times.get(index).copied().unwrap_or(0.0);
        super::figures::ratio((at(&cpu_after) - at(&cpu_before)) * 1e6, answers)
    });
    Ok(Run {
        per_s: answers / lasted.as_secs_f64(),
        unanswered,
        responder_us,
        broker_us,
        publishers_us,
    })
}

/// Lets all devices say all that they have, with a report under way each; how many were answered, each verified.
///
/// # Errors
/// When a report is not answered, however long one waits, or an answer does not fit what was sent.
pub(super) fn exhaust(load: &Arc<Load>, plan: Plan) -> anyhow::Result<u64> {
    let shared = Arc::new(Shared::default());
    let devices = Devices::new(load, &shared, plan);
    let unanswered = current_runtime()?.block_on(devices.run())?;
    if unanswered > 0 {
        bail!("{unanswered} reports were never answered");
    }
    Ok(count(&shared))
}

fn count(shared: &Shared) -> u64 {
    shared.answered.load(Ordering::Acquire)
}

/// How far a device is.
#[derive(Default)]
struct Progress {
    sent: usize,
    waiting: bool,
    last: Option<Publish>,
}

/// All devices: they speak over several connections and hear over one.
struct Devices {
    load: Arc<Load>,
    shared: Arc<Shared>,
    plan: Plan,
    publishers: Vec<AsyncClient>,
    /// By number of the device.
    progress: Vec<Progress>,
    waiting: u64,
}

impl Devices {
    fn new(load: &Arc<Load>, shared: &Arc<Shared>, plan: Plan) -> Self {
        let progress = load.talks().iter().map(|_| Progress::default()).collect();
        Self {
            load: Arc::clone(load),
            shared: Arc::clone(shared),
            plan,
            publishers: Vec::new(),
            progress,
            waiting: 0,
        }
    }

    /// Runs until it is told to stop and everything is answered; how many reports were not.
    async fn run(mut self) -> anyhow::Result<u64> {
        let (client, mut events) = connect("bench-devices", self.plan.port, INFLIGHT);
        subscribe(&client, &mut events, [ANSWERS.to_owned()]).await?;
        let mut connections = JoinSet::new();
        for number in 0..PUBLISHERS {
            let id = format!("bench-publisher-{number}");
            let (publisher, mut sending) = connect(&id, self.plan.port, INFLIGHT);
            self.publishers.push(publisher);
            // When one breaks nothing is answered any more, and that is noticed.
            connections.spawn(async move { while sending.poll().await.is_ok() {} });
        }
        let load = Arc::clone(&self.load);
        let talks = load.talks().iter().enumerate();
        let by_topic: HashMap<&[u8], usize> = talks
            .map(|(index, talk)| (talk.down.as_bytes(), index))
            .collect();
        self.knock(&mut events).await?;
        self.shared.ready.store(true, Ordering::Release);
        // The first device was for knocking.
        for index in 1..load.talks().len() {
            self.say_next(index)?;
        }
        loop {
            let stop = self.shared.stop.load(Ordering::Acquire);
            // Nobody waits: they were told to stop, or have nothing left to say.
            if self.waiting == 0 {
                break;
            }
            let event = match next(&mut events, if stop { DRAIN } else { SILENCE }).await {
                Ok(event) => event,
                Err(_) if stop => break,
                Err(error) => {
                    return Err(error.context(format!("{} reports wait", self.waiting)));
                }
            };
            if let Event::Incoming(Packet::Publish(publish)) = event
                && let Some(index) = by_topic.get(publish.topic.as_ref())
                && self.answered(*index, publish)
                && !stop
            {
                self.say_next(*index)?;
            }
        }
        self.verify()?;
        Ok(self.waiting)
    }

    /// Sends the first device's first report again and again until it is answered: whoever answers is there then.
    async fn knock(&self, events: &mut EventLoop) -> anyhow::Result<()> {
        let talk = self.load.talks().first().context("there are no devices")?;
        let message = talk
            .messages
            .first()
            .context("there are no reports")?
            .clone();
        let publisher = self.publishers.first().context("there are no publishers")?;
        let (knocking, topic) = (publisher.clone(), talk.up.clone());
        let knocks = tokio::spawn(async move {
            loop {
                // If there is no room, then for the next one.
                let _ = knocking.try_publish(&topic, QoS::AtLeastOnce, false, message.clone());
                sleep(KNOCK).await;
            }
        });
        let answered = async {
            while !matches!(
                next(events, LIMIT).await?,
                Event::Incoming(Packet::Publish(_))
            ) {}
            anyhow::Ok(())
        };
        let answered = timeout(LIMIT, answered).await;
        knocks.abort();
        answered.context("nobody answers the first report")?
    }

    fn say_next(&mut self, index: usize) -> anyhow::Result<()> {
        let (Some(talk), Some(progress), Some(publisher)) = (
            self.load.talks().get(index),
            self.progress.get_mut(index),
            self.publishers.get(index % PUBLISHERS),
        ) else {
            return Ok(());
        };
        let place = match progress.sent.checked_rem(talk.messages.len()) {
            Some(place) if !self.plan.verify || place == progress.sent => place,
            _ => {
                self.shared.out_of_words.fetch_add(1, Ordering::AcqRel);
                return Ok(());
            }
        };
        let message = talk.messages.get(place).cloned().unwrap_or_default();
        publisher.try_publish(&talk.up, QoS::AtLeastOnce, false, message)?;
        progress.sent += 1;
        progress.waiting = true;
        self.waiting += 1;
        Ok(())
    }

    /// Takes an answer; false for one that nobody waits for.
    fn answered(&mut self, index: usize, publish: Publish) -> bool {
        let Some(progress) = self.progress.get_mut(index).filter(|p| p.waiting) else {
            return false;
        };
        progress.waiting = false;
        progress.last = Some(publish);
        self.waiting -= 1;
        self.shared.answered.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// What was answered is durable: each device's last acknowledgement says so.
    fn verify(&self) -> anyhow::Result<()> {
        if !self.plan.verify {
            return Ok(());
        }
        for (talk, progress) in self.load.talks().iter().zip(&self.progress) {
            let Some(last) = &progress.last else { continue };
            let answered = progress.sent - usize::from(progress.waiting);
            talk.verify(&last.payload, answered)?;
        }
        Ok(())
    }
}
