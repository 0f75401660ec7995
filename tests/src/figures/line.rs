//! End to end: devices made by hand, a real broker, the real service as a process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde_json::{Value, json};
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::ids::{DeviceId, Iccid, Text, ZoneId};
use simquota_shared::message::{
    CreditAnswer, CreditRequest, Kind, Reason, RegisterAnswer, RegisterRequest, UsageAck,
    UsageBatch,
};
use simquota_shared::topic::{Topic, Up};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq};

use super::{ROUNDS, folder, median, quantile};
use crate::broker::Broker;
use crate::process::{Child, LIMIT};

const PUBLISHERS: usize = 8;
const ROWS: usize = 10;
const WINDOW: u64 = 50;

const CLOUD: &str = "data = \"cloud\"\n[broker]\nhost = \"127.0.0.1\"\nport = PORT\n[limits]\nsender_per_s = 1000000\nsender_burst = 1000000\nall_per_s = 10000000\n";

/// The service with what the devices need.
struct Service {
    folder: tempfile::TempDir,
    child: Child,
}

impl Service {
    fn start(broker: &dyn Broker) -> anyhow::Result<Self> {
        let folder = folder()?;
        let config = folder.path().join("cloud.toml");
        std::fs::write(&config, CLOUD.replace("PORT", &broker.port().to_string()))?;
        command(folder.path(), &["init"])?;
        let mut serve = itself(folder.path())?;
        let child = Child::start("cloud", serve.arg("serve"))?;
        let sims: String = (0..32)
            .map(|n| format!("89883030{n:011},90128{n:010},o,home,iot\n"))
            .collect();
        let csv = folder.path().join("sims.csv");
        std::fs::write(&csv, format!("iccid,imsi,operator,zones,apn\n{sims}"))?;
        command(folder.path(), &["fleet", "create", "f"])?;
        command(folder.path(), &["sim", "import", &csv.to_string_lossy()])?;
        command(
            folder.path(),
            &["enrol", "batch", "create", "b", "--fleet", "f"],
        )?;
        command(
            folder.path(),
            &["package", "buy", "--fleet", "f", "--volume", "1000GB"],
        )?;
        Ok(Self { folder, child })
    }

    fn device(&self, id: &str) -> anyhow::Result<Hand> {
        let printed = command(self.folder.path(), &["enrol", id, "--batch", "b"])?;
        let mut parts = printed.trim().split(':').skip(1);
        let id = parts.next().context("an enrolment string")?;
        let key = parts.nth(1).context("a key in the enrolment string")?;
        Ok(Hand {
            id: id.parse().map_err(|_| anyhow!("'{id}' is not an id"))?,
            key: Key::from_hex(key)?,
        })
    }
}

fn itself(folder: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["cloud", "--config"])
        .arg(folder.join("cloud.toml"))
        .env("RUST_LOG", "warn");
    Ok(command)
}

fn command(folder: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = itself(folder)?.args(args).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "simquota-cloud {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A device made by hand.
struct Hand {
    id: DeviceId,
    key: Key,
}

impl Hand {
    fn sealed<T: serde::Serialize>(
        &self,
        up: Up,
        message: &T,
    ) -> anyhow::Result<(String, Vec<u8>)> {
        let topic = Topic::Up(self.id.clone(), up).to_string();
        let octets = seal(&self.key, &Kid::first(&"b"), &topic, &encode(message)?)?;
        Ok((topic, octets))
    }

    fn opened<T: serde::de::DeserializeOwned>(&self, publish: &Publish) -> Option<T> {
        let topic = std::str::from_utf8(&publish.topic).ok()?;
        let received = Received::parse(&publish.payload).ok()?;
        decode(received.verify(&self.key, topic).ok()?).ok()
    }
}

/// A connection, driven by whoever waits on it.
struct Line {
    client: AsyncClient,
    events: EventLoop,
}

impl Line {
    async fn connect(
        broker: &dyn Broker,
        id: &str,
        filter: &str,
        manual: bool,
    ) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new(id, "127.0.0.1", broker.port());
        options
            .set_clean_start(true)
            .set_max_packet_size(Some(1 << 20))
            .set_outgoing_inflight_upper_limit(100)
            .set_receive_maximum(Some(1000))
            .set_manual_acks(manual);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, events) = AsyncClient::new(options, 4096);
        client.try_subscribe(filter, QoS::AtLeastOnce)?;
        let mut line = Self { client, events };
        line.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            .await?;
        Ok(line)
    }

    async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(&Packet) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + 4 * LIMIT;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.poll())
                .await
                .context("nothing came")??;
            if let Event::Incoming(packet) = &event
                && let Some(found) = wanted(packet)
            {
                return Ok(found);
            }
        }
    }

    fn send(&self, (topic, octets): (String, Vec<u8>)) -> anyhow::Result<()> {
        Ok(self
            .client
            .try_publish(topic, QoS::AtLeastOnce, false, octets)?)
    }
}

async fn register(line: &mut Line, hand: &Hand) -> anyhow::Result<Iccid> {
    let request = RegisterRequest {
        epoch: Epoch(1),
        boot: Boot(1),
        serial: Text::clipped("s"),
        model: Text::clipped("m"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: None,
        closes: None,
    };
    line.send(hand.sealed(Up::Register, &request)?)?;
    let answer: RegisterAnswer = line
        .until(|packet| match packet {
            Packet::Publish(publish) => hand.opened(publish),
            _ => None,
        })
        .await?;
    Ok(answer.sim.context("the pool has no SIM")?.iccid)
}

/// Batch `n` of a device, ten samples.
fn batch(iccid: &Iccid, n: u64) -> UsageBatch {
    let rows = ROWS as u64;
    UsageBatch {
        epoch: Epoch(1),
        boot: Boot(1),
        iccid: iccid.clone(),
        zone: ZoneId::home(),
        first: Seq(n * rows + 1),
        clock: 1,
        t0: 1_800_000_000 + n * 600,
        interval_s: 60,
        total: Octets((n + 1) * rows * 1000),
        dt: vec![0; ROWS - 1],
        up: vec![300; ROWS],
        down: vec![700; ROWS],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    }
}

/// Sends batches within a window; `settled` says from an answer how many are.
async fn publish(
    line: &mut Line,
    hand: &Hand,
    iccid: &Iccid,
    (from, count): (u64, u64),
    settled: impl Fn(&Publish) -> Option<u64>,
) -> anyhow::Result<()> {
    let (mut sent, mut done) = (from, from);
    while done < from + count {
        while sent < from + count && sent - done < WINDOW {
            line.send(hand.sealed(Up::Usage, &batch(iccid, sent))?)?;
            sent += 1;
        }
        let now = line
            .until(|packet| match packet {
                Packet::Publish(publish) => settled(publish),
                _ => None,
            })
            .await?;
        done = done.max(now);
    }
    Ok(())
}

/// Reports a second, beside a consumer that only acknowledges and answers.
pub(super) fn reports(broker: &dyn Broker, batches: u64) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    eprintln!(
        "reports over {}: {PUBLISHERS} devices, {batches} batches of {ROWS} samples each a round …",
        broker.name()
    );
    let service = Service::start(broker)?;
    let hands: Vec<Hand> = (0..PUBLISHERS)
        .map(|n| service.device(&format!("p-{n}")))
        .collect::<anyhow::Result<_>>()?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut iccids = Vec::new();
    for hand in &hands {
        let filter = format!("csim/v1/d/{}/down/+", hand.id);
        iccids.push(runtime.block_on(async {
            let mut line = Line::connect(broker, &format!("r-{}", hand.id), &filter, false).await?;
            register(&mut line, hand).await
        })?);
    }
    for round in 0..ROUNDS as u64 {
        let from = round * batches;
        ours.push(runtime.block_on(rate(
            broker,
            &hands,
            &iccids,
            (from, batches),
            "down/usage",
            |hand, publish| {
                hand.opened::<UsageAck>(publish)
                    .map(|ack| ack.mark.value() / ROWS as u64)
            },
        ))?);
        let stop = runtime.block_on(answering(broker))?;
        bare.push(runtime.block_on(rate(
            broker,
            &hands,
            &iccids,
            (from, batches),
            "bare",
            |_, publish| {
                let seen: u64 = std::str::from_utf8(&publish.payload).ok()?.parse().ok()?;
                Some(from + seen)
            },
        ))?);
        stop.abort();
    }
    service.child.assert_no_errors(&[]);
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "\nREPORTS over {}: a second, each {ROWS} samples, durable and acknowledged",
        broker.name()
    );
    println!(
        "  ours {ours:.0}, a consumer that only answers {bare:.0}, ratio {:.2}",
        ours / bare
    );
    Ok(json!({"reports_per_s": ours, "bare_per_s": bare}))
}

async fn rate(
    broker: &dyn Broker,
    hands: &[Hand],
    iccids: &[Iccid],
    (from, count): (u64, u64),
    answers: &str,
    settled: impl Fn(&Hand, &Publish) -> Option<u64> + Copy,
) -> anyhow::Result<f64> {
    let mut lines = Vec::new();
    for hand in hands {
        let filter = format!("csim/v1/d/{}/{answers}", hand.id);
        lines.push(
            Line::connect(
                broker,
                &format!("{answers}-{}", hand.id).replace('/', "-"),
                &filter,
                false,
            )
            .await?,
        );
    }
    let began = Instant::now();
    let work = lines
        .iter_mut()
        .zip(hands)
        .zip(iccids)
        .map(|((line, hand), iccid)| {
            publish(line, hand, iccid, (from, count), move |publish| {
                settled(hand, publish)
            })
        });
    join_all(work).await?;
    Ok(hands.len() as f64 * count as f64 / began.elapsed().as_secs_f64())
}

/// Runs all to their end, on one task: the devices are not what is measured.
async fn join_all(
    work: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>,
) -> anyhow::Result<()> {
    let mut work: Vec<_> = work.map(Box::pin).collect();
    std::future::poll_fn(move |context| {
        let mut failed = None;
        work.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if work.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

/// A consumer that counts, answers and acknowledges, and does nothing else.
async fn answering(broker: &dyn Broker) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut line = Line::connect(broker, "bare-consumer", "csim/v1/d/+/up/usage", true).await?;
    Ok(tokio::spawn(async move {
        let mut seen = std::collections::BTreeMap::<Vec<u8>, u64>::new();
        while let Ok(event) = line.events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let count = seen.entry(publish.topic.to_vec()).or_default();
                *count += 1;
                let topic = String::from_utf8_lossy(&publish.topic).replace("up/usage", "bare");
                // A full channel would be waited on by the task that empties it: both are bounded by the window.
                let _ = line
                    .client
                    .try_publish(topic, QoS::AtLeastOnce, false, count.to_string());
                let _ = line.client.try_ack(&publish);
            }
        }
    }))
}

/// Milliseconds from a credit request to its answer, beside an echo and a bare fdatasync.
pub(super) fn latency(broker: &dyn Broker, asked: u64) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    eprintln!("latency over {}: {asked} requests a round …", broker.name());
    let service = Service::start(broker)?;
    let hand = service.device("asker")?;
    let (mut ours, mut echo, mut sync) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        runtime.block_on(grants(broker, &hand, round * asked, asked, &mut ours))?;
        runtime.block_on(echoes(broker, asked, &mut echo))?;
        fdatasyncs(service.folder.path(), asked, &mut sync)?;
    }
    service.child.assert_no_errors(&[]);
    println!(
        "\nGRANT LATENCY over {}, milliseconds, one at a time",
        broker.name()
    );
    let mut rows = Vec::new();
    for (name, values) in [
        ("grant", &mut ours),
        ("echo", &mut echo),
        ("fdatasync", &mut sync),
    ] {
        let (p50, p99) = (quantile(values, 500), quantile(values, 990));
        println!("  {name:<10} p50 {p50:>7.3}   p99 {p99:>7.3}");
        rows.push(json!({"what": name, "p50_ms": p50, "p99_ms": p99}));
    }
    Ok(Value::Array(rows))
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

async fn grants(
    broker: &dyn Broker,
    hand: &Hand,
    from: u64,
    asked: u64,
    times: &mut Vec<f64>,
) -> anyhow::Result<()> {
    let mut line = Line::connect(
        broker,
        "asker",
        &format!("csim/v1/d/{}/down/+", hand.id),
        false,
    )
    .await?;
    register(&mut line, hand).await?;
    for number in from + 1..=from + asked {
        let request = CreditRequest {
            epoch: Epoch(1),
            number: RequestNumber(number),
            kind: if number == 1 {
                Kind::Initial
            } else {
                Kind::Update
            },
            used: Octets(0),
            want: Octets(100_000),
            reason: Reason::THRESHOLD,
            zone: ZoneId::home(),
            held: None,
        };
        let sealed = hand.sealed(Up::Credit, &request)?;
        let began = Instant::now();
        line.send(sealed)?;
        line.until(|packet| match packet {
            Packet::Publish(publish) => hand
                .opened::<CreditAnswer>(publish)
                .filter(|answer| answer.number == request.number && answer.code.is_success()),
            _ => None,
        })
        .await?;
        times.push(ms(began));
    }
    Ok(())
}

async fn echoes(broker: &dyn Broker, asked: u64, times: &mut Vec<f64>) -> anyhow::Result<()> {
    let mut echo = Line::connect(broker, "echo", "bench/ask", false).await?;
    let answering = tokio::spawn(async move {
        while let Ok(event) = echo.events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let _ = echo.client.try_publish(
                    "bench/answer",
                    QoS::AtLeastOnce,
                    false,
                    publish.payload,
                );
            }
        }
    });
    let mut line = Line::connect(broker, "echo-asker", "bench/answer", false).await?;
    for _ in 0..asked {
        let began = Instant::now();
        line.send(("bench/ask".to_owned(), vec![0; 60]))?;
        line.until(|packet| matches!(packet, Packet::Publish(_)).then_some(()))
            .await?;
        times.push(ms(began));
    }
    answering.abort();
    Ok(())
}

fn fdatasyncs(folder: &Path, asked: u64, times: &mut Vec<f64>) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(folder.join("sync"))?;
    let began = Instant::now();
    for _ in 0..asked {
        let one = Instant::now();
        file.write_all(&[0; 240])?;
        file.sync_data()?;
        times.push(ms(one));
        if began.elapsed() > Duration::from_secs(30) {
            break;
        }
    }
    Ok(())
}
