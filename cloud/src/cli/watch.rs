//! `watch`: what goes over the broker, verified with the keys at hand, decoded, one line for each message.
//!
//! What no key here can tell is shown as unverified, not as refused. The broker keeps nothing for a watcher and waits
//! for nothing from it. The watcher takes in whatever comes, on a thread of its own: when its output is not read, or
//! more comes than it can verify, it leaves messages out, and says how many. It slows nobody.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use anyhow::bail;
use clap::Args;
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::topic::PREFIX;

use super::ask::Asker;
use super::{Common, show};
use crate::io::clock;
use crate::io::mqtt::{Delivery, Flow, MqttEvent};

pub(super) mod decode;
mod notation;

use decode::{Reader, Seen, Verdict};

/// Messages that wait to be printed. What comes beyond is left out.
const WAITING_MAX: usize = 10_000;
/// Lines that are written at a time, when so many wait.
const LINES_MAX: usize = 256;

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
    let left_out = Arc::new(AtomicU64::new(0));
    let (came, waiting) = sync_channel(WAITING_MAX);
    let listener = Listener {
        came,
        left_out: Arc::clone(&left_out),
        filter: filter.clone(),
        broker,
    };
    let _held = asker.listen(vec![filter], true, move |event| {
        listener.hears(event);
        Flow::Go
    })?;
    let mut reader = Reader::new(asker);
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stdout().is_terminal() && !no_colour;
    let mut printed = 0_u64;
    let mut told = 0_u64;
    loop {
        let left = watch
            .count
            .map_or(u64::MAX, |count| count.saturating_sub(printed));
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(LINES_MAX);
        let some = waiting_now(&waiting, most);
        if some.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for came in some {
            match came {
                Came::Message(delivery) => {
                    lines.push_str(&line(&reader.read(&delivery), form, colours));
                    printed = printed.saturating_add(1);
                }
                Came::Said(words) => eprintln!("{words}"),
                Came::Refused(words) => bail!(words),
            }
        }
        let mut out = io::stdout().lock();
        match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        let missing = left_out.load(Ordering::Relaxed);
        if missing > told {
            eprintln!(
                "{} messages were left out: more came than could be verified and written",
                missing - told
            );
            told = missing;
        }
    }
}

/// Waits for something, and takes what else is there. Nothing when nothing comes any more, or nothing is wanted.
fn waiting_now<T>(waiting: &Receiver<T>, most: usize) -> Vec<T> {
    let first = match most {
        0 => None,
        _ => waiting.recv().ok(),
    };
    let more = std::iter::from_fn(|| waiting.try_recv().ok());
    first.map_or_else(Vec::new, |first| {
        std::iter::once(first).chain(more).take(most).collect()
    })
}

/// What comes over the connection.
enum Came {
    Message(Box<Delivery>),
    /// Something to tell.
    Said(String),
    /// Nothing will come, for this reason.
    Refused(String),
}

/// Takes in what comes, and never waits.
struct Listener {
    came: SyncSender<Came>,
    left_out: Arc<AtomicU64>,
    filter: String,
    broker: String,
}

impl Listener {
    fn hears(&self, event: MqttEvent) {
        let (filter, broker) = (&self.filter, &self.broker);
        let came = match event {
            MqttEvent::Message(delivery) => Came::Message(Box::new(delivery)),
            MqttEvent::Connected { .. } => Came::Said(format!("watching {filter} on {broker}")),
            MqttEvent::Disconnected { reason, .. } => Came::Said(format!(
                "no connection to {broker} ({reason}): trying again"
            )),
            MqttEvent::SubscribeRefused { filter, reason } => Came::Refused(format!(
                "the broker {broker} refuses the subscription {filter} ({reason}): watch less, or name another key with --key"
            )),
            MqttEvent::PublishRefused { .. } | MqttEvent::Closed => return,
        };
        // When nobody wants more, nothing is missed.
        if let Err(TrySendError::Full(Came::Message(_))) = self.came.try_send(came) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_waits_is_taken_at_once_and_no_more_than_is_wanted() {
        let (put, waiting) = sync_channel(10);
        (0..5).for_each(|number| put.send(number).unwrap());
        assert_eq!(waiting_now(&waiting, 0), [0; 0]);
        assert_eq!(waiting_now(&waiting, 3), [0, 1, 2]);
        assert_eq!(waiting_now(&waiting, 3), [3, 4]);
        drop(put);
        assert_eq!(waiting_now(&waiting, 3), [0; 0]);
    }
}
