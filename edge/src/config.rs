//! The configuration: what a TOML file may say, and what an agent needs ([`Settings`]).
//!
//! The shipped `edge.toml` holds every key with its default and what it means; it is built in, and a file of the
//! user's is laid over it.

mod settings;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use config::{ConfigError as Reading, File, FileFormat};
use serde::{Deserialize, Serialize};

use crate::io::counter::Direction;
use crate::io::keyfile::KeyFileError;
pub use settings::{GateSettings, Metered, Places, Settings};

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
    pub channels: Channels,
    pub source: Source,
    pub gate: Gate,
    pub quota: Quota,
    pub store: Store,
    pub device_info: DeviceInfo,
    pub sim: Sim,
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
    pub tls: bool,
    pub ca_file: PathBuf,
    pub certificate_file: PathBuf,
    pub certificate_key_file: PathBuf,
    pub keep_alive_s: u16,
}

/// `[channels]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Channels {
    pub order: Vec<String>,
    pub leave_s: u64,
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
    pub command: Vec<String>,
    pub agent_down: AgentDown,
    pub table: TableKeeping,
}

/// Who may change the gate's table while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKeeping {
    /// The agent alone, where the kernel has that.
    Owned,
    /// Everybody with the right; it is mended.
    Shared,
}

/// What becomes of traffic while the agent does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentDown {
    /// It stops where it was allowed to.
    Block,
    /// It passes, unmetered until the agent is back.
    Allow,
}

/// The kinds of gate that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateChoice {
    /// What fits the source.
    Auto,
    /// See [`GateKind::Observe`](crate::io::gate::GateKind::Observe).
    Observe,
    /// See [`GateKind::Trace`](crate::io::gate::GateKind::Trace).
    Trace,
    /// See [`GateKind::Nft`](crate::io::gate::GateKind::Nft).
    Nft,
    /// See [`GateKind::Command`](crate::io::gate::GateKind::Command).
    Command,
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
    pub keep_days: u64,
    pub keep: String,
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

/// `[sim]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "edge.toml says what each key means")]
pub struct Sim {
    pub hook: Vec<String>,
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
