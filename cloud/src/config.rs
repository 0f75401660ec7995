//! `cloud.toml`. The shipped file is the defaults and the documentation; a test holds it and these types together.

mod operators;
mod raw;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use config::{ConfigError, File, FileFormat};
use simquota_shared::ids::{NodeId, Text};
use simquota_shared::message::{FinalAction, Policy};
use simquota_shared::tls::client_config;
use simquota_shared::units::{Octets, parse_octets};
use zeroize::Zeroizing;

use raw::{Raw, RawBroker, RawCommand, RawGrant, RawLimits, RawPolicy, RawRegistration};

use crate::charging::Rules;
use crate::io::admission;
use crate::io::hooks::HookConfig;
use crate::io::http::HttpConfig;
use crate::io::tls::TlsFiles;

/// The shipped, commented defaults.
pub const SHIPPED: &str = include_str!("../cloud.toml");

/// What stands for a file of credentials when they are derived from keys.
const DERIVED: &str = "derived";

/// Everything that the service goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This service's name.
    pub node: NodeId,
    /// Where ledger and keys are.
    pub data: PathBuf,
    /// How to reach the broker.
    pub broker: Broker,
    /// What decisions go by.
    pub rules: Rules,
    /// How much may come in and go out.
    pub limits: Limits,
    /// Entries from one checkpoint to the next.
    pub checkpoint_entries: u64,
    /// What is logged, unless `RUST_LOG` says otherwise.
    pub log: String,
    /// Where operators ask.
    pub http: HttpConfig,
    /// Who is told of events over HTTP.
    pub hooks: Vec<HookConfig>,
}

/// How to reach the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Certificates and keys; `None` connects without TLS.
    pub tls: Option<TlsFiles>,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// User and password are derived from the keys of whoever connects.
    pub derived: bool,
    /// Seconds between pings.
    pub keep_alive_s: u16,
    /// Seconds that the broker keeps the session.
    pub session_expiry_s: u32,
    /// Whether the service tests that its subscriptions deliver.
    pub self_test: bool,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Everything but the password.
        write!(f, "Broker({}:{})", self.host, self.port)
    }
}

/// How much may come in and go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that are let in.
    pub admission: admission::Limits,
    /// Refused messages published a second.
    pub rejected_per_s: u32,
    /// Messages in one batch.
    pub batch_max: usize,
    /// Deliveries that may be unacknowledged at a time.
    pub receive_max: u16,
    /// How long an answer may wait for a place on the line.
    pub send_wait_ms: u64,
}

/// A mistake in the configuration: one line that names the key and what to write.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMistake {
    /// The file can't be read.
    #[error("can't read {}: {source}: name another file with --config, or make one with `simquota-cloud init`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of another kind.
    #[error("{}: {text}: compare it with the shipped cloud.toml", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// A value that can't be.
    #[error("{}: {key}: {text}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong and what to write.
        text: String,
    },
}

impl Config {
    /// Reads a file; what it does not say is as in [`SHIPPED`].
    ///
    /// # Errors
    /// [`ConfigMistake`], one line.
    pub fn read(path: &Path) -> Result<Self, ConfigMistake> {
        let text = fs::read_to_string(path).map_err(|source| ConfigMistake::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads a text as if it stood in `path`, where relative paths start.
    ///
    /// # Errors
    /// [`ConfigMistake`], one line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigMistake> {
        let raw: Raw = config::Config::builder()
            .add_source(File::from_str(SHIPPED, FileFormat::Toml))
            .add_source(File::from_str(text, FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| ConfigMistake::Form {
                path: path.to_owned(),
                text: one_line(&error),
            })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let at = At { path, folder };
        at.config(raw)
    }

    /// Where the ledger is.
    #[must_use]
    pub fn store_folder(&self) -> PathBuf {
        self.data.join("ledger")
    }
}

fn one_line(error: &ConfigError) -> String {
    let text = error.to_string();
    // TOML errors draw the line with a caret below it: the first and the last line say it all.
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first,
    }
}

/// Where values stand, for what is said about them.
struct At<'a> {
    path: &'a Path,
    folder: &'a Path,
}

impl At<'_> {
    fn wrong(&self, key: &'static str, text: impl ToString) -> ConfigMistake {
        ConfigMistake::Value {
            path: self.path.to_owned(),
            key,
            text: text.to_string(),
        }
    }

    fn octets(&self, key: &'static str, text: &str) -> Result<Octets, ConfigMistake> {
        parse_octets(text).map_err(|error| self.wrong(key, error))
    }

    fn within<T: PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &'static str,
        value: T,
        least: T,
        most: T,
    ) -> Result<T, ConfigMistake> {
        if value >= least && value <= most {
            return Ok(value);
        }
        Err(self.wrong(
            key,
            format!("{value} is out of bounds: write {least} to {most}"),
        ))
    }

    fn positive(&self, key: &'static str, value: u32) -> Result<NonZeroU32, ConfigMistake> {
        NonZeroU32::new(value)
            .ok_or_else(|| self.wrong(key, "0 lets nothing through: write at least 1"))
    }

    fn config(&self, raw: Raw) -> Result<Config, ConfigMistake> {
        let Raw {
            node,
            data,
            broker,
            grant,
            policy,
            command,
            registration,
            limits,
            store,
            log,
            http,
            hook,
        } = raw;
        if data.as_os_str().is_empty() {
            return Err(self.wrong("data", "it is empty: write a folder"));
        }
        let most = 1_000_000_000;
        Ok(Config {
            node: node.parse().map_err(|error| self.wrong("node", error))?,
            data: self.folder.join(data),
            broker: self.broker(broker)?,
            rules: self.rules(grant, policy, &command, &registration)?,
            limits: self.limits(&limits)?,
            log: self.log(log)?,
            http: self.http(&http)?,
            hooks: self.hooks(hook)?,
            checkpoint_entries: self.within(
                "store.checkpoint_entries",
                store.checkpoint_entries,
                1,
                most,
            )?,
        })
    }

    fn broker(&self, raw: RawBroker) -> Result<Broker, ConfigMistake> {
        if raw.host.is_empty() {
            return Err(self.wrong("broker.host", "it is empty: write a name or an address"));
        }
        Ok(Broker {
            host: raw.host.clone(),
            port: self.within("broker.port", raw.port, 1, u16::MAX)?,
            tls: self.tls(&raw)?,
            derived: raw.credentials == Path::new(DERIVED),
            credentials: self.credentials(&raw.credentials)?,
            keep_alive_s: self.within("broker.keep_alive_s", raw.keep_alive_s, 5, u16::MAX)?,
            session_expiry_s: raw.session_expiry_s,
            self_test: raw.self_test,
        })
    }

    /// The files of TLS, which must be there and fit: a mistake in them is told before anything runs.
    fn tls(&self, raw: &RawBroker) -> Result<Option<TlsFiles>, ConfigMistake> {
        let file = |path: &Path| (!path.as_os_str().is_empty()).then(|| self.folder.join(path));
        let ca = file(&raw.ca_file);
        let pair = (file(&raw.certificate_file), file(&raw.certificate_key_file));
        if !raw.tls {
            return match (ca, pair) {
                (None, (None, None)) => Ok(None),
                _ => Err(self.wrong(
                    "broker.tls",
                    "certificates are named, and TLS is off: write tls = true, or remove them",
                )),
            };
        }
        let identity = match pair {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(self.wrong(
                    "broker.certificate_file",
                    "a certificate and its key go together: set certificate_key_file too, or neither",
                ));
            }
        };
        let files = TlsFiles { ca, identity };
        let read = files.read().and_then(|pem| Ok(client_config(&pem)?));
        read.map_err(|error| self.wrong("broker.tls", error))?;
        Ok(Some(files))
    }

    fn credentials(&self, file: &Path) -> Result<Option<(String, String)>, ConfigMistake> {
        const KEY: &str = "broker.credentials";
        if file.as_os_str().is_empty() || file == Path::new(DERIVED) {
            return Ok(None);
        }
        let path = self.folder.join(file);
        let shown = path.display();
        let unreadable = |error: io::Error| {
            self.wrong(
                KEY,
                format!("can't read {shown}: {error}: make it, or write \"\""),
            )
        };
        let mode = fs::metadata(&path)
            .map_err(unreadable)?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o077 != 0 {
            let text =
                format!("{shown} may be read by others (mode {mode:04o}): run `chmod 600 {shown}`");
            return Err(self.wrong(KEY, text));
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(unreadable)?);
        match text.trim_end().split_once(':') {
            Some((user, password)) => Ok(Some((user.to_owned(), password.to_owned()))),
            None => Err(self.wrong(
                KEY,
                format!("{shown} has no ':': write user:password in it"),
            )),
        }
    }

    fn rules(
        &self,
        grant: RawGrant,
        policy: RawPolicy,
        command: &RawCommand,
        registration: &RawRegistration,
    ) -> Result<Rules, ConfigMistake> {
        let year_s = 366 * 86_400;
        let grant_min = self.octets("grant.min", &grant.min)?;
        let grant_max = self.octets("grant.max", &grant.max)?;
        if grant_max < grant_min || grant_max == Octets::ZERO {
            return Err(self.wrong("grant.max", "it is less than grant.min: write a larger one"));
        }
        let validity_min_s =
            self.within("grant.validity_min_s", grant.validity_min_s, 1, year_s)?;
        Ok(Rules {
            grant_min,
            grant_max,
            target_s: self.within("grant.target_s", grant.target_s, 0, year_s)?,
            validity_min_s,
            allowance: self.octets("grant.allowance", &grant.allowance)?,
            hold_s: grant.hold_s,
            silence_s: grant.silence_s,
            final_action: self.final_action(&grant)?,
            line_rate: self.octets("grant.line_rate", &grant.line_rate)?.value(),
            policy: Policy {
                version: policy.version,
                sample_s: self.within("policy.sample_s", policy.sample_s, 1, 86_400)?,
                report_s: self.within("policy.report_s", policy.report_s, 1, year_s)?,
                own_charged: policy.own_charged,
                bootstrap: self.octets("policy.bootstrap", &policy.bootstrap)?,
                validity_s: self.within("policy.validity_s", policy.validity_s, 1, year_s)?,
                overhead_permille: self.within(
                    "policy.overhead_permille",
                    policy.overhead_permille,
                    1,
                    1000,
                )?,
            },
            command_s: self.within("command.valid_s", command.valid_s, 1, year_s)?,
            retry_s: self.within(
                "command.registration_retry_s",
                command.registration_retry_s,
                1,
                86_400,
            )?,
            pushes_max: grant.pushes_max,
            epochs_a_day: registration.epochs_a_day,
            freeze: registration.freeze,
            silent_s: registration.silent_s,
        })
    }

    fn final_action(&self, grant: &RawGrant) -> Result<FinalAction, ConfigMistake> {
        match grant.r#final.as_str() {
            "terminate" => Ok(FinalAction::Terminate),
            "restrict" => {
                let hosts: Result<Vec<Text>, _> =
                    grant.final_hosts.iter().map(|host| host.parse()).collect();
                let hosts = hosts.map_err(|error| self.wrong("grant.final_hosts", error))?;
                if hosts.is_empty() {
                    let text = "it is empty: name the hosts that stay reachable";
                    return Err(self.wrong("grant.final_hosts", text));
                }
                Ok(FinalAction::Restrict(hosts))
            }
            "throttle" if grant.final_bit_per_s == 0 => {
                let text = "0 is no rate: write bits a second, or final = \"terminate\"";
                Err(self.wrong("grant.final_bit_per_s", text))
            }
            "throttle" => Ok(FinalAction::Throttle(grant.final_bit_per_s)),
            other => {
                let text = format!("'{other}' is unknown: write terminate, restrict or throttle");
                Err(self.wrong("grant.final", text))
            }
        }
    }

    fn limits(&self, raw: &RawLimits) -> Result<Limits, ConfigMistake> {
        Ok(Limits {
            admission: admission::Limits {
                sender_per_s: self.positive("limits.sender_per_s", raw.sender_per_s)?,
                sender_burst: self.positive("limits.sender_burst", raw.sender_burst)?,
                fleet_per_s: self.positive("limits.fleet_per_s", raw.fleet_per_s)?,
                all_per_s: self.positive("limits.all_per_s", raw.all_per_s)?,
                senders_max: raw.senders_max,
            },
            rejected_per_s: raw.rejected_per_s,
            batch_max: self.within("limits.batch_max", raw.batch_max, 1, 100_000)?,
            receive_max: self.within("limits.receive_max", raw.receive_max, 1, u16::MAX)?,
            send_wait_ms: self.within("limits.send_wait_ms", raw.send_wait_ms, 0, 15_000)?,
        })
    }
}
