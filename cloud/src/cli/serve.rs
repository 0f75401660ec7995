//! `serve`: the service in the foreground, logging to stderr, until SIGTERM or Ctrl-C.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use super::Common;
use crate::config::Config;
use crate::io::http::LogSwitch;
use crate::io::serve::Service;

type Lines = tracing_subscriber::fmt::Layer<
    tracing_subscriber::Registry,
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    fn() -> std::io::Stderr,
>;
type Lined = tracing_subscriber::layer::Layered<Lines, tracing_subscriber::Registry>;

/// The log's filter, while it is in use.
struct Log {
    handle: reload::Handle<Targets, Lined>,
    directives: Mutex<String>,
}

impl LogSwitch for Log {
    fn set(&self, directives: &str) -> Result<(), String> {
        let words = "write for example: info,simquota_cloud=debug";
        // A word alone would be taken for a target, and all of it shown.
        let plain = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
        let filter: Targets = match directives.parse() {
            Ok(filter) if directives.split(',').all(plain) => filter,
            _ => return Err(format!("'{directives}' is no level: {words}")),
        };
        self.handle
            .reload(filter)
            .map_err(|error| error.to_string())?;
        *self
            .directives
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = directives.to_owned();
        Ok(())
    }

    fn current(&self) -> String {
        let directives = self.directives.lock();
        directives.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Log {
    /// SIGHUP: the file's line is in force, and nothing else of the file is read anew.
    fn reread(&self, path: &Path) {
        match Config::read(path) {
            Ok(config) => match self.set(&config.log) {
                Ok(()) => tracing::info!(directives = config.log, "log set by the file"),
                Err(why) => tracing::warn!(why, "log not set"),
            },
            Err(error) => tracing::warn!(%error, "log not set, the file can't be used"),
        }
    }
}

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    let wanted = std::env::var("RUST_LOG").ok().filter(|set| !set.is_empty());
    let directives = wanted
        .filter(|wanted| wanted.parse::<Targets>().is_ok())
        .unwrap_or_else(|| config.log.clone());
    let filter: Targets = directives.parse().context("log")?;
    let (filter, handle) = reload::Layer::new(filter);
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // In a process that logs already, its own settings stand.
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal() && !no_colour)
        .with_writer(std::io::stderr as fn() -> std::io::Stderr);
    let logging = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    // In a process that logs already, there is nothing here to change.
    let log = logging.is_ok().then(|| {
        Arc::new(Log {
            handle,
            directives: Mutex::new(directives),
        })
    });
    let switch = log.clone().map(|log| log as Arc<dyn LogSwitch>);
    let service = Service::start_with(&config, switch)?;
    let stopper = service.stopper();
    let runtime = service.runtime().context("the service has no runtime")?;
    let _entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
    let mut hang_up = signal(SignalKind::hangup()).context("can't listen for SIGHUP")?;
    let path = common.config.clone();
    runtime.spawn(async move {
        while hang_up.recv().await.is_some() {
            if let Some(log) = &log {
                log.reread(&path);
            }
        }
    });
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        stopper.stop();
    });
    drop(_entered);
    service.wait()?;
    Ok(())
}
