//! `simquota-edge provision`: a device's configuration and key out of the one line that the cloud printed.
//!
//! The line is `csim1:DEVICE:BATCH/GENERATION:KEY@mqtts://HOST:PORT`. It is a secret: it comes from standard input or
//! a file, never from the arguments, which every user of the machine can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::print;
use crate::config::Config;
use crate::io::folder::Folder;
use crate::io::keyfile::{Enrolment, EnrolmentString};

/// Longer than any such line.
const LINE_OCTETS_MAX: u64 = 4096;

/// Write configuration and key file from the enrolment string that the cloud printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge provision < enrolment                       into this folder
  simquota-edge provision --folder /etc/simquota --data /var/lib/simquota --gate nft < enrolment
  ssh cloud simquota-cloud enrol tracker-7 --batch spring --to mqtts://mqtt.example.com | simquota-edge provision

The key file is readable by its owner alone. Files that root writes belong to the folder's owner.")]
pub(super) struct Provision {
    /// Where the enrolment string is; \"-\" is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    from: PathBuf,
    /// Where edge.toml and edge.key go.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Where samples and state are kept; relative to the folder.
    #[arg(long, value_name = "FOLDER", default_value = "edge-data")]
    data: PathBuf,
    /// The SIM's interface.
    #[arg(long, value_name = "NAME", default_value = "wwan0")]
    interface: String,
    /// The gate.
    #[arg(long, value_enum, default_value_t = Gate::Observe)]
    gate: Gate,
    /// Overwrite files that are there.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Gate {
    /// Stops nothing, and says what would have been stopped.
    Observe,
    /// The kernel stops traffic.
    Nft,
}

impl Provision {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let provision: EnrolmentString = self.line()?.parse().map_err(anyhow::Error::msg)?;
        let config = self.folder.join("edge.toml");
        let key = self.folder.join("edge.key");
        self.check(&config, &key, &provision.enrolment)?;
        let text = self.config(&provision);
        Config::parse(&text, &config)?;
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))?;
        // The key first: a configuration that is there is one that can be used.
        self.write(&key, &provision.enrolment.line(), 0o600)?;
        self.write(&config, &text, 0o640)?;
        Config::read(&config)?.settings(&config)?;
        let device = &provision.enrolment.device;
        print(&format!(
            "{device}: wrote {} and {}; next: simquota-edge check --config {}",
            config.display(),
            key.display(),
            config.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        if self.from == Path::new("-") {
            io::stdin()
                .take(LINE_OCTETS_MAX)
                .read_to_string(&mut text)
                .context("cannot read the enrolment string from standard input")?;
        } else {
            let named = || {
                format!(
                    "cannot read the enrolment string in {}",
                    self.from.display()
                )
            };
            let file = File::open(&self.from).with_context(named)?;
            let mode = file.metadata().with_context(named)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                bail!(
                    "{path} holds a key and can be read by others (mode {mode:04o}): run `chmod 600 {path}`",
                    path = self.from.display()
                );
            }
            file.take(LINE_OCTETS_MAX)
                .read_to_string(&mut text)
                .with_context(named)?;
        }
        Ok(text)
    }

    /// Nothing that is there is lost unasked, and no device goes on with the state of another.
    fn check(&self, config: &Path, key: &Path, enrolment: &Enrolment) -> anyhow::Result<()> {
        for file in [config, key] {
            if file.exists() && !self.force {
                bail!(
                    "{} is there already: remove it, or overwrite it with --force",
                    file.display()
                );
            }
        }
        let data = self.folder.join(&self.data);
        if let Ok(before) = Enrolment::read(key)
            && before.device != enrolment.device
            && Folder::holds_a_store(&data)
        {
            bail!(
                "{} holds the state of {}: move it away, or name another folder with --data",
                data.display(),
                before.device
            );
        }
        Ok(())
    }

    fn config(&self, provision: &EnrolmentString) -> String {
        // A string of JSON is one of TOML too.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let gate = match self.gate {
            Gate::Observe => "observe",
            Gate::Nft => "nft",
        };
        let data = self.data.to_string_lossy();
        format!(
            "# `simquota-edge config` explains every key; a line that is not here means its default.\n\
             key_file = \"edge.key\"\ndata = {data}\n\n\
             [broker]\nhost = {host}\nport = {port}\ntls = {tls}\n\n\
             [source]\ninterface = {interface}\nwait = true\n\n\
             [gate]\nkind = \"{gate}\"\n",
            data = quoted(&data),
            host = quoted(&provision.host),
            port = provision.port,
            tls = provision.tls,
            interface = quoted(&self.interface),
        )
    }

    /// Whole or not at all, and never open to others for a moment.
    fn write(&self, path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
        let named = || format!("cannot write {}", path.display());
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)
            .with_context(named)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))
            .with_context(named)?;
        file.write_all(text.as_bytes()).with_context(named)?;
        let owner = fs::metadata(&self.folder).with_context(named)?;
        if rustix::process::geteuid().is_root() && owner.uid() != 0 {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))
                .with_context(named)?;
        }
        file.sync_all().with_context(named)?;
        fs::rename(&beside, path).with_context(named)?;
        // The name too: a device that is packed up right after must find it at its next start.
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .with_context(named)
    }
}
