//! A connection to an MQTT broker that comes back by itself.
//!
//! A small interface of our own: no type of the client library appears in it, so that a fork or another
//! library can take its place. The broker is a pipe that loses, repeats and reorders. Whatever was
//! accepted by [`Publisher::try_publish`] may be lost when the connection breaks, and is then forgotten
//! here; the agent's store is what remembers. Everything is QoS 1.
//!
//! After [`MqttEvent::Connected`] publish what is due again; a [`MqttEvent::Acked`] only frees a place in
//! the window and never says that anything is stored.

mod backoff;
mod resume;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::tls::TlsFiles;

/// Largest packet that is taken from or given to the broker, in octets.
pub const PACKET_OCTETS_MAX: u32 = 256 * 1024;
/// Packets that may wait to be written: enough to keep the line busy, and all of them are disposable.
const QUEUE: usize = 32;
/// The client library panics below this.
const KEEP_ALIVE_S_MIN: u16 = 5;
/// Around the payload and the topic of a PUBLISH: fixed header, topic length, packet id, properties.
const PUBLISH_OVERHEAD_OCTETS: usize = 16;

/// A message that the broker publishes when the connection ends without a goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// How to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// 1 to 64 of `[A-Za-z0-9_.-]`, unique at the broker: the same id twice throws out the other.
    pub client_id: String,
    /// Host name or address of the broker.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Certificates and keys; `None` connects without TLS.
    pub tls: Option<TlsFiles>,
    /// User name; `None` connects without one.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Seconds between pings, at least 5. A dead link is noticed within twice as long.
    pub keep_alive_s: u16,
    /// The last will of the first connection; [`Publisher::set_will`] changes it for those after it.
    pub will: Option<Will>,
    /// Filters to subscribe to after each connect.
    pub subscriptions: Vec<String>,
    /// Publishes that may be unacknowledged at a time, 1 to 1000. 100 is a good number.
    pub inflight: u16,
    /// Seconds that the broker keeps the session after a disconnect; 0 begins anew each time.
    pub session_expiry_s: u32,
    /// The interface that the connection must use (`SO_BINDTODEVICE`).
    pub bind_device: Option<String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everything but the password.
        f.debug_struct("Options")
            .field("client_id", &self.client_id)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("will", &self.will)
            .field("subscriptions", &self.subscriptions)
            .field("inflight", &self.inflight)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("bind_device", &self.bind_device)
            .finish_non_exhaustive()
    }
}

/// An option that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Brokers differ in what they take; these characters are safe with all.
    #[error("client id `{0}` is not usable: use 1 to 64 of letters, digits, `_`, `.` and `-`")]
    ClientId(String),
    /// No host.
    #[error("the broker's host is empty: set its name or address")]
    Host,
    /// Keep-alive below the minimum.
    #[error("keep_alive_s = {0} is too short: use at least 5")]
    KeepAlive(u16),
    /// In-flight window out of bounds.
    #[error("inflight = {0} is not usable: use 1 to 1000")]
    Inflight(u16),
    /// A subscription is not a valid filter.
    #[error("`{0}` is not a valid topic filter: correct the subscription")]
    Filter(String),
    /// The will's topic can't be published to.
    #[error("`{0}` is not a valid topic: correct the last will")]
    WillTopic(String),
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MqttEvent {
    /// The broker accepted. Subscriptions are on their way, ahead of anything published from now on.
    Connected {
        /// Whether the broker still had the session. Resend what is unanswered in either case.
        session_present: bool,
    },
    /// The connection broke or could not be made; what was queued or unacknowledged is forgotten. Comes
    /// once for each attempt.
    Disconnected {
        /// Why, for the log and for `status`.
        reason: String,
        /// Milliseconds until the next attempt.
        retry_ms: u64,
    },
    /// A message came. It is acknowledged to the broker already.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
        /// Whether it was kept by the broker from before the subscription.
        retain: bool,
    },
    /// Places in the window became free.
    Acked {
        /// How many.
        count: u32,
    },
    /// The broker took a publish off our hands and threw it away (no right, over quota). It has counted in
    /// an [`MqttEvent::Acked`] too.
    PublishRefused {
        /// The broker's reason.
        reason: String,
    },
    /// The broker refused a subscription: nothing will come on it during this connection.
    SubscribeRefused {
        /// The filter.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
    /// The end that [`Publisher::disconnect`] asked for; nothing follows.
    Closed {
        /// Whether all that was accepted had been acknowledged, and DISCONNECT was sent.
        flushed: bool,
    },
}

/// Why a message was not accepted. Keep it; it was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The window or the queue is full.
    #[error("the broker is slow: publish again after the next acknowledgement")]
    Full,
    /// There is no connection.
    #[error("not connected to the broker: publish again once connected")]
    Offline,
    /// [`Publisher::disconnect`] was called.
    #[error("the connection is closed: open another")]
    Closed,
    /// Larger than the broker takes or than [`PACKET_OCTETS_MAX`]; it would break the connection each time.
    #[error("a message of {octets} octets is above the limit of {octets_max}: send less at a time")]
    TooLarge {
        /// The packet's size.
        octets: usize,
        /// What is possible.
        octets_max: u32,
    },
    /// Empty, with a wildcard, or beginning with something else than an ASCII character (which kills one
    /// known broker).
    #[error("`{0}` is not a valid topic: correct it")]
    Topic(String),
}

/// What the task and the publisher share. Locked only for moments, never across an await.
#[derive(Default)]
struct Shared {
    line: Option<session::Line>,
    closed: bool,
    /// Of the next connection.
    will: Option<Will>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A panic while it was held can't have left it half changed: each change is one assignment.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the task is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Leave { within_ms: u64 },
}

/// Sends messages. Dropping it without [`Publisher::disconnect`] cuts the connection as a crash would, so
/// that the broker publishes the will.
pub struct Publisher {
    shared: Arc<Mutex<Shared>>,
    wish: watch::Sender<Wish>,
    inflight: u32,
}

impl Publisher {
    /// Gives a message to the connection, QoS 1. Never blocks. In order with those before it.
    ///
    /// # Errors
    /// When it was not accepted; see [`PublishError`].
    pub fn try_publish(
        &self,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
    ) -> Result<(), PublishError> {
        if !valid_topic(topic) {
            return Err(PublishError::Topic(topic.to_owned()));
        }
        let mut shared = lock(&self.shared);
        if shared.closed {
            return Err(PublishError::Closed);
        }
        let line = shared.line.as_mut().ok_or(PublishError::Offline)?;
        line.publish(topic, payload, retain, self.inflight)
    }

    /// Sets the last will of the connections after the present one. A broker learns a will only with a new
    /// connection, so the present one keeps its own.
    ///
    /// # Errors
    /// When its topic can't be published to; the will before it stands.
    pub fn set_will(&self, will: Will) -> Result<(), OptionsError> {
        check_will(&will)?;
        lock(&self.shared).will = Some(will);
        Ok(())
    }

    /// Messages accepted and not acknowledged yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        lock(&self.shared)
            .line
            .as_ref()
            .map_or(0, |line| line.outstanding)
    }

    /// Says goodbye: what was accepted is sent and its acknowledgements are awaited for at most
    /// `within_ms`, then DISCONNECT goes out (no will is published) and [`MqttEvent::Closed`] comes. Returns
    /// at once. Keep the publisher until `Closed` came; nothing more is accepted meanwhile.
    pub fn disconnect(&self, within_ms: u64) {
        lock(&self.shared).closed = true;
        // The first wish stands.
        self.wish.send_if_modified(|wish| {
            let first = *wish == Wish::Run;
            if first {
                *wish = Wish::Leave { within_ms };
            }
            first
        });
    }
}

/// Connects and stays connected, on a task of `runtime` (which needs its I/O and time drivers).
///
/// `random` spreads the waits between attempts; give [`os_random`] or a seeded generator. `on_event` is
/// called on that task and must not block, or pings stop and the broker hangs up: pass events on through
/// a channel. Dropping an event is allowed; all of them can be had again by asking.
///
/// # Errors
/// When an option can't be used.
pub fn connect(
    runtime: &Handle,
    options: Options,
    random: impl FnMut() -> u64 + Send + 'static,
    on_event: impl FnMut(MqttEvent) + Send + 'static,
) -> Result<Publisher, OptionsError> {
    check(&options)?;
    let shared = Arc::new(Mutex::new(Shared {
        will: options.will.clone(),
        ..Shared::default()
    }));
    let (wish, wishes) = watch::channel(Wish::Run);
    let publisher = Publisher {
        shared: Arc::clone(&shared),
        wish,
        inflight: u32::from(options.inflight),
    };
    let backoff = backoff::Backoff::new(Box::new(random));
    let session = session::Session::new(options, shared, wishes, Box::new(on_event));
    runtime.spawn(session.run(backoff));
    Ok(publisher)
}

/// Random numbers of the operating system, for [`connect`]. Where it has none the waits are not spread,
/// which is no reason not to connect.
#[must_use]
pub fn os_random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

fn check(options: &Options) -> Result<(), OptionsError> {
    let Options {
        client_id,
        host,
        port: _,
        tls: _,
        username: _,
        password: _,
        keep_alive_s,
        will,
        subscriptions,
        inflight,
        session_expiry_s: _,
        bind_device: _,
    } = options;
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !(1..=64).contains(&client_id.len()) || !client_id.bytes().all(safe) {
        return Err(OptionsError::ClientId(client_id.clone()));
    }
    if host.is_empty() {
        return Err(OptionsError::Host);
    }
    if *keep_alive_s < KEEP_ALIVE_S_MIN {
        return Err(OptionsError::KeepAlive(*keep_alive_s));
    }
    if !(1..=1000).contains(inflight) {
        return Err(OptionsError::Inflight(*inflight));
    }
    if let Some(filter) = subscriptions.iter().find(|filter| !valid_filter(filter)) {
        return Err(OptionsError::Filter(filter.clone()));
    }
    will.as_ref().map_or(Ok(()), check_will)
}

fn check_will(will: &Will) -> Result<(), OptionsError> {
    match valid_topic(&will.topic) {
        true => Ok(()),
        false => Err(OptionsError::WillTopic(will.topic.clone())),
    }
}

/// Source: MQTT 5.0 section 4.7; that the first character is ASCII is a house rule.
fn valid_topic(topic: &str) -> bool {
    topic.starts_with(|first: char| first.is_ascii())
        && topic.len() <= usize::from(u16::MAX)
        && !topic.contains(['+', '#', '\0'])
}

/// Source: MQTT 5.0 section 4.7.1: `+` stands alone in its level, `#` alone in the last.
fn valid_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    let mut valid = !filter.is_empty() && filter.len() <= usize::from(u16::MAX);
    while let Some(level) = levels.next() {
        valid &= match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#', '\0']),
        };
    }
    valid
}
