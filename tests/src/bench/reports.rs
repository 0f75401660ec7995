//! Usage reports a second, end to end: publishers, broker, service, acknowledgement.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use super::figures::{grouped, median, number, ratio};
use super::load::Load;
use super::options::Options;
use super::publisher::{self, PUBLISHERS, Plan, Run};
use super::stand::{Broker, Folder, Kind, Responder, Template};
use super::{machine, say};

const DEVICES: usize = 2_000;
/// Reports made up for each device before anything is known of the rate.
const FIRST: usize = 10;

/// One broker, over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    broker: &'static str,
    reports_per_s: f64,
    bare_per_s: f64,
    ratio: f64,
    unanswered: u64,
    report_octets: usize,
    service_us: f64,
    broker_us: f64,
    publishers_us: f64,
    bare_consumer_us: f64,
    bare_broker_us: f64,
    rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
struct Round {
    reports_per_s: f64,
    bare_per_s: f64,
    unanswered: u64,
    service_us: f64,
    broker_us: f64,
    publishers_us: f64,
    bare_consumer_us: f64,
    bare_broker_us: f64,
    load: Vec<serde_json::Value>,
}

pub(super) fn measure(options: &Options, folder: &Path) -> anyhow::Result<Vec<Figures>> {
    say(&format!("reports: making {DEVICES} devices …"));
    let template = Template::make(&folder.join("reports"), DEVICES)?;
    let mut load = Load::new(&template)?;
    load.ensure(FIRST)?;
    let mut load = Arc::new(load);
    let kinds: Vec<Kind> = [Some(Kind::Rumqttd), Kind::mosquitto("reports")]
        .into_iter()
        .flatten()
        .collect();
    let mut rounds: Vec<Vec<Round>> = kinds.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds() {
        for (kind, found) in kinds.iter().zip(&mut rounds) {
            say(&format!(
                "reports: round {round} of {}, {} (load {}) …",
                options.rounds(),
                kind.name(),
                machine::load()
            ));
            found.push(one_round(options, folder, &template, &mut load, kind)?);
        }
    }
    let octets = load.report_octets();
    Ok(kinds
        .iter()
        .zip(rounds)
        .map(|(kind, rounds)| summed(kind, octets, rounds))
        .collect())
}

/// All devices have a report under way at a time, until each was answered so many: nobody waits for ever.
pub(super) fn flood(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let flood = Flood::try_parse_from(args)?;
    let kind = match flood.over {
        Over::Rumqttd => Kind::Rumqttd,
        Over::Mosquitto => Kind::mosquitto("the flood").context("mosquitto is not installed")?,
    };
    let folder = Folder::make(None)?;
    let template = Template::make(&folder.path().join("flood"), flood.devices)?;
    let mut load = Load::new(&template)?;
    load.ensure(flood.reports)?;
    let broker = Broker::start(&kind)?;
    let service = Responder::service(&template, broker.port, folder.path())?;
    let still = Plan {
        port: broker.port,
        warm_up: Duration::ZERO,
        length: Duration::ZERO,
        verify: true,
        broker: broker.id,
        responder: service.id(),
    };
    let answered = publisher::exhaust(&Arc::new(load), still)
        .with_context(|| format!("over {}; {}", kind.name(), service.tail()))?;
    service.end()?;
    say(&format!("{answered} reports answered"));
    Ok(())
}

/// How the flood is started; a test does that.
#[derive(Debug, Parser)]
struct Flood {
    /// Over which broker.
    #[arg(long)]
    over: Over,
    /// How many devices have a report under way.
    #[arg(long)]
    devices: usize,
    /// How many each has to say.
    #[arg(long)]
    reports: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Over {
    Rumqttd,
    Mosquitto,
}

/// The bare consumer, then the service, each on a broker of its own.
fn one_round(
    options: &Options,
    folder: &Path,
    template: &Template,
    load: &mut Arc<Load>,
    kind: &Kind,
) -> anyhow::Result<Round> {
    let broker = Broker::start(kind)?;
    let bare = Responder::echo(broker.port, "usage", load.answer_octets()?, false)?;
    let null = publisher::run(load, plan(options, &broker, &bare, false))
        .with_context(|| format!("the bare consumer over {}; {}", kind.name(), bare.tail()))?;
    bare.end()?;
    drop(broker);

    // The bare consumer is the limit, so more than it took is enough.
    let expected = null.per_s * (options.warm_up() + options.slice()).as_secs_f64();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of reports"
    )]
    let each = (expected * 1.5 / number(DEVICES as u64)) as usize + 50;
    Arc::get_mut(load)
        .context("publishers still hold their reports; report this")?
        .ensure(each)?;

    let broker = Broker::start(kind)?;
    let service = Responder::service(template, broker.port, folder)?;
    let real = publisher::run(load, plan(options, &broker, &service, true))
        .with_context(|| format!("the service over {}; {}", kind.name(), service.tail()))?;
    service.end()?;
    Ok(joined(null, real))
}

fn plan(options: &Options, broker: &Broker, responder: &Responder, verify: bool) -> Plan {
    Plan {
        port: broker.port,
        warm_up: options.warm_up(),
        length: options.slice(),
        verify,
        broker: broker.id,
        responder: responder.id(),
    }
}

fn joined(null: Run, real: Run) -> Round {
    Round {
        reports_per_s: real.per_s,
        bare_per_s: null.per_s,
        unanswered: real.unanswered,
        service_us: real.responder_us,
        broker_us: real.broker_us,
        publishers_us: real.publishers_us,
        bare_consumer_us: null.responder_us,
        bare_broker_us: null.broker_us,
        load: machine::load().values(),
    }
}

fn summed(kind: &Kind, report_octets: usize, rounds: Vec<Round>) -> Figures {
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    Figures {
        broker: kind.name(),
        reports_per_s: of(|round| round.reports_per_s),
        bare_per_s: of(|round| round.bare_per_s),
        ratio: of(|round| ratio(round.reports_per_s, round.bare_per_s)),
        unanswered: rounds.iter().map(|round| round.unanswered).sum(),
        report_octets,
        service_us: of(|round| round.service_us),
        broker_us: of(|round| round.broker_us),
        publishers_us: of(|round| round.publishers_us),
        bare_consumer_us: of(|round| round.bare_consumer_us),
        bare_broker_us: of(|round| round.bare_broker_us),
        rounds,
    }
}

pub(super) fn table(figures: &[Figures]) -> String {
    let octets = figures.first().map_or(0, |figures| figures.report_octets);
    let mut text = format!(
        "\nREPORTS  {PUBLISHERS} publishers, {} devices with 1 report of 10 samples ({octets} octets) under way each; QoS 1 both ways\n\
         broker      reports/s   bare consumer/s   ratio   processor us/report: service / broker / publishers   bare: consumer / broker   unanswered\n",
        grouped(number(DEVICES as u64)),
    );
    for row in figures {
        let times = format!(
            "{:.1} / {:.1} / {:.1}",
            row.service_us, row.broker_us, row.publishers_us
        );
        let bare = format!("{:.1} / {:.1}", row.bare_consumer_us, row.bare_broker_us);
        let _ = writeln!(
            text,
            "{:<9}   {:>9}   {:>15}   {:>5.3}   {times:>52}   {bare:>23}   {:>10}",
            row.broker,
            grouped(row.reports_per_s),
            grouped(row.bare_per_s),
            row.ratio,
            row.unanswered,
        );
    }
    text.trim_end().to_owned()
}
