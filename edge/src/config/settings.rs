//! What an agent needs, checked: parsed once, so that nothing after it has to look again.

use std::path::{Path, PathBuf};

use simquota_shared::ids::{DeviceId, IdError, Text};
use simquota_shared::tls::client_config;
use simquota_shared::units::{Octets, parse_octets};

use super::{
    AgentDown, Broker, ClockKind, Config, ConfigError, GateChoice, SourceKind, TableKeeping,
};
use crate::agent::AgentConfig;
use crate::io::channel::{Channel, Order};
use crate::io::counter::LinkOptions;
use crate::io::folder::Folder;
use crate::io::gate::GateKind;
use crate::io::gate::rules::Place;
use crate::io::keyfile::Enrolment;
use crate::io::store::Retention;
use crate::io::tls::TlsFiles;
use crate::io::trace::TraceOptions;

/// What an agent needs, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who the device is.
    pub enrolment: Enrolment,
    /// The broker.
    pub broker: Broker,
    /// Certificates and keys towards it; `None` connects without TLS.
    pub tls: Option<TlsFiles>,
    /// Which networks carry the connection to it.
    pub channels: Order,
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
    pub gate: GateSettings,
    /// Which acknowledged samples are kept.
    pub retention: Retention,
    /// What the pure agent is told. Its jitter is drawn at the start.
    pub agent: AgentConfig,
    /// The program that hears of SIMs, with its arguments; none without one.
    pub sim_hook: Vec<String>,
    /// End with the trace.
    pub exit_at_end: bool,
    /// Close the meter when the end is asked for.
    pub close_meter: bool,
}

/// The gate, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateSettings {
    /// [`GateKind::Observe`].
    Observe,
    /// [`GateKind::Trace`].
    Trace,
    /// [`GateKind::Nft`].
    Nft {
        /// Which traffic is the SIM's, and which of it the agent's.
        place: Place,
        /// What becomes of traffic while the agent does not run.
        down: AgentDown,
    },
    /// [`GateKind::Command`], with its arguments.
    Command(Vec<String>),
}

impl GateSettings {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> GateKind {
        match self {
            GateSettings::Observe => GateKind::Observe,
            GateSettings::Trace => GateKind::Trace,
            GateSettings::Nft { .. } => GateKind::Nft,
            GateSettings::Command(_) => GateKind::Command,
        }
    }
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
        let gate = self.gate_settings(&check)?;
        Ok(Settings {
            broker: self.checked_broker(&check)?,
            tls: self.tls(&check)?,
            channels: self.order(&check)?,
            sim_hook: self.sim.hook.clone(),
            status_file: status,
            agent: self.agent(&check, &enrolment.device, gate.kind())?,
            retention: Retention {
                keep_s: self.store.keep_days.saturating_mul(86_400),
                octets: match self.store.keep_days {
                    0 => Octets::ZERO,
                    _ => parse_octets(&self.store.keep)
                        .map_err(|why| check.value("store.keep", why.to_string()))?,
                },
            },
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

    /// The files of TLS, which must be there and fit: a mistake in them is told before anything runs.
    fn tls(&self, check: &Check<'_>) -> Result<Option<TlsFiles>, ConfigError> {
        let broker = &self.broker;
        let file = |path: &Path| (!path.as_os_str().is_empty()).then(|| check.base.join(path));
        let ca = file(&broker.ca_file);
        let pair = (
            file(&broker.certificate_file),
            file(&broker.certificate_key_file),
        );
        if !broker.tls {
            return match (ca, pair) {
                (None, (None, None)) => Ok(None),
                _ => Err(check.value(
                    "broker.tls",
                    "certificates are named, and TLS is off: write tls = true, or remove them",
                )),
            };
        }
        let identity = match pair {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(check.value(
                    "broker.certificate_file",
                    "a certificate and its key go together: set certificate_key_file too, or neither",
                ));
            }
        };
        let files = TlsFiles { ca, identity };
        let read = files.read().and_then(|pem| Ok(client_config(&pem)?));
        match read {
            Ok(_) => Ok(Some(files)),
            Err(error) => Err(check.value("broker.tls", error.to_string())),
        }
    }

    fn order(&self, check: &Check<'_>) -> Result<Order, ConfigError> {
        let wrong = |why: String| Err(check.value("channels.order", why));
        let mut channels: Vec<Channel> = Vec::new();
        for name in &self.channels.order {
            let fits = (1..=15).contains(&name.len()) && !name.contains(['/', ' ', '"']);
            if !fits {
                return wrong(format!(
                    "`{name}` is no interface: use \"sim\" or a name such as \"wlan0\""
                ));
            }
            let channel = match (name.as_str(), self.source.kind) {
                ("sim", SourceKind::Interface) => Channel::sim(&self.source.interface),
                ("sim", SourceKind::Trace) => {
                    return wrong("a trace carries nothing: name real interfaces only".to_owned());
                }
                (name, _) => Channel::other(name),
            };
            if channels
                .iter()
                .any(|other| other.interface == channel.interface)
            {
                return wrong(format!(
                    "{} is in it twice: leave one out",
                    channel.interface
                ));
            }
            channels.push(channel);
        }
        Ok(Order {
            channels,
            leave_ms: self.channels.leave_s.saturating_mul(1000),
        })
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

    /// What the gate in the kernel needs to know, for those who only set that.
    ///
    /// # Errors
    /// When the configuration names another gate.
    pub fn gate_place(&self, path: &Path) -> Result<(Place, AgentDown), ConfigError> {
        let check = Check {
            path,
            base: path.parent().unwrap_or(Path::new("")),
        };
        match self.gate_settings(&check)? {
            GateSettings::Nft { place, down } => Ok((place, down)),
            GateSettings::Observe | GateSettings::Trace | GateSettings::Command(_) => {
                Err(check.value("gate.kind", "only \"nft\" is a gate in the kernel"))
            }
        }
    }

    fn gate_settings(&self, check: &Check<'_>) -> Result<GateSettings, ConfigError> {
        match (self.gate.kind, self.source.kind) {
            (GateChoice::Observe, _) | (GateChoice::Auto, SourceKind::Interface) => {
                Ok(GateSettings::Observe)
            }
            (GateChoice::Trace | GateChoice::Auto, SourceKind::Trace) => Ok(GateSettings::Trace),
            (GateChoice::Trace, SourceKind::Interface) => Err(check.value(
                "gate.kind",
                "\"trace\" can hold back a trace only: use \"nft\" for an interface, or \"observe\"",
            )),
            (GateChoice::Nft | GateChoice::Command, SourceKind::Trace) => Err(check.value(
                "gate.kind",
                "a trace is held back by \"trace\" only: use that, or \"auto\"",
            )),
            (GateChoice::Nft, SourceKind::Interface) => Ok(GateSettings::Nft {
                place: Place {
                    interface: self.source.interface.clone(),
                    direction: self.source.direction,
                    uid: rustix::process::geteuid().as_raw(),
                    port: self.broker.port,
                    owned: self.gate.table == TableKeeping::Owned,
                },
                down: self.gate.agent_down,
            }),
            (GateChoice::Command, SourceKind::Interface) => match self.gate.command.is_empty() {
                true => Err(check.value(
                    "gate.command",
                    "it is empty: name the program, for example [\"/usr/lib/simquota/gate\"]",
                )),
                false => Ok(GateSettings::Command(self.gate.command.clone())),
            },
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
            // A trace waits for the agent, and a program of the user's can't be told of every window.
            armed: gate == GateKind::Nft,
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

    fn id<T: std::str::FromStr<Err = IdError>>(
        &self,
        key: &'static str,
        text: &str,
    ) -> Result<T, ConfigError> {
        text.parse()
            .map_err(|error: IdError| self.value(key, error.to_string()))
    }
}
