//! `simquota-edge check`: one line for each finding, and what to do about it.

use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use simquota_shared::units::{Octets, human};

use super::{ConfigFile, print};
use crate::config::{Broker, Config, Metered, Settings};
use crate::io::clock;
use crate::io::counter::{LinkSource, Source};
use crate::io::folder::{Folder, FolderError};
use crate::io::mirror::Mirror;
use crate::io::store::Store;
use crate::io::trace::TraceSource;

/// For the connection to the broker.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Journals and tables of a device with months of backlog (facts of the store).
const FREE_OCTETS_MIN: u64 = 128_000_000;
/// 2024-01-01. A clock before that was never set.
const CLOCK_SET_MS: u64 = 1_704_067_200_000;

/// Look for what is missing or wrong, and say what to do.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0: the agent can run (there may be warnings). 1: it can't. 2: the configuration is wrong.

Examples:
  simquota-edge check
  simquota-edge check --config bus.toml --json"
)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// A JSON array of findings.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    says: String,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = &self.config.config;
        let config: Config = self.config.read()?;
        let settings = config.settings(path)?;
        let mut findings = vec![
            ok("configuration", path.display().to_string()),
            ok(
                "key",
                format!(
                    "device {}, key {}",
                    settings.enrolment.device, settings.enrolment.kid
                ),
            ),
            source(&settings),
        ];
        findings.extend(data(&settings));
        findings.push(broker(&settings.broker));
        findings.push(clock_finding(clock::wall_ms()));
        match self.json {
            true => print(&serde_json::to_string_pretty(&findings)?)?,
            false => print(&lines(&findings))?,
        }
        let failed = findings
            .iter()
            .any(|finding| finding.verdict == Verdict::Error);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn lines(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Error => "error",
        };
        format!("{verdict:<7}  {:<13}  {}", finding.what, finding.says)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn ok(what: &'static str, says: String) -> Finding {
    Finding {
        verdict: Verdict::Ok,
        what,
        says,
    }
}

fn warning(what: &'static str, says: String) -> Finding {
    Finding {
        verdict: Verdict::Warning,
        what,
        says,
    }
}

fn error(what: &'static str, says: impl ToString) -> Finding {
    Finding {
        verdict: Verdict::Error,
        what,
        says: says.to_string(),
    }
}

fn source(settings: &Settings) -> Finding {
    match &settings.source {
        Metered::Interface { options, wait } => {
            let read = LinkSource::open(options.clone()).and_then(|mut source| source.read(0));
            match read {
                Ok(reading) => {
                    let counted = reading.up.saturating_add(reading.down);
                    ok(
                        "source",
                        format!(
                            "interface {} has counted {}",
                            options.interface,
                            human(Octets(counted))
                        ),
                    )
                }
                Err(failed) if *wait => {
                    warning("source", format!("{failed} (the agent waits for it)"))
                }
                Err(failed) => error("source", failed),
            }
        }
        Metered::Trace(options) => {
            // In a folder of its own: the counter of the real one may be in use, and must not be made here.
            let scratch = options.state.with_extension("check");
            let opened = match options.state.parent() {
                Some(folder) => std::fs::create_dir_all(folder)
                    .err()
                    .map(|failed| failed.to_string()),
                None => None,
            };
            if let Some(failed) = opened {
                return error(
                    "source",
                    format!("cannot make the data folder ({failed}): correct `data`"),
                );
            }
            let probe = crate::io::trace::TraceOptions {
                state: scratch.clone(),
                ..options.clone()
            };
            let found = match TraceSource::open(&probe) {
                Ok(source) => {
                    let octets = human(Octets(source.round_octets()));
                    ok(
                        "source",
                        format!("trace {} has {octets}", options.trace.display()),
                    )
                }
                Err(failed) => error("source", failed),
            };
            // It was only made to look.
            let _ = std::fs::remove_file(scratch);
            found
        }
    }
}

fn data(settings: &Settings) -> Vec<Finding> {
    let folder = match Folder::take(&settings.data) {
        Ok(folder) => folder,
        Err(locked @ FolderError::Locked { .. }) => {
            return vec![warning(
                "store",
                format!("not looked at, an agent runs: {locked}"),
            )];
        }
        Err(other) => return vec![error("data", other)],
    };
    let mut findings = vec![free(settings)];
    findings.push(match Store::open(&folder.store()) {
        Ok((_, Some(state))) => ok(
            "store",
            format!(
                "epoch {}, {} used, {} rows not acknowledged",
                state.epoch,
                human(state.used),
                state.backlog()
            ),
        ),
        Ok((_, None)) => match Mirror::open(folder.path())
            .ok()
            .and_then(|mirror| mirror.last().cloned())
        {
            Some(last) => warning(
                "store",
                format!(
                    "it is empty, but epoch {} was there: the agent closes it and begins another",
                    last.epoch
                ),
            ),
            None => ok("store", "empty, the agent was never started".to_owned()),
        },
        Err(failed) => error("store", failed),
    });
    findings
}

fn free(settings: &Settings) -> Finding {
    match rustix::fs::statvfs(&settings.data) {
        Ok(space) => {
            let octets = space.f_bavail.saturating_mul(space.f_frsize);
            let says = format!(
                "{} has {} free",
                settings.data.display(),
                human(Octets(octets))
            );
            match octets < FREE_OCTETS_MIN {
                true => warning(
                    "data",
                    format!("{says}: {} should be", human(Octets(FREE_OCTETS_MIN))),
                ),
                false => ok("data", says),
            }
        }
        Err(failed) => error(
            "data",
            format!(
                "cannot look at {} ({failed}): correct `data`",
                settings.data.display()
            ),
        ),
    }
}

/// An unreachable broker is no error: the agent tries again and again.
fn broker(broker: &Broker) -> Finding {
    let name = format!("{}:{}", broker.host, broker.port);
    let addresses = match (broker.host.as_str(), broker.port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(failed) => {
            return warning(
                "broker",
                format!("{name} is not found ({failed}): correct broker.host"),
            );
        }
    };
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
            Ok(_) => return ok("broker", format!("{name} is reached")),
            Err(failed) => why = failed.to_string(),
        }
    }
    warning(
        "broker",
        format!(
            "{name} is not reached ({why}): start the broker, or correct [broker]; the agent tries again by itself"
        ),
    )
}

fn clock_finding(now_ms: u64) -> Finding {
    match now_ms >= CLOCK_SET_MS {
        true => ok("clock", "set".to_owned()),
        false => warning(
            "clock",
            "not set: rows are dated once the cloud has told the time".to_owned(),
        ),
    }
}
