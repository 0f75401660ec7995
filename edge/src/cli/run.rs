//! `simquota-edge run`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigFile, Log, line, print, start_log};
use crate::config::{Metered, Settings};
use crate::io::service::Service;
use crate::run::{self, Control};

/// Run the agent until it is told to end.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge run                                  the configuration is edge.toml
  simquota-edge run --config bus.toml --speed 60     a trace, sixty times as fast
  RUST_LOG=debug simquota-edge run                   every message

Signals:
  TERM, INT   end in order: store the last octets, report, return what is left of the grant; again: end at once
  HUP         read the configuration again: broker, channels, quota.want, store.sync, poll_ms, sim, end and log change at
              once; for any other key the log says that it waits for the next start
  USR1        the device leaves the cloud SIM for another network
  USR2        it is on the cloud SIM again

`simquota-edge config` prints the configuration with every key explained.")]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigFile,
    /// Play the trace this many times as fast, whatever the configuration says.
    #[arg(long, value_name = "N")]
    speed: Option<u32>,
    /// At the end print the last status as one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let settings = self.settings()?;
        let log = start_log(&settings.log)?;
        let runtime = run::runtime()?;
        let (control, orders) = run::channel();
        let reader = Reader {
            run: self.clone(),
            log,
        };
        listen(&runtime, control, reader)
            .context("cannot listen to signals: check the system's limits")?;
        let orders = orders.under(Service::of_environment());
        let ended = run::run(&settings, orders, runtime.handle())?;
        if !ended.settled() {
            tracing::warn!(
                backlog = ended.last.agent.backlog,
                "not everything was reported or returned; the next start goes on with it"
            );
        }
        if self.json {
            print(&serde_json::to_string(&ended.last)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = self.config.read()?.settings(&self.config.config)?;
        if let Some(speed) = self.speed {
            match &mut settings.source {
                Metered::Trace(options) => options.speed = speed,
                Metered::Interface { .. } => {
                    anyhow::bail!(
                        "--speed is for a trace, the source is an interface: leave it out"
                    );
                }
            }
        }
        Ok(settings)
    }
}

/// Reads the configuration again.
struct Reader {
    run: Run,
    log: Log,
}

impl Reader {
    /// A configuration that can't be used changes nothing.
    fn read(&self) -> Option<Settings> {
        let read = self.run.settings().and_then(|settings| {
            self.log.show(&settings.log)?;
            Ok(settings)
        });
        match read {
            Ok(settings) => Some(settings),
            Err(error) => {
                let error = line(&error);
                tracing::error!(
                    error,
                    "the configuration was not read again; the agent goes on as it was"
                );
                None
            }
        }
    }
}

/// Turns signals into orders, on a task of its own.
fn listen(runtime: &Runtime, control: Control, reader: Reader) -> std::io::Result<()> {
    let _context = runtime.enter();
    let signals = Signals {
        term: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        leave: signal(SignalKind::user_defined1())?,
        back: signal(SignalKind::user_defined2())?,
    };
    runtime.spawn(obey(signals, control, reader));
    Ok(())
}

struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
    leave: Signal,
    back: Signal,
}

async fn obey(mut signals: Signals, control: Control, reader: Reader) {
    let mut asked = false;
    loop {
        tokio::select! {
            Some(()) = signals.leave.recv() => control.leave_sim(),
            Some(()) = signals.back.recv() => control.return_sim(),
            Some(()) = signals.hangup.recv() => {
                if let Some(settings) = reader.read() {
                    control.reload(settings);
                }
            }
            Some(()) = end(&mut signals.term, &mut signals.interrupt) => {
                if std::mem::replace(&mut asked, true) {
                    // What is durable stays; it is what a kill leaves too.
                    std::process::exit(1);
                }
                control.shutdown();
            }
            else => return,
        }
    }
}

async fn end(term: &mut Signal, interrupt: &mut Signal) -> Option<()> {
    tokio::select! {
        asked = term.recv() => asked,
        asked = interrupt.recv() => asked,
    }
}
