//! `simquota-edge run`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigFile, print, start_log};
use crate::config::{Metered, Settings};
use crate::run::{self, Control};

/// Run the agent until it is told to end.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge run                                  the configuration is edge.toml
  simquota-edge run --config bus.toml --speed 60     a trace, sixty times as fast
  RUST_LOG=debug simquota-edge run                   every message

Signals:
  TERM, INT   end in order: store the last octets, report, return what is left of the grant; again: end at once
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
        start_log(&settings.log)?;
        let runtime = run::runtime()?;
        let (control, orders) = run::channel();
        listen(&runtime, control).context("cannot listen to signals: check the system's limits")?;
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

/// Turns signals into orders, on a task of its own.
fn listen(runtime: &Runtime, control: Control) -> std::io::Result<()> {
    let _context = runtime.enter();
    let term = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let leave = signal(SignalKind::user_defined1())?;
    let back = signal(SignalKind::user_defined2())?;
    runtime.spawn(obey([term, interrupt, leave, back], control));
    Ok(())
}

async fn obey([mut term, mut interrupt, mut leave, mut back]: [Signal; 4], control: Control) {
    let mut asked = false;
    loop {
        tokio::select! {
            Some(()) = leave.recv() => control.leave_sim(),
            Some(()) = back.recv() => control.return_sim(),
            Some(()) = async { tokio::select! { a = term.recv() => a, b = interrupt.recv() => b } } => {
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
