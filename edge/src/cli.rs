//! The command line: parse, run, one exit code. Data goes to stdout, talk to stderr.

mod check;
mod gate;
mod outbox;
mod provision;
mod record;
mod run;
mod status;
mod table;
mod usage;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

use crate::config::{Config, ConfigError, DEFAULTS};

/// Exit code of a mistake in the command line or the configuration; everything else that fails is 1.
const EXIT_MISTAKE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "simquota-edge",
    version,
    about = "Meters a cloud SIM, asks for prepaid quota before traffic flows, and reports over MQTT.",
    after_help = "Begin with:
  simquota-edge provision < enrolment     writes edge.toml and edge.key from the line that the cloud printed; or
  simquota-edge config > edge.toml        all keys, explained; then set broker.host and source.interface
  simquota-edge check                     says what is missing, and what to do about it
  simquota-edge run                       meters until it is told to end (Ctrl-C, SIGTERM)
  simquota-edge status                    in another terminal"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write configuration and key file from the enrolment string that the cloud printed.
    Provision(provision::Provision),
    /// Run the agent.
    Run(run::Run),
    /// Show how the agent is, running or not.
    Status(status::Status),
    /// Show what was used, by hour, day or month.
    Usage(usage::Usage),
    /// Show what the cloud has not acknowledged yet.
    Outbox(outbox::Outbox),
    /// Look for what is missing or wrong, and say what to do.
    Check(check::Check),
    /// Shut or take away the gate in the kernel while the agent does not run.
    Gate(gate::Gate),
    /// Write a trace file from an interface.
    Record(record::Record),
    /// Print the default configuration, every key explained.
    Config,
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "edge.toml")]
    config: PathBuf,
}

impl ConfigFile {
    fn read(&self) -> Result<Config, ConfigError> {
        Config::read(&self.config)
    }
}

/// Runs the program. `args` begin with its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(talk) => {
            // Help and version are no mistakes. A closed pipe is nobody's.
            let _ = talk.print();
            return ExitCode::from(u8::try_from(talk.exit_code()).unwrap_or(EXIT_MISTAKE));
        }
    };
    let result = match cli.command {
        Command::Provision(provision) => provision.run(),
        Command::Run(run) => run.run(),
        Command::Status(status) => status.run(),
        Command::Usage(usage) => usage.run(),
        Command::Outbox(outbox) => outbox.run(),
        Command::Gate(gate) => gate.run(),
        Command::Check(check) => check.run(),
        Command::Record(record) => record.run(),
        Command::Config => print(DEFAULTS.trim_end()).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        // The last word: there is nobody left to tell if stderr is gone.
        let _ = writeln!(std::io::stderr(), "error: {}", line(&error));
        match error.downcast_ref::<ConfigError>() {
            Some(_) => ExitCode::from(EXIT_MISTAKE),
            None => ExitCode::FAILURE,
        }
    })
}

/// The error and its causes; most of our errors name theirs already.
fn line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match (line.is_empty(), line.contains(&cause)) {
            (true, _) => cause,
            (false, true) => line,
            (false, false) => format!("{line}: {cause}"),
        }
    })
}

/// `simquota-edge outbox | head` is not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// What the log shows; it can be changed while it runs.
struct Log(reload::Handle<Targets, Registry>);

impl Log {
    /// RUST_LOG goes before `filter`, as at the start.
    fn show(&self, filter: &str) -> anyhow::Result<()> {
        Ok(self.0.reload(shown(filter)?)?)
    }
}

fn shown(filter: &str) -> anyhow::Result<Targets> {
    let wanted = std::env::var("RUST_LOG").ok().filter(|set| !set.is_empty());
    wanted
        .as_deref()
        .unwrap_or(filter)
        .parse()
        .context("the log filter is not usable: write error, warn, info, debug or trace")
}

/// Sends the log to stderr. RUST_LOG goes before `filter`.
fn start_log(filter: &str) -> anyhow::Result<Log> {
    let (filter, handle) = reload::Layer::new(shown(filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // A log that was set up before, by a test that runs this in its own process, stays.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    Ok(Log(handle))
}
