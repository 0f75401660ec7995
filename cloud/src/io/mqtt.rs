//! A connection to an MQTT broker that comes back by itself, with acknowledgements in our hands.
//!
//! A small interface of our own: no type of the client library appears in it, so that a fork or another library
//! can take its place. The broker is a pipe that loses, repeats and reorders. Everything is QoS 1, but for what people
//! watch.
//!
//! - A message is acknowledged to the broker by [`Line::acknowledge`], in the order of delivery and by one thread:
//!   one broker drops a client that acknowledges out of order, and loses the message.
//! - A connection has a generation. An acknowledgement of an earlier one's delivery is dropped: the broker has
//!   forgotten that delivery and makes another.
//! - After each connect everything is subscribed anew.
//! - Publishing waits for a place for a bounded time, on the caller's thread, never on the task that polls: that
//!   one only uses calls that can't wait.

mod backoff;
mod owed;
mod resume;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, ClientError, Publish, PublishOptions, QoS, Request};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::clock;
use super::tls::TlsFiles;

/// Largest packet that is taken from or given to the broker, in octets: twice the largest message.
pub const PACKET_OCTETS_MAX: u32 = 256 * 1024;
/// Packets that may wait to be written. All of them are disposable: the devices' timers bring them back.
const QUEUE: usize = 256;
/// The client library panics below this.
const KEEP_ALIVE_S_MIN: u16 = 5;
/// Around the payload and the topic of a PUBLISH: fixed header, topic length, packet id, properties.
const PUBLISH_OVERHEAD_OCTETS: usize = 16;

/// A message that the broker publishes when the connection ends without a goodbye; it is kept for later readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// How to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// 1 to 128 of `[A-Za-z0-9_.-]`, unique at the broker: the same id twice throws out the other.
    pub client_id: String,
    /// Host name or address of the broker.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Certificates and keys; `None` connects without TLS.
    pub tls: Option<TlsFiles>,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Seconds between pings, at least 5. A dead link is noticed within twice as long.
    pub keep_alive_s: u16,
    /// The last will.
    pub will: Option<Will>,
    /// Filters to subscribe to after each connect.
    pub subscriptions: Vec<String>,
    /// They are for people who look on: QoS 0, so that the broker keeps nothing for them and awaits nothing.
    pub looks_on: bool,
    /// Publishes that may be unacknowledged at a time.
    pub inflight: u16,
    /// Deliveries that may be unacknowledged at a time. Some brokers have a number of their own.
    pub receive_max: u16,
    /// Seconds that the broker keeps the session after a disconnect; 0 begins anew each time.
    pub session_expiry_s: u32,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everything but the password.
        f.debug_struct("Options")
            .field("client_id", &self.client_id)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}

/// An option that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Brokers differ in what they take; these characters are safe with all.
    #[error("client id '{0}' is not usable: use 1 to 128 of letters, digits, '_', '.' and '-'")]
    ClientId(String),
    /// No host.
    #[error("the broker's host is empty: set its name or address")]
    Host,
    /// Keep-alive below the minimum.
    #[error("keep_alive_s = {0} is too short: use at least 5")]
    KeepAlive(u16),
    /// A window of nothing.
    #[error("a window of 0 messages lets nothing through: use at least 1")]
    Window,
}

/// A message from the broker, not acknowledged to it yet.
#[derive(Clone, Debug)]
pub struct Delivery {
    generation: u64,
    arrived_ns: u64,
    /// Whether the broker is to get an acknowledgement; see [`owed`].
    owed: bool,
    publish: Publish,
}

impl Delivery {
    /// Its topic, unless that is not even text.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        std::str::from_utf8(&self.publish.topic).ok()
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.publish.payload
    }

    /// Octets of topic and payload.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.publish
            .topic
            .len()
            .saturating_add(self.publish.payload.len())
    }

    /// When it came, on the clock that never jumps.
    #[must_use]
    pub fn arrived_ns(&self) -> u64 {
        self.arrived_ns
    }

    /// The connection that it came over.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// QoS 0 is not acknowledged and not delivered again.
    #[must_use]
    pub fn comes_again(&self) -> bool {
        self.publish.qos != QoS::AtMostOnce
    }
}

/// What happened on the connection.
#[derive(Debug)]
pub enum MqttEvent {
    /// The broker accepted. Subscriptions are on their way, ahead of anything published from now on.
    Connected {
        /// Counts connections.
        generation: u64,
        /// Whether the broker still had the session.
        session_present: bool,
    },
    /// The connection broke or could not be made. What was not acknowledged comes again with the next one; what
    /// was queued or on its way out is forgotten.
    Disconnected {
        /// Why.
        reason: String,
        /// Milliseconds until the next attempt.
        retry_ms: u64,
    },
    /// A message came.
    Message(Delivery),
    /// The broker took a publish off our hands and threw it away (no right, over quota).
    PublishRefused {
        /// The broker's reason.
        reason: String,
    },
    /// The broker refused a subscription: nothing will come on it during this connection.
    SubscribeRefused {
        /// The filter.
        filter: String,
        /// The broker's reason.
        reason: String,
    },
    /// The end that [`Line::disconnect`] asked for; nothing follows.
    Closed,
}

/// What the receiver of an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Go,
    /// There is no room: end the connection, so that the broker delivers again what was not acknowledged.
    BreakOff,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No place became free in time.
    #[error("the broker is slow: no place for a message became free in time")]
    Full,
    /// No connection came about in time.
    #[error("not connected to the broker")]
    Offline,
    /// Larger than the broker takes; it would break the connection each time.
    #[error("a message of {octets} octets is above the broker's limit of {octets_max}: raise that")]
    TooLarge {
        /// The packet's size.
        octets: usize,
        /// What is possible.
        octets_max: u32,
    },
}

/// Until when a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(u64);

impl Deadline {
    /// So many milliseconds from now.
    #[must_use]
    pub fn within_ms(ms: u64) -> Self {
        Self(clock::monotonic_ms().saturating_add(ms))
    }

    /// What is left of it.
    #[must_use]
    pub fn left(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(clock::monotonic_ms()))
    }
}

/// The sending side of one established connection.
#[derive(Clone)]
struct Established {
    generation: u64,
    client: AsyncClient,
    packet_octets_max: u32,
    /// Publishes accepted and not acknowledged by the broker.
    outstanding: Arc<AtomicU64>,
}

/// What the task and the line share. Locked only for moments, never across an await.
#[derive(Default)]
struct Shared {
    established: Mutex<Option<Established>>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held can't have left it half changed: each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the task is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    /// End the connection of this generation, so that what it delivered comes again.
    BreakOff(u64),
    Leave,
}

/// Sends and acknowledges. When the last clone goes without [`Line::disconnect`], the connection is cut as by a
/// crash, and the broker publishes the will.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    wish: Arc<watch::Sender<Wish>>,
    runtime: Handle,
}

impl Line {
    /// Sends a message, QoS 1, in order with those before it. Waits for a connection and for a place until the
    /// deadline. Not to be called on a thread of the runtime.
    ///
    /// # Errors
    /// When it was not sent; see [`SendError`].
    pub fn publish(
        &self,
        topic: &str,
        payload: Vec<u8>,
        retain: bool,
        deadline: Deadline,
    ) -> Result<(), SendError> {
        let established = self.established(deadline).ok_or(SendError::Offline)?;
        let octets = payload.len() + topic.len() + PUBLISH_OVERHEAD_OCTETS;
        if !u32::try_from(octets).is_ok_and(|octets| octets <= established.packet_octets_max) {
            return Err(SendError::TooLarge {
                octets,
                octets_max: established.packet_octets_max,
            });
        }
        // Before it is accepted: its acknowledgement may come at once.
        established.outstanding.fetch_add(1, Ordering::AcqRel);
        let client = &established.client;
        let options = || PublishOptions::at_least_once().retain(retain);
        let sent = match client.try_publish(topic, payload, options()) {
            Ok(()) => Ok(()),
            Err(ClientError::RequestChannelFull(request)) => match *request {
                Request::Publish(publish) => {
                    let again = client.publish(topic, publish.payload, options());
                    match self.wait(deadline, again) {
                        Some(Ok(())) => Ok(()),
                        Some(Err(_)) => Err(SendError::Offline),
                        None => Err(SendError::Full),
                    }
                }
                _ => Err(SendError::Offline),
            },
            Err(_) => Err(SendError::Offline),
        };
        if sent.is_err() {
            established.outstanding.fetch_sub(1, Ordering::AcqRel);
        }
        sent
    }

    /// Acknowledges a delivery to the broker. One thread does it, in the order of delivery. Where there is no
    /// place for the acknowledgement until the deadline, the connection is ended: a later one must not go first.
    pub fn acknowledge(&self, delivery: &Delivery, deadline: Deadline) {
        let Some(established) = lock(&self.shared.established).clone() else {
            return;
        };
        if !delivery.owed
            || established.generation != delivery.generation
            || established.client.try_ack(&delivery.publish).is_ok()
        {
            return;
        }
        let again = established.client.ack(&delivery.publish);
        if self.wait(deadline, again).is_none() {
            tracing::warn!("no place for an acknowledgement in time, connection ended");
            self.break_off(delivery.generation);
        }
    }

    /// Ends the connection of a generation; another one is made.
    pub fn break_off(&self, generation: u64) {
        self.wish.send_if_modified(|wish| {
            let runs = *wish != Wish::Leave;
            if runs {
                *wish = Wish::BreakOff(generation);
            }
            runs
        });
    }

    /// Says goodbye as soon as everything is sent, within two seconds; no will is published. Then
    /// [`MqttEvent::Closed`] comes.
    pub fn disconnect(&self) {
        self.wish.send_replace(Wish::Leave);
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        lock(&self.shared.established).is_some()
    }

    fn wait<T>(&self, deadline: Deadline, what: impl Future<Output = T>) -> Option<T> {
        self.runtime
            .block_on(async { timeout(deadline.left(), what).await })
            .ok()
    }

    fn established(&self, deadline: Deadline) -> Option<Established> {
        let offline = |established: &mut Option<Established>| established.is_none();
        let (established, _) = self
            .shared
            .changed
            .wait_timeout_while(lock(&self.shared.established), deadline.left(), offline)
            .unwrap_or_else(PoisonError::into_inner);
        established.clone()
    }
}

/// Connects and stays connected, on a task of `runtime` (which needs its I/O and time drivers).
///
/// `on_event` is called on that task and must not block, or pings stop and the broker hangs up.
///
/// # Errors
/// When an option can't be used.
pub fn connect(
    runtime: &Handle,
    options: Options,
    on_event: impl FnMut(MqttEvent) -> Flow + Send + 'static,
) -> Result<Line, OptionsError> {
    check(&options)?;
    let shared = Arc::new(Shared::default());
    let (wish, wishes) = watch::channel(Wish::Run);
    let session = session::Session::new(options, Arc::clone(&shared), wishes, Box::new(on_event));
    runtime.spawn(session.run(backoff::Backoff::new(Box::new(os_random))));
    Ok(Line {
        shared,
        wish: Arc::new(wish),
        runtime: runtime.clone(),
    })
}

/// Where the system has no random numbers the waits are not spread, which is no reason not to connect.
fn os_random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

fn check(options: &Options) -> Result<(), OptionsError> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let id = &options.client_id;
    if !(1..=128).contains(&id.len()) || !id.bytes().all(safe) {
        return Err(OptionsError::ClientId(id.clone()));
    }
    if options.host.is_empty() {
        return Err(OptionsError::Host);
    }
    if options.keep_alive_s < KEEP_ALIVE_S_MIN {
        return Err(OptionsError::KeepAlive(options.keep_alive_s));
    }
    if options.inflight == 0 || options.receive_max == 0 {
        return Err(OptionsError::Window);
    }
    Ok(())
}
