//! Asking the running service: a command goes out under a person's key, and is sent again with the same id until
//! its answer came or the time is over. The service does nothing twice.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ed25519_dalek::VerifyingKey;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Kid, Received, open_signed, seal};
use simquota_shared::ids::{CommandId, FleetId, KeyId, Text};
use simquota_shared::message::ops::REJECTED_COPY_MAX;
use simquota_shared::message::{FleetCommand, FleetReply, Rejected};
use simquota_shared::topic::Topic;
use tokio::runtime::{Builder, Runtime};

use super::Common;
use crate::charging::value_map;
use crate::config::Config;
use crate::io::clock;
use crate::io::keys::{KeyFolder, person_user, read_file};
use crate::io::mqtt::{self, Deadline, Delivery, Flow, Line, MqttEvent, Options, SendError};

/// How long an answer is awaited before the command is sent again.
const AGAIN_MS: u64 = 2000;
/// What a fleet's manager key is called after the fleet.
pub(super) const MANAGER: &str = "-manager";

/// The service said that it would do it.
#[derive(Debug, thiserror::Error)]
#[error("it would be done")]
pub struct DryRun;

/// The service said no.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// The result code.
    pub code: Code,
    /// Why, in words.
    pub why: String,
}

impl Refused {
    /// For `--json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!({ "code": self.code.0, "why": self.why }).to_string()
    }
}

/// Who asks, and where.
pub(super) struct Asker {
    pub(super) config: Config,
    pub(super) folder: Option<KeyFolder>,
    pub(super) author: KeyId,
    pub(super) kid: Kid,
    pub(super) key: Key,
    /// To tell a true word of the service's on `ops/rejected` from a false one, where its key is at hand.
    pub(super) node: Option<VerifyingKey>,
    wait_ms: u64,
    id: Option<CommandId>,
    ids_used: u64,
    dry: bool,
    /// Carried out only at this version of what it is about.
    expected: Option<u64>,
    expires_s: u64,
}

/// A connection for the commands of one program run.
pub(super) struct Connection {
    pub(super) line: Line,
    pub(super) events: Receiver<MqttEvent>,
    /// Dropped last: the line lives on it.
    _runtime: Runtime,
}

impl Asker {
    /// Reads configuration and key.
    pub(super) fn open(common: &Common) -> anyhow::Result<Self> {
        let config = Config::read(&common.config)?;
        let is_file = common.key.contains('/') || common.key.ends_with(".key");
        let folder = KeyFolder::open(&config.data);
        let (kid, key) = if is_file {
            read_file(common.key.as_ref())?
        } else {
            let folder = folder.as_ref().map_err(|error| anyhow!("{error}"))?;
            let id: KeyId = common.key.parse().with_context(|| {
                format!("'{}' is neither a key's name nor a key file", common.key)
            })?;
            let kid = folder.latest_person(&id)?;
            let key = folder.person(&kid)?;
            let key = key.ok_or_else(|| anyhow!("key {kid} is gone: name another with --key"))?;
            (kid, key)
        };
        let folder = folder.ok();
        let node = folder
            .as_ref()
            .and_then(|folder| folder.node().ok())
            .map(|node| node.verifying_key());
        Ok(Self {
            author: kid.name.parse()?,
            config,
            folder,
            kid,
            key,
            node,
            wait_ms: common.wait_s.saturating_mul(1000),
            id: common.id.clone(),
            ids_used: 0,
            dry: common.dry_run,
            expected: common.expected,
            expires_s: common.expires_s,
        })
    }

    /// Whose key it is, and the key itself, for what is made of it here.
    pub(super) fn identity(&self) -> (&Kid, &Key) {
        (&self.kid, &self.key)
    }

    /// The data folder's keys, for commands that make some.
    pub(super) fn keys(&self) -> anyhow::Result<KeyFolder> {
        Ok(KeyFolder::open(&self.config.data)?)
    }

    /// The fleets whose manager's key is in the data folder.
    pub(super) fn fleets(&self) -> Vec<FleetId> {
        let people = self.folder.as_ref().and_then(|folder| folder.people().ok());
        people
            .unwrap_or_default()
            .iter()
            .filter_map(|name| name.strip_suffix(MANAGER)?.parse().ok())
            .collect()
    }

    /// The id of the next command: the one given, and where one run needs several, that one with a number.
    fn next_id(&mut self) -> anyhow::Result<CommandId> {
        self.ids_used = self.ids_used.saturating_add(1);
        match &self.id {
            Some(id) if self.ids_used == 1 => Ok(id.clone()),
            Some(id) => format!("{id}-{}", self.ids_used)
                .parse()
                .context("the id given with --id is too long for a command in several parts"),
            None => {
                let random = getrandom::u64().context("the system gives no random numbers")?;
                Ok(format!("c-{random:016x}").parse()?)
            }
        }
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// [`Refused`] when the service said no; otherwise what kept the answer away, and what to do.
    pub(super) fn ask(
        &mut self,
        fleet: Option<&FleetId>,
        name: &str,
        args: Value,
    ) -> anyhow::Result<Value> {
        let topics = topics(&self.author, fleet);
        let connection = self.subscribe(vec![topics.1, ops_rejected()])?;
        let answered = self.ask_over(&connection, fleet, name, args);
        connection.line.disconnect();
        // The goodbye keeps the broker from logging a loss; without one nothing is lost.
        let closed = |event: Result<MqttEvent, _>| !matches!(event, Ok(MqttEvent::Closed) | Err(_));
        while closed(connection.events.recv_timeout(Duration::from_secs(1))) {}
        answered
    }

    /// A connection for many questions about these fleets, with [`Asker::ask_over`].
    pub(super) fn connect_for(&self, fleets: &[FleetId]) -> anyhow::Result<Connection> {
        let replies = fleets
            .iter()
            .map(|fleet| topics(&self.author, Some(fleet)).1);
        let filters = replies.chain([ops_rejected()]).collect();
        self.subscribe(filters)
    }

    /// As [`Asker::ask`], over a connection that stays.
    pub(super) fn ask_over(
        &mut self,
        connection: &Connection,
        fleet: Option<&FleetId>,
        name: &str,
        args: Value,
    ) -> anyhow::Result<Value> {
        let command = FleetCommand {
            id: self.next_id()?,
            expires: clock::now()
                .plus_s(self.expires_s)
                .context("so many seconds are past the end of time: give fewer with --expires-s")?,
            expected: self.expected,
            dry: self.dry,
            name: Text::clipped(name),
            args,
        };
        let (to, from) = topics(&self.author, fleet);
        let message = seal(&self.key, &self.kid, &to, &codec::encode(&command)?)?;
        let value = self.exchange(connection, &command.id, &to, &from, &message)?;
        let dry = value_map([("dry", Value::Bool(true))]);
        match value == dry && self.dry {
            true => Err(DryRun.into()),
            false => Ok(value),
        }
    }

    /// A connection under our key, on which these filters are subscribed to.
    pub(super) fn subscribe(&self, subscriptions: Vec<String>) -> anyhow::Result<Connection> {
        let (events_in, events) = channel();
        let (line, runtime) = self.listen(subscriptions, false, move |event| {
            // When nobody listens any more, nothing is missed.
            drop(events_in.send(event));
            Flow::Go
        })?;
        Ok(Connection {
            line,
            events,
            _runtime: runtime,
        })
    }

    /// The same, with what is done with each event, which must not wait. `looks_on`: the broker keeps nothing for it.
    /// The line lives on the runtime.
    pub(super) fn listen(
        &self,
        subscriptions: Vec<String>,
        looks_on: bool,
        on_event: impl FnMut(MqttEvent) -> Flow + Send + 'static,
    ) -> anyhow::Result<(Line, Runtime)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("the system gives no threads: raise its limits")?;
        let random = getrandom::u64().context("the system gives no random numbers")?;
        let broker = &self.config.broker;
        let options = Options {
            client_id: format!("simquota-cli-{random:016x}"),
            host: broker.host.clone(),
            port: broker.port,
            tls: broker.tls.clone(),
            credentials: match broker.derived {
                true => Some((
                    person_user(&self.author),
                    self.key.mqtt_password().to_string(),
                )),
                false => broker.credentials.clone(),
            },
            keep_alive_s: broker.keep_alive_s,
            will: None,
            subscriptions,
            looks_on,
            inflight: 10,
            receive_max: 100,
            session_expiry_s: 0,
        };
        let line = mqtt::connect(runtime.handle(), options, on_event)?;
        Ok((line, runtime))
    }

    fn exchange(
        &self,
        connection: &Connection,
        id: &CommandId,
        to: &str,
        from: &str,
        message: &[u8],
    ) -> anyhow::Result<Value> {
        let broker = format!("{}:{}", self.config.broker.host, self.config.broker.port);
        let mut deadline = Deadline::within_ms(self.wait_ms);
        let mut answer = Answer::default();
        let mut why = String::from("it does not answer");
        let mut again = Deadline::within_ms(0);
        loop {
            if again.left().is_zero() {
                let sent = connection
                    .line
                    .publish(to, message.to_vec(), false, deadline);
                if let Err(error @ SendError::TooLarge { .. }) = sent {
                    bail!("{error}");
                }
                again = Deadline::within_ms(AGAIN_MS);
            }
            match connection
                .events
                .recv_timeout(again.left().min(deadline.left()))
            {
                Ok(MqttEvent::Message(delivery)) => {
                    connection.line.acknowledge(&delivery, deadline);
                    self.rejected(&delivery, to, message)?;
                    if let Some(reply) = self.reply(&delivery, id, from) {
                        if reply.code == Code::TOO_BUSY {
                            continue;
                        }
                        // A long answer is under way: each part is a sign of life.
                        deadline = Deadline::within_ms(self.wait_ms);
                        again = Deadline::within_ms(self.wait_ms);
                        if let Some(value) = answer.take(reply)? {
                            return Ok(value);
                        }
                    }
                }
                Ok(MqttEvent::Disconnected { reason, .. }) => why = reason,
                Ok(MqttEvent::SubscribeRefused { filter, reason }) if filter == from => {
                    bail!(
                        "the broker {broker} refuses the subscription {filter} ({reason}): check its access control"
                    );
                }
                Ok(MqttEvent::PublishRefused { reason }) => {
                    bail!(
                        "the broker {broker} refuses the command ({reason}): check its access control"
                    );
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the connection's task is gone: report this")
                }
            }
            if deadline.left().is_zero() {
                if connection.line.is_connected() {
                    bail!(
                        "no answer from the service on {broker}: is `simquota-cloud serve` running?"
                    );
                }
                bail!(
                    "no broker on {broker} ({why}): start it, or correct broker.host and broker.port in the configuration"
                );
            }
        }
    }

    fn reply(&self, delivery: &Delivery, id: &CommandId, from: &str) -> Option<FleetReply> {
        if delivery.topic() != Some(from) {
            return None;
        }
        let received = Received::parse(delivery.payload()).ok()?;
        let body = received.verify(&self.key, from).ok()?;
        let reply: FleetReply = codec::decode(body).ok()?;
        (reply.id == *id).then_some(reply)
    }

    /// The service may not know our key; then it can't answer, but it says on `ops/rejected` what it refused.
    fn rejected(&self, delivery: &Delivery, to: &str, message: &[u8]) -> anyhow::Result<()> {
        let topic = Topic::OpsRejected.to_string();
        if delivery.topic() != Some(topic.as_str()) {
            return Ok(());
        }
        let Some(node) = &self.node else {
            return Ok(());
        };
        let Ok((_, payload)) = open_signed(node, &topic, delivery.payload()) else {
            return Ok(());
        };
        let Ok(rejected) = codec::decode::<Rejected>(&payload) else {
            return Ok(());
        };
        let ours = message.get(..REJECTED_COPY_MAX).unwrap_or(message);
        let answered = matches!(rejected.reason.as_str(), "rate-limited" | "not-allowed");
        if rejected.copy.0 != ours || !to.starts_with(rejected.topic.as_str()) || answered {
            return Ok(());
        }
        let why = format!(
            "the service refuses key {} ({}: {}): name the key that it admitted with --key",
            self.kid, rejected.reason, rejected.detail
        );
        Err(Refused {
            code: Code::USER_UNKNOWN,
            why,
        }
        .into())
    }
}

/// Where a command goes, and where its answer comes.
fn topics(author: &KeyId, fleet: Option<&FleetId>) -> (String, String) {
    let (to, from) = match fleet {
        Some(fleet) => (
            Topic::FleetCommand(fleet.clone()),
            Topic::FleetReply(fleet.clone(), author.clone()),
        ),
        None => (Topic::OpsCommand, Topic::OpsReply(author.clone())),
    };
    (to.to_string(), from.to_string())
}

fn ops_rejected() -> String {
    Topic::OpsRejected.to_string()
}

/// Parts of an answer, in any order, any of them twice.
#[derive(Default)]
struct Answer {
    parts: BTreeMap<u64, Value>,
    last: Option<u64>,
}

impl Answer {
    /// Takes a part; the whole once every part is there.
    fn take(&mut self, reply: FleetReply) -> anyhow::Result<Option<Value>> {
        if !reply.code.is_success() {
            let words = reply.why.map(|why| why.to_string());
            let why = words.unwrap_or_else(|| reply.code.to_string());
            return Err(Refused {
                code: reply.code,
                why,
            }
            .into());
        }
        if reply.last {
            self.last = Some(reply.part);
        }
        self.parts.insert(reply.part, reply.result);
        let whole = self
            .last
            .is_some_and(|last| self.parts.len() as u64 == last.saturating_add(1));
        if !whole {
            return Ok(None);
        }
        let parts = std::mem::take(&mut self.parts);
        if self.last == Some(0) {
            return Ok(parts.into_values().next());
        }
        let rows = parts.into_values().flat_map(|part| match part {
            Value::Array(rows) => rows,
            other => vec![other],
        });
        Ok(Some(Value::Array(rows.collect())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(number: u64, last: bool) -> FleetReply {
        FleetReply {
            id: "c".parse().unwrap(),
            code: Code::SUCCESS,
            part: number,
            last,
            result: Value::Array(vec![Value::Integer(i128::from(number))]),
            why: None,
        }
    }

    #[test]
    fn parts_make_a_whole_in_any_order_and_twice_is_once() {
        let mut answer = Answer::default();
        assert!(answer.take(part(2, true)).unwrap().is_none());
        assert!(answer.take(part(0, false)).unwrap().is_none());
        assert!(answer.take(part(0, false)).unwrap().is_none());
        let whole = answer.take(part(1, false)).unwrap().unwrap();
        assert_eq!(whole, Value::Array((0..3).map(Value::Integer).collect()));
    }

    #[test]
    fn one_part_is_given_as_it_is_and_a_refusal_is_an_error() {
        let mut only = part(0, true);
        only.result = Value::Bool(true);
        assert_eq!(
            Answer::default().take(only).unwrap(),
            Some(Value::Bool(true))
        );
        let mut no = part(0, true);
        no.code = Code::USER_UNKNOWN;
        no.why = Some("unknown-fleet: fleet x does not exist".parse().unwrap());
        let error = Answer::default().take(no).unwrap_err();
        let refused = error.downcast_ref::<Refused>().unwrap();
        assert_eq!(refused.code, Code::USER_UNKNOWN);
        insta::assert_snapshot!(refused.to_json(), @r#"{"code":5030,"why":"unknown-fleet: fleet x does not exist"}"#);
    }
}
