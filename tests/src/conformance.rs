//! The conformance kit: the cloud's side of PROTOCOL.md, played by hand against any device over any broker.
//!
//! It repeats an answer, loses one, sends them of other epochs and under other keys, lowers the ceiling, falls silent,
//! restricts, throttles, lets the device hold a grant it does not use, revokes, ends the epoch, and says for each rule whether the device keeps it. What the device has to bring is its enrolment string
//! and traffic that never ends.

mod cloud;
mod line;
mod rules;
mod script;
mod tls;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use self::cloud::{Cloud, Subject};
use self::line::Line;

/// The kit could not do its work.
const FAILED: u8 = 2;

/// Plays the cloud against one device, and says which rules of the protocol it keeps and which it breaks.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo conformance --",
    after_help = "The real cloud must not listen on this broker. Start the kit, then the device, with traffic that never ends and
of more than GRANT octets in ten seconds; a pause of six seconds now and then shows whether it keeps the holding
time. It takes a minute or two, most of it the device's own timers.

Example: cargo conformance -- --broker mqtt://127.0.0.1:1883 --device tracker.key

Exit code: 0 no rule broken, 1 some broken or not reached, 2 the kit could not run."
)]
struct Options {
    /// The broker: mqtt://HOST:PORT, or mqtts://HOST:PORT with --ca. The kit speaks MQTT 3.1.1.
    #[arg(long, value_name = "URL")]
    broker: String,
    /// Whose certificates the broker may have, PEM; for mqtts://.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The file with the device's enrolment string, csim1:….
    #[arg(long, value_name = "FILE")]
    device: PathBuf,
    /// User and password of the kit at the broker: USER:PASSWORD.
    #[arg(long, value_name = "CREDENTIALS")]
    login: Option<String>,
    /// Octets of a grant.
    #[arg(long, value_name = "OCTETS", default_value_t = 20_000)]
    grant: u64,
    /// How long to wait for what the device does by its timers, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait_s: u64,
    /// How much longer to wait for a new epoch, in seconds: a device may put it off until 60 s after its start.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    epoch_s: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the kit. `args` begin with the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(talk) => {
            // Help is no mistake, and a closed pipe is nobody's.
            let _ = talk.print();
            return ExitCode::from(u8::try_from(talk.exit_code()).unwrap_or(FAILED));
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(&options.device)
        .with_context(|| format!("can't read {}", options.device.display()))?;
    let subject = Subject::parse(&text)?;
    let line = Line::connect(
        &options.broker,
        options.ca.as_deref(),
        options.login.as_deref(),
        &subject.device,
    )?;
    let mut cloud = Cloud::new(subject, line, options.grant);
    cloud.wait = Duration::from_secs(options.wait_s);
    cloud.epoch_wait = Duration::from_secs(options.epoch_s);
    writeln!(std::io::stderr(), "listening: start the device now")?;
    let report = script::play(&mut cloud)?;
    let text = if options.json {
        report.to_json()
    } else {
        report.to_table()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.passed())
}
