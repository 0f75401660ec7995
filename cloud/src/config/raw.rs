//! The file as it is written. No field has a default here: the shipped file has every key.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node: String,
    pub(super) data: PathBuf,
    pub(super) log: String,
    pub(super) hook: Vec<RawHook>,
    pub(super) broker: RawBroker,
    pub(super) grant: RawGrant,
    pub(super) policy: RawPolicy,
    pub(super) command: RawCommand,
    pub(super) registration: RawRegistration,
    pub(super) limits: RawLimits,
    pub(super) store: RawStore,
    pub(super) http: RawHttp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: String,
    pub(super) metrics_open: bool,
}

/// A receiver of web hooks. The shipped file has none, so what may be left out has its default here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHook {
    pub(super) name: String,
    pub(super) url: String,
    #[serde(default)]
    pub(super) fleet: Option<String>,
    #[serde(default)]
    pub(super) kinds: Vec<String>,
    #[serde(default)]
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBroker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) ca_file: PathBuf,
    pub(super) certificate_file: PathBuf,
    pub(super) certificate_key_file: PathBuf,
    pub(super) credentials: PathBuf,
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: u32,
    pub(super) self_test: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    pub(super) min: String,
    pub(super) max: String,
    pub(super) target_s: u64,
    pub(super) validity_min_s: u64,
    pub(super) allowance: String,
    pub(super) hold_s: u64,
    pub(super) silence_s: u64,
    pub(super) r#final: String,
    pub(super) final_hosts: Vec<String>,
    pub(super) final_bit_per_s: u64,
    pub(super) line_rate: String,
    pub(super) pushes_max: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) version: u64,
    pub(super) sample_s: u64,
    pub(super) report_s: u64,
    pub(super) own_charged: bool,
    pub(super) bootstrap: String,
    pub(super) validity_s: u64,
    pub(super) overhead_permille: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCommand {
    pub(super) valid_s: u64,
    pub(super) registration_retry_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegistration {
    pub(super) epochs_a_day: usize,
    pub(super) freeze: bool,
    pub(super) silent_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) sender_per_s: u32,
    pub(super) sender_burst: u32,
    pub(super) fleet_per_s: u32,
    pub(super) all_per_s: u32,
    pub(super) senders_max: usize,
    pub(super) rejected_per_s: u32,
    pub(super) batch_max: usize,
    pub(super) receive_max: u16,
    pub(super) send_wait_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) checkpoint_entries: u64,
}
