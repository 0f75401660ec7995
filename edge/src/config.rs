//! The configuration: what a TOML file may say, and what an agent needs ([`Settings`]).
//!
//! The shipped `edge.toml` holds every key with its default and what it means; it is built in, and a file of the
//! user's is laid over it.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use config::{ConfigError as Reading, File, FileFormat};
use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, Text};
use simquota_shared::units::parse_octets;

use crate::agent::AgentConfig;
use crate::io::counter::{Direction, LinkOptions};
use crate::io::folder::Folder;
use crate::io::gate::GateKind;
use crate::io::keyfile::{Enrolment, KeyFileError};
use crate::io::trace::TraceOptions;

/// The shipped file: every key, its default, and what it means.
pub const DEFAULTS: &str = include_str!("../edge.toml");

/// The configuration as it is written; nothing in it is checked yet but types and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "edge.toml says what each key means, and is what users read"
)]
pub struct Config {
    pub device: String,
    pub key_file: PathBuf,
    pub data: PathBuf,
    pub status_file: String,
    pub log: String,
    pub clock: ClockKind,
    pub broker: Broker,
    pub source: Source,
    pub gate: Gate,
    pub quota: Quota,
    pub store: Store,
    pub device_info: DeviceInfo,
    pub end: End,
}

/// Whose time is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockKind {
    /// The system's clock.
    System,
    /// No clock: time comes from the cloud.
    None,
}

/// `[broker]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub keep_alive_s: u16,
}

/// `[source]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Source {
    pub kind: SourceKind,
    pub interface: String,
    pub direction: Direction,
    pub l2_overhead: u64,
    pub wait: bool,
    pub file: String,
    pub speed: u32,
    pub repeat: bool,
    pub poll_ms: u64,
}

/// The kinds of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A Linux interface.
    Interface,
    /// A recording.
    Trace,
}

/// `[gate]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Gate {
    pub kind: GateChoice,
}

/// The kinds of gate that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateChoice {
    /// What fits the source.
    Auto,
    /// See [`GateKind::Observe`].
    Observe,
    /// See [`GateKind::Trace`].
    Trace,
}

/// `[quota]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Quota {
    pub want: String,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Store {
    pub sync: String,
}

/// `[device_info]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct DeviceInfo {
    pub serial: String,
    pub model: String,
    pub firmware: String,
    pub iccid: String,
    pub zone: String,
}

/// `[end]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct End {
    pub shutdown_s: u64,
    pub exit_at_end: bool,
    pub close_meter: bool,
}

/// What is wrong with a configuration: one line that names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {} ({source}): give its path with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{}: {why}: correct it (`simquota-edge config` explains all keys)", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A value that can't be used.
    #[error("{}: {key}: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with its value and what to do.
        why: String,
    },
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

/// What an agent needs, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who the device is.
    pub enrolment: Enrolment,
    /// The broker.
    pub broker: Broker,
    /// The data folder.
    pub data: PathBuf,
    /// Where the status goes.
    pub status_file: PathBuf,
    /// The default log filter.
    pub log: String,
    /// Whose time is trusted.
    pub clock: ClockKind,
    /// What is metered.
    pub source: Metered,
    /// The gate.
    pub gate: GateKind,
    /// What the pure agent is told. Its jitter is drawn at the start.
    pub agent: AgentConfig,
    /// End with the trace.
    pub exit_at_end: bool,
    /// Close the meter when the end is asked for.
    pub close_meter: bool,
}

/// Where an agent keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The data folder.
    pub data: PathBuf,
    /// The status file.
    pub status: PathBuf,
}

/// What is metered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metered {
    /// An interface.
    Interface {
        /// Which and how.
        options: LinkOptions,
        /// It may come later.
        wait: bool,
    },
    /// A trace.
    Trace(TraceOptions),
}

impl Config {
    /// The file's keys over the defaults.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Form`].
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, path)
    }

    /// The text's keys over the defaults. `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError::Form`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let layered = config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(text, FileFormat::Toml))
            .build();
        layered
            .and_then(config::Config::try_deserialize)
            .map_err(|error| ConfigError::Form {
                path: path.to_owned(),
                why: why(&error),
            })
    }

    /// Where things are, for those who only look. `path` is the file that the configuration came from.
    #[must_use]
    pub fn places(&self, path: &Path) -> Places {
        let base = path.parent().unwrap_or(Path::new(""));
        let data = base.join(&self.data);
        let status = match self.status_file.as_str() {
            "" => data.join("status.json"),
            named => base.join(named),
        };
        Places { data, status }
    }

    /// What an agent needs: everything is checked, the key file is read, paths are resolved.
    ///
    /// `path` is the file that the configuration came from.
    ///
    /// # Errors
    /// [`ConfigError`]; the first thing that is wrong.
    pub fn settings(&self, path: &Path) -> Result<Settings, ConfigError> {
        let check = Check {
            path,
            base: path.parent().unwrap_or(Path::new("")),
        };
        let enrolment = Enrolment::read(&check.base.join(&self.key_file))?;
        if !self.device.is_empty() && self.device != enrolment.device.as_str() {
            let why = format!(
                "`{}` is not the device in the key file, `{}`: leave it empty or use the other key file",
                self.device, enrolment.device
            );
            return Err(check.value("device", why));
        }
        let Places { data, status } = self.places(path);
        let source = self.metered(&check, &data)?;
        let gate = self.gate_kind(&check)?;
        Ok(Settings {
            broker: self.checked_broker(&check)?,
            status_file: status,
            agent: self.agent(&check, &enrolment.device, gate)?,
            data,
            log: self.log.clone(),
            clock: self.clock,
            source,
            gate,
            exit_at_end: self.end.exit_at_end,
            close_meter: self.end.close_meter,
            enrolment,
        })
    }

    fn checked_broker(&self, check: &Check<'_>) -> Result<Broker, ConfigError> {
        let broker = self.broker.clone();
        if broker.host.trim().is_empty() {
            return Err(check.value(
                "broker.host",
                "it is empty: set the broker's name or address",
            ));
        }
        if broker.port == 0 {
            return Err(check.value("broker.port", "0 is no port: brokers listen on 1883 mostly"));
        }
        if broker.keep_alive_s < 5 {
            let why = format!("{} is too short: use at least 5", broker.keep_alive_s);
            return Err(check.value("broker.keep_alive_s", why));
        }
        Ok(broker)
    }

    fn metered(&self, check: &Check<'_>, data: &Path) -> Result<Metered, ConfigError> {
        let source = &self.source;
        if source.poll_ms == 0 {
            return Err(check.value("source.poll_ms", "0 would read without a pause: use 1000"));
        }
        match source.kind {
            SourceKind::Interface if source.interface.is_empty() => Err(check.value(
                "source.interface",
                "it is empty: name the SIM's interface, for example \"wwan0\"",
            )),
            SourceKind::Interface => Ok(Metered::Interface {
                options: LinkOptions {
                    interface: source.interface.clone(),
                    direction: source.direction,
                    l2_overhead: source.l2_overhead,
                },
                wait: source.wait,
            }),
            SourceKind::Trace if source.file.is_empty() => Err(check.value(
                "source.file",
                "it is empty: name a trace, for example one that `simquota-edge record` wrote",
            )),
            SourceKind::Trace => Ok(Metered::Trace(TraceOptions {
                trace: check.base.join(&source.file),
                state: Folder::trace_state(data),
                speed: source.speed,
                repeat: source.repeat,
            })),
        }
    }

    fn gate_kind(&self, check: &Check<'_>) -> Result<GateKind, ConfigError> {
        match (self.gate.kind, self.source.kind) {
            (GateChoice::Observe, _) | (GateChoice::Auto, SourceKind::Interface) => {
                Ok(GateKind::Observe)
            }
            (GateChoice::Trace | GateChoice::Auto, SourceKind::Trace) => Ok(GateKind::Trace),
            (GateChoice::Trace, SourceKind::Interface) => Err(check.value(
                "gate.kind",
                "\"trace\" can hold back a trace only: use \"observe\" for an interface",
            )),
        }
    }

    fn agent(
        &self,
        check: &Check<'_>,
        device: &DeviceId,
        gate: GateKind,
    ) -> Result<AgentConfig, ConfigError> {
        let info = &self.device_info;
        let zone = check.id("device_info.zone", &info.zone)?;
        let defaults = AgentConfig::new(device.clone(), zone);
        let octets =
            |key, text: &str| parse_octets(text).map_err(|why| check.value(key, why.to_string()));
        let want = octets("quota.want", &self.quota.want)?;
        if want.0 == 0 {
            return Err(check.value("quota.want", "0 asks for nothing: use \"1 MB\""));
        }
        Ok(AgentConfig {
            serial: match info.serial.as_str() {
                "" => defaults.serial.clone(),
                serial => check.id("device_info.serial", serial)?,
            },
            model: check.id("device_info.model", &info.model)?,
            firmware: check.id("device_info.firmware", &info.firmware)?,
            capabilities: vec![Text::clipped(gate.capability())],
            iccid: match info.iccid.as_str() {
                "" => None,
                iccid => Some(check.id("device_info.iccid", iccid)?),
            },
            want,
            sync_octets: octets("store.sync", &self.store.sync)?,
            poll_ms: self.source.poll_ms,
            observe: gate == GateKind::Observe,
            shutdown_ms: self.end.shutdown_s.saturating_mul(1000),
            ..defaults
        })
    }
}

struct Check<'a> {
    path: &'a Path,
    base: &'a Path,
}

impl Check<'_> {
    fn value(&self, key: &'static str, why: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            key,
            why: why.into(),
        }
    }

    fn id<T: std::str::FromStr<Err = simquota_shared::ids::IdError>>(
        &self,
        key: &'static str,
        text: &str,
    ) -> Result<T, ConfigError> {
        text.parse()
            .map_err(|error: simquota_shared::ids::IdError| self.value(key, error.to_string()))
    }
}

/// One line out of what may be a picture of the place in the file.
fn why(error: &Reading) -> String {
    let text = error.to_string();
    // "enum SourceKind does not have variant constructor modem for key `source.kind`"
    if let Some((_, named)) = text.split_once(" does not have variant constructor ") {
        let (value, key) = named.split_once(' ').unwrap_or((named, ""));
        return format!("\"{value}\" is not a value {key}")
            .trim_end()
            .to_owned();
    }
    let parts = text.lines().map(str::trim).filter(|line| {
        let picture = line.contains('|') || line.chars().all(|c| matches!(c, '^' | ' '));
        !picture && !line.is_empty()
    });
    parts.collect::<Vec<_>>().join(": ")
}
