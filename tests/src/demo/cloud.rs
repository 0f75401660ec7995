//! The cloud: the service as a child process, and its commands, one process each.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use super::process::{Process, itself};

/// What differs from the shipped cloud.toml: a story of seconds needs small steps.
const CONFIG: &str = "# What differs from the shipped cloud.toml.
data = \"cloud\"

[broker]
host = \"127.0.0.1\"
port = PORT

[grant]
min = \"1 kB\"

[policy]
sample_s = 1
report_s = 2
";
/// A question may come while the broker is away.
const WAIT_S: &str = "30";

/// The service and the way to it.
pub(super) struct Cloud {
    pub(super) config: PathBuf,
    pub(super) service: Process,
}

impl Cloud {
    /// Makes configuration and keys, and starts the service.
    pub(super) fn start(folder: &Path, broker_port: u16) -> anyhow::Result<Cloud> {
        let config = folder.join("cloud.toml");
        let text = CONFIG.replace("PORT", &broker_port.to_string());
        std::fs::write(&config, text)
            .with_context(|| format!("cannot write {}", config.display()))?;
        run(&config, ["init"])?;
        let service = Process::start(
            "cloud",
            folder,
            itself("cloud")?.arg("--config").arg(&config).arg("serve"),
        )?;
        Ok(Cloud { config, service })
    }

    /// Runs a command with `--json`; what it printed.
    pub(super) fn run<const N: usize>(&self, args: [&str; N]) -> anyhow::Result<Value> {
        run(&self.config, args)
    }

    /// The audit. One that does not hold is an answer too.
    pub(super) fn audit(&self) -> anyhow::Result<Value> {
        let (_, first, error) = printed(&self.config, ["audit"])?;
        first.ok_or_else(|| anyhow!("`simquota-cloud audit`: {error}"))
    }
}

fn run<const N: usize>(config: &Path, args: [&str; N]) -> anyhow::Result<Value> {
    let name = args.join(" ");
    let (success, first, error) = printed(config, args)?;
    match first {
        Some(value) if success => Ok(value),
        _ => bail!("`simquota-cloud {name}`: {error}"),
    }
}

/// Whether a command succeeded, the first value that it printed, and what it said.
fn printed(
    config: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> anyhow::Result<(bool, Option<Value>, String)> {
    let output = itself("cloud")?
        .arg("--config")
        .arg(config)
        .args(["--json", "--wait-s", WAIT_S])
        .args(args)
        .output()
        .context("cannot start a command")?;
    let mut values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let first = values.next().and_then(Result::ok);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((output.status.success(), first, said))
}

/// A number in a row; 0 when there is none.
pub(super) fn number(row: &Value, name: &str) -> u64 {
    row.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A text in a row; empty when there is none.
pub(super) fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or("")
}
