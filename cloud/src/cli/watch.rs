//! `watch`: what goes over the broker, verified with the keys at hand, decoded, one line for each message.
//!
//! What no key here can tell is shown as unverified, not as refused. The watcher acknowledges whatever comes at once,
//! on a thread of its own: when nobody reads its output it leaves messages out, and says how many. It slows nobody.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{TrySendError, sync_channel};

use anyhow::bail;
use clap::Args;
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::topic::PREFIX;

use super::ask::{Asker, Connection};
use super::{Common, show};
use crate::io::clock;
use crate::io::mqtt::{Deadline, Delivery, MqttEvent};

pub(super) mod decode;
mod notation;

use decode::{Reader, Seen, Verdict};

/// Messages that wait to be printed. What comes beyond is left out.
const WAITING_MAX: usize = 10_000;
/// How long an acknowledgement may wait for a place; there is always one on a line that publishes nothing.
const ACKNOWLEDGE_MS: u64 = 1000;

pub(super) const EXAMPLES: &str = "\
Examples:
  simquota-cloud watch                               everything (the broker has to let this key see it)
  simquota-cloud watch --device tracker-1 --diag     payloads in CBOR's diagnostic notation
  simquota-cloud watch --fleet acme --json           a JSON object in each line
  simquota-cloud watch --topic 'ops/rejected'        what the service refused, and why";

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// What concerns this fleet: commands, answers, events
    #[arg(long, conflicts_with_all = ["device", "topic"])]
    fleet: Option<FleetId>,
    /// What concerns this device
    #[arg(long, conflicts_with = "topic")]
    device: Option<DeviceId>,
    /// What this filter lets through, with or without csim/v1/ before it
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
    /// Print the octets as they came, in hexadecimal
    #[arg(long, conflicts_with = "diag")]
    raw: bool,
    /// Print payloads in CBOR's diagnostic notation (RFC 8949, 8)
    #[arg(long)]
    diag: bool,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How a payload is shown.
#[derive(Clone, Copy)]
enum Form {
    Words,
    Raw,
    Diag,
    Json,
}

fn filter(watch: &WatchArgs) -> String {
    match (&watch.fleet, &watch.device, &watch.topic) {
        (Some(fleet), _, _) => format!("{PREFIX}f/{fleet}/#"),
        (_, Some(device), _) => format!("{PREFIX}d/{device}/#"),
        (_, _, Some(topic)) if topic.starts_with(PREFIX) => topic.clone(),
        (_, _, Some(topic)) => format!("{PREFIX}{topic}"),
        (None, None, None) => format!("{PREFIX}#"),
    }
}

pub(super) fn run(common: &Common, watch: &WatchArgs) -> anyhow::Result<()> {
    let asker = Asker::open(common)?;
    let form = match (watch.raw, watch.diag, common.json) {
        (true, _, _) => Form::Raw,
        (_, true, _) => Form::Diag,
        (_, _, true) => Form::Json,
        _ => Form::Words,
    };
    let filter = filter(watch);
    let broker = format!("{}:{}", asker.config.broker.host, asker.config.broker.port);
    let connection = asker.subscribe(vec![filter.clone()])?;
    let mut reader = Reader::new(asker);
    let left_out = Arc::new(AtomicU64::new(0));
    let (shown, waiting) = sync_channel::<anyhow::Result<Delivery>>(WAITING_MAX);
    let left = Arc::clone(&left_out);
    let said = filter.clone();
    std::thread::spawn(move || {
        let refused = listen(&connection, &broker, &said, |delivery| {
            match shown.try_send(Ok(delivery)) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    left.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
        if let Err(error) = refused {
            drop(shown.send(Err(error)));
        }
    });
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stdout().is_terminal() && !no_colour;
    let mut printed = 0_u64;
    let mut told = 0_u64;
    for delivery in waiting {
        let seen = reader.read(&delivery?);
        let mut out = io::stdout().lock();
        let line = line(&seen, form, colours);
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        printed = printed.saturating_add(1);
        let missing = left_out.load(Ordering::Relaxed);
        if missing > told {
            eprintln!(
                "{} messages were left out: the output is read too slowly",
                missing - told
            );
            told = missing;
        }
        if watch.count.is_some_and(|count| printed >= count) {
            return Ok(());
        }
    }
    Ok(())
}

/// Acknowledges and hands on, until nobody wants more or the broker refuses.
fn listen(
    connection: &Connection,
    broker: &str,
    filter: &str,
    mut show: impl FnMut(Delivery) -> bool,
) -> anyhow::Result<()> {
    for event in &connection.events {
        match event {
            MqttEvent::Message(delivery) => {
                let deadline = Deadline::within_ms(ACKNOWLEDGE_MS);
                connection.line.acknowledge(&delivery, deadline);
                if !show(delivery) {
                    return Ok(());
                }
            }
            MqttEvent::Connected { .. } => eprintln!("watching {filter} on {broker}"),
            MqttEvent::Disconnected { reason, .. } => {
                eprintln!("no connection to {broker} ({reason}): trying again");
            }
            MqttEvent::SubscribeRefused { filter, reason } => bail!(
                "the broker {broker} refuses the subscription {filter} ({reason}): watch less, or name another key with --key"
            ),
            MqttEvent::PublishRefused { .. } => {}
            MqttEvent::Closed => return Ok(()),
        }
    }
    Ok(())
}

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";

fn line(seen: &Seen, form: Form, colours: bool) -> String {
    let Seen {
        topic,
        kid,
        verdict,
        message,
        payload,
        words,
    } = seen;
    let kid = kid.as_deref().unwrap_or("-");
    if let Form::Json = form {
        let (word, why) = match verdict {
            Verdict::Verified => ("verified", None),
            Verdict::Unverified(why) => ("unverified", Some(why)),
            Verdict::Refused(why) => ("refused", Some(why)),
        };
        let decoded = serde_cbor::from_slice::<Value>(payload).ok();
        let json = serde_json::json!({
            "at": clock::now().value(),
            "topic": topic,
            "kid": kid,
            "verdict": word,
            "why": why,
            "octets": message.len(),
            "payload": decoded.as_ref().map(show::json),
        });
        return format!("{json}\n");
    }
    let (colour, word) = match verdict {
        Verdict::Verified => (GREEN, "verified".to_owned()),
        Verdict::Unverified(why) => (YELLOW, format!("unverified ({why})")),
        Verdict::Refused(why) => (RED, format!("REFUSED ({why})")),
    };
    let word = match colours {
        true => format!("{colour}{word}\x1b[0m"),
        false => word,
    };
    let body = match form {
        Form::Raw => hex::encode(message),
        Form::Diag => match serde_cbor::from_slice::<Value>(payload) {
            Ok(value) => notation::of(&value),
            Err(_) => format!("h'{}'", hex::encode(payload)),
        },
        Form::Words | Form::Json => words.clone(),
    };
    let topic = topic.strip_prefix(PREFIX).unwrap_or(topic);
    // Whatever a stranger put into a message, it does not steer the terminal.
    let body: String = body.chars().filter(|c| !c.is_control()).collect();
    let topic: String = topic.chars().filter(|c| !c.is_control()).collect();
    format!("{topic}  {kid}  {word}  {body}\n")
}
