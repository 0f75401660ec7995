//! The service: starts store, connections and pipeline, and stops them in order.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ed25519_dalek::SigningKey;
use simquota_shared::envelope::{self, Key, Kid};
use simquota_shared::ids::{IdError, KeyId};
use simquota_shared::topic::filter;
use tokio::runtime::{Builder, Handle, Runtime};

use super::clock;
use super::hooks::{HookError, Hooks};
use super::http::{self, LogSwitch, Observed};
use super::keys::{ADMIN, KeyError, KeyFolder, node_user};
use super::metrics::Metrics;
use super::mqtt::{self, Line, Options, OptionsError, Will};
use super::pipeline::{Inbox, Lane, Parts, Pipeline, commit_first, node_status};
use super::query::Desk;
use super::store::{Store, StoreError};
use super::verify::Verifier;
use crate::config::Config;
use crate::ledger::Broken;

/// Publishes that may be unacknowledged at a time, on each connection: more than a batch is answered with. While this
/// window is full the client library sends nothing, our acknowledgements included; and the embedded broker, while
/// its window of 100 is full, acknowledges nothing before it has those. Both would wait for the other for ever.
const INFLIGHT: u16 = 1000;
/// Octets that may wait for the pipeline on each connection.
const INBOX_OCTETS: usize = 64 * 1024 * 1024;
/// The connections' tasks are light; the work is done on the pipeline's thread.
const RUNTIME_THREADS: usize = 2;

/// Why the service does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A key is missing or can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker's options can't be used.
    #[error("the broker's settings can't be used: {0}")]
    Broker(#[from] OptionsError),
    /// The first entry could not be made.
    #[error("the ledger does not take its first entry ({0}): report this")]
    Broken(Broken),
    /// An id of ours is none: a defect.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The system gives no thread or socket.
    #[error("the system gives no threads: {0}: raise its limits")]
    System(#[from] io::Error),
    /// A message of our own can't be written: a defect.
    #[error("the last will can't be written ({0}): report this")]
    Will(String),
    /// The receivers of web hooks can't be started.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A metric can't be made: a defect.
    #[error("a metric can't be made ({0}): report this")]
    Metrics(String),
    /// A thread panicked: a defect.
    #[error("the service stopped by a panic, see the lines above: report this and start it again")]
    Panicked,
}

/// A running service. Dropping it without [`Service::stop`] asks it to stop and does not wait.
pub struct Service {
    inbox: Arc<Inbox>,
    pipeline: Option<JoinHandle<Result<(), ServeError>>>,
    runtime: Option<Runtime>,
}

impl Service {
    /// Starts the service and returns at once; it connects to the broker by itself, and again whenever that goes.
    ///
    /// # Errors
    /// [`ServeError`] for everything that can be known before there is a connection: keys, store, settings.
    pub fn start(config: &Config) -> Result<Self, ServeError> {
        Self::start_with(config, None)
    }

    /// The same, with a log whose level can be changed over HTTP.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn start_with(
        config: &Config,
        log: Option<Arc<dyn LogSwitch>>,
    ) -> Result<Self, ServeError> {
        let folder = KeyFolder::open(&config.data)?;
        let node_key = folder.node()?;
        let metrics = Metrics::new().map_err(|error| ServeError::Metrics(error.to_string()))?;
        let observed = Arc::new(Observed::new(metrics));
        let runtime = Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("mqtt")
            .enable_all()
            .build()?;
        // First of all: reading a long journal takes its time, and who asks should be told so.
        http::serve(
            runtime.handle(),
            config.http,
            folder.clone(),
            Arc::clone(&observed),
            log,
        );
        let started_ms = clock::monotonic_ms();
        let mut store = Store::open(&config.store_folder())?;
        let mut ledger = store.load()?;
        clock::begin(ledger.now);
        tracing::info!(
            node = %config.node,
            entries = ledger.last.value(),
            devices = ledger.devices.len(),
            took_ms = clock::monotonic_ms().saturating_sub(started_ms),
            "ledger read"
        );
        if ledger.keys.is_empty() {
            let admin: KeyId = ADMIN.parse()?;
            // Without its key nobody could ever command this service.
            folder.latest_person(&admin)?;
            commit_first(
                &mut store,
                &mut ledger,
                &config.rules,
                clock::steady(),
                &admin,
            )?;
            tracing::info!(key = %admin, "first admin key admitted");
        }
        observed.recovered(&ledger);
        let hooks = Hooks::start(&config.hooks, &node_key, &mut store, &observed)?;
        let inbox = Arc::new(Inbox::new(INBOX_OCTETS));
        let connect = |lane| connect(config, &node_key, runtime.handle(), &inbox, lane);
        let parts = Parts {
            published: store.published()?,
            store,
            ledger,
            verifier: Verifier::new(folder, config.node.clone(), node_key.verifying_key()),
            control: connect(Lane::Control)?,
            usage: connect(Lane::Usage)?,
            node_key: node_key.clone(),
            desk: Desk::open(Arc::clone(&inbox), config.data.join("backups"))?,
            inbox: Arc::clone(&inbox),
            observed,
            hooks,
        };
        let pipeline = Pipeline::new(config, parts);
        let pipeline = thread::Builder::new()
            .name("pipeline".to_owned())
            .spawn(move || pipeline.run())?;
        Ok(Self {
            inbox,
            pipeline: Some(pipeline),
            runtime: Some(runtime),
        })
    }

    /// Asks the service to stop; [`Service::wait`] says when it has. May be called from any thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.inbox))
    }

    /// Stops it: what was received is finished, a checkpoint is written, the broker is told.
    ///
    /// # Errors
    /// [`ServeError`] when it had failed before.
    pub fn stop(self) -> Result<(), ServeError> {
        self.inbox.stop();
        self.wait()
    }

    /// Waits until it has stopped, by a [`Stopper`] or because the store is gone for good.
    ///
    /// # Errors
    /// [`ServeError`] in the latter case.
    pub fn wait(mut self) -> Result<(), ServeError> {
        let ended = match self.pipeline.take() {
            Some(pipeline) => pipeline.join().unwrap_or(Err(ServeError::Panicked)),
            None => Ok(()),
        };
        // Dropping the rest ends the connections' tasks; the pipeline has waited for their goodbyes.
        ended
    }

    /// Where tasks that belong to the service may run.
    #[must_use]
    pub fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(runtime) = self.runtime.take() {
            // May be called on another runtime's thread, where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// Stops a service from elsewhere.
#[derive(Clone)]
pub struct Stopper(Arc<Inbox>);

impl Stopper {
    /// Asks it to stop.
    pub fn stop(&self) {
        self.0.stop();
    }
}

fn connect(
    config: &Config,
    node_key: &SigningKey,
    runtime: &Handle,
    inbox: &Arc<Inbox>,
    lane: Lane,
) -> Result<Line, ServeError> {
    let subscriptions = match lane {
        // Events come back to us: then they are published.
        Lane::Control => [filter::control(), vec![filter::events()]].concat(),
        Lane::Usage => vec![filter::usage()],
    };
    let will = match lane {
        Lane::Control => Some(last_will(config, node_key)?),
        Lane::Usage => None,
    };
    let options = Options {
        client_id: format!("simquota-{}-{lane}", config.node),
        host: config.broker.host.clone(),
        port: config.broker.port,
        tls: config.broker.tls.clone(),
        credentials: match config.broker.derived {
            true => Some((
                node_user(&config.node),
                Key::new(node_key.to_bytes()).mqtt_password().to_string(),
            )),
            false => config.broker.credentials.clone(),
        },
        keep_alive_s: config.broker.keep_alive_s,
        will,
        subscriptions,
        looks_on: false,
        inflight: INFLIGHT,
        receive_max: config.limits.receive_max,
        session_expiry_s: config.broker.session_expiry_s,
    };
    let inbox = Arc::clone(inbox);
    Ok(mqtt::connect(runtime, options, move |event| {
        inbox.on_event(lane, event)
    })?)
}

fn last_will(config: &Config, node_key: &SigningKey) -> Result<Will, ServeError> {
    let lost = node_status(&config.node, false, "lost", clock::steady());
    let lost = lost.ok_or_else(|| ServeError::Will("its status has no form".to_owned()))?;
    let topic = lost.topic.to_string();
    let kid = Kid::first(&config.node);
    let payload = envelope::sign(node_key, &kid, &topic, &lost.payload)
        .map_err(|error| ServeError::Will(error.to_string()))?;
    Ok(Will { topic, payload })
}
