//! `serve`: the service in the foreground, logging to stderr, until SIGTERM or Ctrl-C.

use std::io::IsTerminal;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use super::Common;
use crate::config::Config;
use crate::io::serve::Service;

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    let wanted = std::env::var("RUST_LOG").ok().filter(|set| !set.is_empty());
    let filter: Targets = wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // In a process that logs already, its own settings stand.
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal() && !no_colour)
        .with_writer(std::io::stderr);
    let logging = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    drop(logging);
    let service = Service::start(&config)?;
    let stopper = service.stopper();
    let runtime = service.runtime().context("the service has no runtime")?;
    let _entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for Ctrl-C")?;
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
