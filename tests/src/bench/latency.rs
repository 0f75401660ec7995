//! From a request for quota to its answer, one at a time, over mosquitto: the embedded broker delays small packets.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use serde::Serialize;
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Received, seal};
use simquota_shared::message::{CreditAnswer, CreditRequest};
use simquota_shared::topic::{Down, Topic, Up};
use simquota_shared::units::{Octets, Push, UnixMillis};
use tokio::time::timeout;

use super::figures::{Spread, Times, ratio};
use super::load::key_of;
use super::options::Options;
use super::publisher::{connect, current_runtime, next, subscribe};
use super::stand::{Broker, Kind, Responder, Template};
use super::world::Device;
use super::{append, machine, say};
use crate::process::LIMIT;

/// They take turns, so that each has time between its requests.
const DEVICES: usize = 1_000;
/// An answer is awaited so long before the first request is sent again.
const KNOCK: Duration = Duration::from_millis(300);
/// Requests that are not counted.
const FIRST: usize = 50;
const INFLIGHT: u16 = 100;

/// All rounds.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    broker: &'static str,
    grant: Spread,
    echo: Spread,
    fdatasync: Spread,
    /// Grant beside echo and fdatasync together.
    ratio_p50: f64,
    ratio_p99: f64,
    samples: usize,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
struct Round {
    grant: Spread,
    echo: Spread,
    fdatasync: Spread,
    samples: usize,
    load: Vec<serde_json::Value>,
}

pub(super) fn measure(options: &Options, folder: &Path) -> anyhow::Result<Option<Figures>> {
    let Some(kind) = Kind::mosquitto("latency") else {
        return Ok(None);
    };
    say(&format!("latency: making {DEVICES} devices …"));
    let template = Template::make(&folder.join("latency"), DEVICES)?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds() {
        say(&format!(
            "latency: round {round} of {} (load {}) …",
            options.rounds(),
            machine::load()
        ));
        rounds.push(one_round(options, folder, &template, &kind)?);
    }
    let all =
        |value: fn(&Round) -> Spread| Spread::median(&rounds.iter().map(value).collect::<Vec<_>>());
    let (grant, echo, fdatasync) = (
        all(|round| round.grant),
        all(|round| round.echo),
        all(|round| round.fdatasync),
    );
    Ok(Some(Figures {
        broker: kind.name(),
        grant,
        echo,
        fdatasync,
        ratio_p50: ratio(grant.p50_ms, echo.p50_ms + fdatasync.p50_ms),
        ratio_p99: ratio(grant.p99_ms, echo.p99_ms + fdatasync.p99_ms),
        samples: rounds.iter().map(|round| round.samples).sum(),
        rounds,
    }))
}

fn one_round(
    options: &Options,
    folder: &Path,
    template: &Template,
    kind: &Kind,
) -> anyhow::Result<Round> {
    let mut fdatasync = append::measure(folder, template.grant_octets, options.slice() / 2)?;

    let broker = Broker::start(kind)?;
    let echo = Responder::echo(broker.port, "credit", answer_octets(template)?, true)?;
    let mut null = asked(
        template,
        &template.devices,
        broker.port,
        options.slice(),
        false,
    )
    .with_context(|| format!("the echo; {}", echo.tail()))?;
    echo.end()?;
    drop(broker);

    let broker = Broker::start(kind)?;
    let service = Responder::service(template, broker.port, folder)?;
    let mut real = asked(
        template,
        &template.devices,
        broker.port,
        options.slice(),
        true,
    )
    .with_context(|| format!("the service; {}", service.tail()))?;
    service.end()?;
    Ok(Round {
        samples: real.len(),
        grant: real.spread(),
        echo: null.spread(),
        fdatasync: fdatasync.spread(),
        load: machine::load().values(),
    })
}

/// Octets of an answer as the service would say it.
fn answer_octets(template: &Template) -> anyhow::Result<usize> {
    let device = template.devices.first().context("there are no devices")?;
    let answer = CreditAnswer {
        epoch: device.clone().update().epoch,
        number: device.clone().update().number,
        push: Push::ZERO,
        code: Code::SUCCESS,
        ceiling: Octets(70_000_000),
        stop: Octets(70_065_536),
        decided: UnixMillis(1_800_000_000_000),
        valid_until: Some(UnixMillis(1_800_003_600_000)),
        renew_below: Octets(14_000_000),
        final_unit: None,
        silence_s: 0,
        hold_s: 0,
        balance: Octets(1_000_000_000_000_000),
        retry_s: None,
    };
    let topic = Topic::Down(device.id.clone(), Down::Credit).to_string();
    let key = key_of(template, device)?;
    Ok(seal(&key, &device.kid, &topic, &codec::encode(&answer)?)?.len())
}

/// One request after the other for so long; how long each took.
pub(super) fn asked(
    template: &Template,
    devices: &[Device],
    port: u16,
    length: Duration,
    verify: bool,
) -> anyhow::Result<Times> {
    current_runtime()?.block_on(async {
        let (client, mut events) = connect("bench-asker", port, INFLIGHT);
        let mut askers = devices
            .iter()
            .map(|device| Asker::new(template, device))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let topics: Vec<String> = askers.iter().map(|asker| asker.down.clone()).collect();
        subscribe(&client, &mut events, topics).await?;
        let mut times = Times::default();
        let mut began = Instant::now();
        for index in (0..askers.len()).cycle().skip(1).enumerate() {
            let (count, index) = index;
            let Some(asker) = askers.get_mut(index) else {
                break;
            };
            if count == FIRST {
                began = Instant::now();
            }
            if count > FIRST && began.elapsed() >= length {
                break;
            }
            let took = asker.ask(&client, &mut events, verify, count == 0).await?;
            if count >= FIRST {
                times.push(took);
            }
        }
        Ok(times)
    })
}

/// A device that asks for more, again and again.
pub(super) struct Asker {
    pub(super) device: Device,
    pub(super) key: Key,
    pub(super) up: String,
    pub(super) down: String,
}

impl Asker {
    pub(super) fn new(template: &Template, device: &Device) -> anyhow::Result<Asker> {
        Ok(Asker {
            key: key_of(template, device)?,
            up: Topic::Up(device.id.clone(), Up::Credit).to_string(),
            down: Topic::Down(device.id.clone(), Down::Credit).to_string(),
            device: device.clone(),
        })
    }

    /// Asks and waits; how long the answer took. `knock`: nobody may be there yet, so it is sent again.
    async fn ask(
        &mut self,
        client: &AsyncClient,
        events: &mut EventLoop,
        verify: bool,
        knock: bool,
    ) -> anyhow::Result<Duration> {
        let request = self.device.update();
        let body = codec::encode(&request)?;
        let message = seal(&self.key, &self.device.kid, &self.up, &body)?;
        let began = Instant::now();
        client.try_publish(&self.up, QoS::AtLeastOnce, false, message.clone())?;
        let answer = loop {
            let answer = answer(events, &self.down);
            if !knock {
                break timeout(LIMIT, answer).await.context("no answer")??;
            }
            match timeout(KNOCK, answer).await {
                Ok(answer) => break answer?,
                Err(_) if began.elapsed() > LIMIT => bail!("nobody answers"),
                Err(_) => {
                    client.try_publish(&self.up, QoS::AtLeastOnce, false, message.clone())?;
                }
            }
        };
        let took = began.elapsed();
        if verify {
            self.check(&request, &answer)?;
        }
        Ok(took)
    }

    pub(super) fn check(&self, request: &CreditRequest, answer: &Publish) -> anyhow::Result<()> {
        let received = Received::parse(&answer.payload)?;
        let answer: CreditAnswer = codec::decode(received.verify(&self.key, &self.down)?)?;
        if answer.code.is_success() && answer.number == request.number {
            return Ok(());
        }
        bail!(
            "{} asked with number {} and was answered {} for {}",
            self.device.id,
            request.number,
            answer.code.0,
            answer.number
        )
    }
}

/// The next message on a topic.
pub(super) async fn answer(events: &mut EventLoop, topic: &str) -> anyhow::Result<Publish> {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = next(events, LIMIT).await?
            && publish.topic == topic.as_bytes()
        {
            return Ok(publish);
        }
    }
}

pub(super) fn table(figures: &Option<Figures>) -> String {
    let Some(figures) = figures else {
        return "\nLATENCY  not measured: mosquitto is not installed here".to_owned();
    };
    let row = |name: &str, spread: Spread| {
        format!(
            "{name:<27}   {:>8.3}   {:>8.3}   {:>8.1}",
            spread.p50_ms, spread.p99_ms, spread.max_ms
        )
    };
    [
        format!(
            "\nLATENCY  one request for quota at a time over {}, {} requests",
            figures.broker, figures.samples
        ),
        format!(
            "{:<27}   {:>8}   {:>8}   {:>8}",
            "", "p50 ms", "p99 ms", "max ms"
        ),
        row("grant, request to answer", figures.grant),
        row("echo", figures.echo),
        row("append and fdatasync", figures.fdatasync),
        format!(
            "{:<27}   {:>8.2}   {:>8.2}",
            "grant / (echo + fdatasync)", figures.ratio_p50, figures.ratio_p99
        ),
    ]
    .join("\n")
}
