//! Web hooks: events to receivers over HTTP, signed, at least once, in order, each receiver from a cursor of its own.
//!
//! ```text
//! POST {url}
//! Content-Type: application/json
//! Simquota-Event: 4711                           the event's id: the same for each repeat
//! Simquota-Timestamp: 1793452800                 Unix seconds of this try
//! Simquota-Signature: v1={64 hexadecimal digits}
//!
//! {"id":4711,"at":1793452799123,"fleet":"buses","device":"tracker-7","kind":"exhausted","args":{…}}
//! ```
//!
//! The signature is HMAC-SHA-256 under the receiver's key over the timestamp's digits, a dot, and the body, octet for octet.
//! The key is derived from the node's (HMAC-SHA-256 over `csim/v1/hook/{name}`), so nothing is stored for it;
//! `simquota-cloud hook-key NAME` prints it. A receiver compares in constant time, refuses a timestamp that is more than
//! some minutes off, and forgets ids that it has seen.
//!
//! Any status of 200 to 299 is delivered. Everything else, redirects too, is tried again: after 1 s, and twice as long
//! each time up to 5 min, for ever, and what comes after it waits. A receiver that does not want an event says 200.
//! Each receiver has a thread and at most [`QUEUE_MAX`] events in memory; the journal holds the rest. So nobody waits for a
//! slow one: neither the pipeline, nor the broker, nor another receiver. A receiver that is new begins with the next event.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use simquota_shared::ids::{FleetId, KeyId};
use simquota_shared::message::Event;
use simquota_shared::tls::SYSTEM_ROOTS;
use simquota_shared::units::EntryNumber;
use tokio_rustls::rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::clock;
use super::http::Observed;
use super::metrics::whole;
use super::store::{Store, StoreError};
use crate::ledger::Ledger;
use crate::ledger::entry::Entry;
use crate::ledger::event;

/// Receivers at most.
pub const HOOKS_MAX: usize = 16;
/// Events of one receiver in memory at most.
pub const QUEUE_MAX: usize = 1000;
/// Entries that are read at a time to find events.
const LOOK_MAX: usize = 10_000;
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// One try, from looking up the name to the status.
const TRY_WITHIN: Duration = Duration::from_secs(10);

/// A receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// Its name: its cursor and its key go by it.
    pub name: KeyId,
    /// Where to.
    pub url: String,
    /// Events of which fleet; none: of all.
    pub fleet: Option<FleetId>,
    /// Which kinds; empty: all.
    pub kinds: Vec<String>,
    /// Whose certificates are trusted; none: the system's roots.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for HookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address: some carry a secret in it.
        write!(f, "HookConfig({})", self.name)
    }
}

/// A receiver's key, as the 32 octets that it makes signatures with.
#[must_use]
pub fn key(node_key: &SigningKey, name: &KeyId) -> Option<Zeroizing<[u8; 32]>> {
    let seed = Zeroizing::new(node_key.to_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(seed.as_slice()).ok()?;
    mac.update(format!("csim/v1/hook/{name}").as_bytes());
    Some(Zeroizing::new(mac.finalize().into_bytes().into()))
}

/// What `Simquota-Signature` holds for a body that is sent at a time.
#[must_use]
pub fn signature(key: &[u8; 32], timestamp_s: u64, body: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{timestamp_s}.{body}").as_bytes());
    Some(format!("v1={}", hex::encode(mac.finalize().into_bytes())))
}

#[derive(Serialize)]
struct Body<'a> {
    id: u64,
    at: u64,
    fleet: &'a str,
    device: Option<&'a str>,
    kind: &'a str,
    args: &'a serde_cbor::Value,
}

fn body(event: &Event) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Body {
        id: event.entry.value(),
        at: event.at.value(),
        fleet: event.fleet.as_str(),
        device: event.device.as_ref().map(|device| device.as_str()),
        kind: event.kind.as_str(),
        args: &event.args,
    })
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<(EntryNumber, Arc<str>)>,
    stop: bool,
}

/// What waits for a receiver.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it was held can't have left it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.lock().events.len()
    }

    fn push(&self, entry: EntryNumber, body: Arc<str>) {
        self.lock().events.push_back((entry, body));
        self.changed.notify_one();
    }

    fn delivered(&self, entry: EntryNumber) {
        let mut waiting = self.lock();
        if waiting
            .events
            .front()
            .is_some_and(|(first, _)| *first == entry)
        {
            waiting.events.pop_front();
        }
    }

    /// The first event, when there is one; `None` when it is over.
    fn first(&self) -> Option<(EntryNumber, Arc<str>)> {
        let idle = |waiting: &mut Waiting| waiting.events.is_empty() && !waiting.stop;
        let waiting = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.stop {
            return None;
        }
        waiting.events.front().cloned()
    }

    /// Lets time pass, unless it is over.
    fn rest(&self, wait: Duration) {
        let _over = self
            .changed
            .wait_timeout_while(self.lock(), wait, |waiting| !waiting.stop);
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }
}

/// One receiver, seen from the pipeline.
struct Feed {
    config: HookConfig,
    queue: Arc<Queue>,
    looked: EntryNumber,
    kept: EntryNumber,
}

impl Feed {
    fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX
    }

    /// Looks at an entry, the one after the last that it looked at.
    fn take(&mut self, ledger: &Ledger, entry: &Entry) {
        self.looked = entry.number;
        let Some(event) = event::of(ledger, entry) else {
            return;
        };
        let HookConfig { fleet, kinds, .. } = &self.config;
        let wanted = fleet.as_ref().is_none_or(|fleet| *fleet == event.fleet)
            && (kinds.is_empty() || kinds.iter().any(|kind| kind == event.kind.as_str()));
        if !wanted {
            return;
        }
        match body(&event) {
            Ok(body) => self.queue.push(event.entry, body.into()),
            Err(error) => {
                tracing::error!(entry = entry.number.value(), %error, "event not written: report this");
            }
        }
    }

    /// Before the first event that was not delivered.
    fn cursor(&self) -> EntryNumber {
        match self.queue.lock().events.front() {
            Some((first, _)) => EntryNumber(first.value().saturating_sub(1)),
            None => self.looked,
        }
    }
}

/// All receivers, seen from the pipeline.
pub(crate) struct Hooks {
    feeds: Vec<Feed>,
    observed: Arc<Observed>,
}

impl Hooks {
    /// Starts a thread for each receiver, which goes on after its cursor.
    ///
    /// # Errors
    /// When a cursor can't be read or written, or the system gives no thread.
    pub(crate) fn start(
        configs: &[HookConfig],
        node_key: &SigningKey,
        store: &mut Store,
        observed: &Arc<Observed>,
    ) -> Result<Self, HookError> {
        let mut feeds = Vec::new();
        for config in configs {
            let cursor = match store.hook(&config.name)? {
                Some(cursor) => cursor,
                None => {
                    let last = store.last();
                    store.keep_hook(&config.name, last)?;
                    last
                }
            };
            for outcome in ["delivered", "failed"] {
                let tries = &observed.metrics.hook_tries;
                tries.with_label_values(&[config.name.as_str(), outcome]);
            }
            let queue = Arc::new(Queue::default());
            let receiver = Receiver {
                config: config.clone(),
                key: key(node_key, &config.name).ok_or(HookError::Key)?,
                queue: Arc::clone(&queue),
                observed: Arc::clone(observed),
            };
            thread::Builder::new()
                .name(format!("hook-{}", config.name))
                .spawn(move || receiver.run())?;
            feeds.push(Feed {
                config: config.clone(),
                queue,
                looked: cursor,
                kept: cursor,
            });
        }
        Ok(Self {
            feeds,
            observed: Arc::clone(observed),
        })
    }

    /// Looks at entries that have just become durable. What there is no room for is read from the journal later.
    pub(crate) fn look(&mut self, ledger: &Ledger, entries: &[Entry]) {
        for feed in &mut self.feeds {
            for entry in entries {
                if Some(entry.number) == feed.looked.next() && feed.has_room() {
                    feed.take(ledger, entry);
                }
            }
        }
    }

    /// Looks at what was left out, and keeps the cursors.
    ///
    /// # Errors
    /// When the journal can't be read or a cursor not be written; nothing is lost by it.
    pub(crate) fn keep_up(&mut self, ledger: &Ledger, store: &mut Store) -> Result<(), StoreError> {
        for feed in &mut self.feeds {
            if feed.looked < ledger.last
                && feed.has_room()
                && let Some(next) = feed.looked.next()
            {
                for entry in store.reader().entries(next).take(LOOK_MAX) {
                    feed.take(ledger, &entry?);
                    if !feed.has_room() {
                        break;
                    }
                }
            }
            let cursor = feed.cursor();
            if cursor > feed.kept {
                store.keep_hook(&feed.config.name, cursor)?;
                feed.kept = cursor;
            }
            let gauge = &self.observed.metrics.hook_pending;
            gauge
                .with_label_values(&[feed.config.name.as_str()])
                .set(whole(feed.queue.len()));
        }
        Ok(())
    }

    /// Delivers nothing more. A try that is under way may still arrive, and comes again.
    pub(crate) fn stop(&self) {
        for feed in &self.feeds {
            feed.queue.stop();
        }
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why receivers can't be started.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A cursor.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread.
    #[error("the system gives no thread for web hooks: {0}: raise its limits")]
    Thread(#[from] io::Error),
    /// HMAC refused a key: a defect.
    #[error("a key for web hooks can't be derived: report this")]
    Key,
}

/// The certificates of a file.
///
/// # Errors
/// When it can't be read, or has none that can be.
pub fn roots(file: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let shown = file.display();
    let pem = fs::read(file).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let roots: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(root)) => Some(root),
            _ => None,
        })
        .collect();
    match roots.is_empty() {
        true => Err(format!("{shown} has no certificate in PEM")),
        false => Ok(roots),
    }
}

/// TLS by a file's roots, or by the system's, as towards a broker without `ca_file`. Without roots no address of
/// https is believed.
fn tls(ca: Option<&Path>) -> TlsConfig {
    let roots = match ca {
        Some(file) => roots(file).unwrap_or_default(),
        None => SYSTEM_ROOTS
            .iter()
            .find_map(|file| roots(Path::new(file)).ok())
            .unwrap_or_default(),
    };
    TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build()
}

/// One receiver, on its thread.
struct Receiver {
    config: HookConfig,
    key: Zeroizing<[u8; 32]>,
    queue: Arc<Queue>,
    observed: Arc<Observed>,
}

impl Receiver {
    fn run(self) {
        // No redirects: what is signed for one address is not shown to another. No proxy out of the environment: the
        // address is all there is to say where events go.
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(TRY_WITHIN))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls(self.config.ca.as_deref()))
            .user_agent(concat!("simquota-cloud/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let name = self.config.name.as_str();
        let tries = &self.observed.metrics.hook_tries;
        let mut wait = AGAIN;
        while let Some((entry, body)) = self.queue.first() {
            match self.deliver(&agent, entry, &body) {
                Ok(()) => {
                    self.queue.delivered(entry);
                    tries.with_label_values(&[name, "delivered"]).inc();
                    if wait > AGAIN {
                        tracing::info!(
                            hook = name,
                            entry = entry.value(),
                            "receiver takes events again"
                        );
                    }
                    wait = AGAIN;
                }
                Err(why) => {
                    tries.with_label_values(&[name, "failed"]).inc();
                    let wait_s = wait.as_secs();
                    tracing::warn!(
                        hook = name,
                        entry = entry.value(),
                        why,
                        wait_s,
                        "event not delivered"
                    );
                    self.queue.rest(wait);
                    wait = wait.saturating_mul(2).min(AGAIN_MAX);
                }
            }
        }
    }

    fn deliver(&self, agent: &Agent, entry: EntryNumber, body: &str) -> Result<(), String> {
        let timestamp_s = clock::now().value() / 1000;
        let signature = signature(&self.key, timestamp_s, body).ok_or("not signed")?;
        let answer = agent
            .post(&self.config.url)
            .header("Content-Type", "application/json")
            .header("Simquota-Event", entry.value().to_string())
            .header("Simquota-Timestamp", timestamp_s.to_string())
            .header("Simquota-Signature", signature)
            .send(body)
            .map_err(|error| error.to_string())?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("status {}", status.as_u16())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signature_is_hmac_sha_256_over_timestamp_dot_body() {
        // The same by `printf '1793452800.{}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07`.
        assert_eq!(
            signature(&[7; 32], 1_793_452_800, "{}").unwrap(),
            "v1=da2426715d0f4a9796f2fff8e029f788dd321937ddcdd7e236e020e49d291977"
        );
    }

    #[test]
    fn each_receiver_has_a_key_of_its_own() {
        let node = SigningKey::from_bytes(&[1; 32]);
        let key = |name: &str| key(&node, &name.parse().unwrap()).unwrap();
        assert_eq!(key("pager"), key("pager"));
        assert_ne!(key("pager"), key("books"));
    }

    #[test]
    fn only_the_first_event_is_taken_off_and_only_once() {
        let queue = Queue::default();
        queue.push(EntryNumber(4), "a".into());
        queue.push(EntryNumber(9), "b".into());
        queue.delivered(EntryNumber(9));
        assert_eq!(queue.len(), 2);
        queue.delivered(EntryNumber(4));
        queue.delivered(EntryNumber(4));
        assert_eq!(queue.first().unwrap().0, EntryNumber(9));
        queue.stop();
        assert!(queue.first().is_none());
    }
}
