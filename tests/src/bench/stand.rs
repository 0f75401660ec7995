//! What is measured, set up: folders, brokers, the service on a store of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use simquota_cloud::config::Config;
use simquota_cloud::io::keys::{ADMIN, KeyFolder};
use simquota_cloud::io::store::Store;
use simquota_cloud::ledger::Ledger;
use simquota_cloud::ledger::entry::Cause;
use simquota_shared::envelope::{Key, Kid};
use tempfile::TempDir;

use super::child::{ECHO, LISTENING, RUMQTTD, itself};
use super::machine::{self, Disk};
use super::world::{self, Device, Maker, row_octets};
use super::{child, echo, say};
use crate::broker::{Broker as _, Mosquitto};
use crate::process::{Child, LIMIT};

const PREFIX: &str = "bench-";
/// Where the data of one run lies, below the folder.
const DATA: &str = "data";
/// How many of the service's warnings are shown.
const COMPLAINTS: usize = 3;

/// A folder for everything that is written. It goes with the program, or with the next benchmark after a kill.
pub(super) struct Folder(TempDir);

impl Folder {
    /// In `place`, or in the build folder, which lies on a disk where the folder for temporary files may not.
    pub(super) fn make(place: Option<&Path>) -> anyhow::Result<Folder> {
        let place = place.map_or_else(build_folder, Path::to_owned);
        let cannot = || format!("cannot write in {}: name another --folder", place.display());
        fs::create_dir_all(&place).with_context(cannot)?;
        for row in fs::read_dir(&place).with_context(cannot)?.flatten() {
            let name = row.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
            if let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok())
                && !Path::new(&format!("/proc/{owner}")).exists()
            {
                // Another benchmark may be at it too.
                let _ = fs::remove_dir_all(row.path());
            }
        }
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&place);
        Ok(Folder(folder.with_context(cannot)?))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn disk(&self) -> Disk {
        machine::disk(self.path())
    }
}

/// `tmp` in the build folder, which cargo marks by a file of this name.
fn build_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let marked = program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    marked.map_or_else(std::env::temp_dir, |folder| folder.join("tmp"))
}

/// Which broker.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Rumqttd,
    /// The installed program.
    Mosquitto(PathBuf),
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Rumqttd => "rumqttd",
            Self::Mosquitto(_) => "mosquitto",
        }
    }

    /// mosquitto, or a loud word that it is missing.
    pub(super) fn mosquitto(part: &str) -> Option<Kind> {
        let found = Mosquitto::find().map(Kind::Mosquitto);
        if found.is_none() {
            say(&format!(
                "NOT MEASURED: {part} over mosquitto, which is not installed here; install it (`apt-get install mosquitto`)"
            ));
        }
        found
    }
}

/// A broker that has just been started and knows nothing. Dropping it ends it.
pub(super) struct Broker {
    pub(super) port: u16,
    pub(super) id: u32,
    _running: Running,
}

#[allow(dead_code, reason = "they are held, so that they live")]
enum Running {
    Rumqttd(Child),
    Mosquitto(Mosquitto),
}

impl Broker {
    pub(super) fn start(kind: &Kind) -> anyhow::Result<Broker> {
        match kind {
            Kind::Rumqttd => {
                let running = Child::start(RUMQTTD, &mut itself(RUMQTTD)?)?;
                let line = running.wait_line(|line| line.starts_with(LISTENING), LIMIT)?;
                let port = line.text.trim_start_matches(LISTENING).parse();
                Ok(Broker {
                    port: port.context("the embedded broker says no port")?,
                    id: running.id(),
                    _running: Running::Rumqttd(running),
                })
            }
            Kind::Mosquitto(program) => {
                let running = Mosquitto::start(program)?;
                Ok(Broker {
                    port: running.port(),
                    id: machine::child_named("mosquitto").unwrap_or(0),
                    _running: Running::Mosquitto(running),
                })
            }
        }
    }
}

/// Keys, and a store with devices that hold a grant: each run begins with a copy.
pub(super) struct Template {
    folder: PathBuf,
    pub(super) devices: Vec<Device>,
    pub(super) keys: Vec<(Kid, Key)>,
    /// Octets of a journal row with one grant.
    pub(super) grant_octets: usize,
}

impl Template {
    pub(super) fn make(folder: &Path, count: usize) -> anyhow::Result<Template> {
        let config = Config::parse(&config(1, NO_LIMITS), &folder.join("cloud.toml"))?;
        fs::create_dir_all(&config.data)
            .with_context(|| format!("cannot write {}", config.data.display()))?;
        let folder_of_keys = KeyFolder::create(&config.data)?;
        folder_of_keys.make_node()?;
        folder_of_keys.make_person(&ADMIN.parse()?)?;
        let mut keys = Vec::new();
        for fleet in 0..world::fleets(count) {
            let id = world::enrolment(fleet).parse()?;
            folder_of_keys.make_enrolment(&id)?;
            let kid = Kid::first(&id);
            let key = folder_of_keys.enrolment(&kid)?;
            keys.push((kid, key.context("a key that was just made is gone")?));
        }
        let mut grant_octets = 0;
        let mut store = Store::open(&config.store_folder())?;
        let mut ledger = Ledger::default();
        let mut maker = Maker::new(&mut ledger, &config.rules, |entries| {
            if let Some(entry) = entries.last()
                && matches!(entry.cause, Cause::Credit(_))
            {
                grant_octets = row_octets(std::slice::from_ref(entry))?;
            }
            Ok(store.commit(entries)?)
        });
        let devices = maker.make(count)?;
        // Otherwise each start would read the whole journal.
        store.checkpoint(&ledger)?;
        Ok(Template {
            folder: config.data,
            devices,
            keys,
            grant_octets,
        })
    }
}

/// A few connections stand for many devices, and each of those sends as fast as it is answered.
const NO_LIMITS: &str =
    "[limits]\nsender_per_s = 1000000\nsender_burst = 1000000\nall_per_s = 100000000\n";

/// The shipped settings, but for the broker, the limits, and HTTP, which nobody asks.
fn config(port: u16, limits: &str) -> String {
    format!(
        "# What differs from the shipped cloud.toml.\n\
         data = \"{DATA}\"\n\n[broker]\nhost = \"127.0.0.1\"\nport = {port}\n\n{limits}\n\
         # Two benchmarks may run at once.\n[http]\nlisten = \"\"\n"
    )
}

/// What answers: the service, or what it is compared with. Dropping it ends it and removes its data.
pub(super) struct Responder {
    child: Child,
    data: Option<TempDir>,
}

impl Responder {
    /// The real service on a copy of the template.
    pub(super) fn service(template: &Template, port: u16, folder: &Path) -> anyhow::Result<Self> {
        Self::service_with(template, port, folder, NO_LIMITS)
    }

    /// The same with these limits.
    pub(super) fn service_with(
        template: &Template,
        port: u16,
        folder: &Path,
        limits: &str,
    ) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(folder)
            .context("cannot make a folder")?;
        copy(&template.folder, &data.path().join(DATA))?;
        let path = data.path().join("cloud.toml");
        fs::write(&path, config(port, limits))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = itself(child::CLOUD)?;
        command.arg("--config").arg(&path).arg("serve");
        let child = Child::start("the service", &mut command)?;
        let responder = Self {
            child,
            data: Some(data),
        };
        for lane in ["lane=control", "lane=usage"] {
            let connected =
                |line: &str| line.contains("connected to the broker") && line.contains(lane);
            responder.child.wait_line(connected, LIMIT)?;
        }
        Ok(responder)
    }

    /// The bare responder for `usage` or `credit`.
    pub(super) fn echo(port: u16, of: &str, octets: usize, retain: bool) -> anyhow::Result<Self> {
        let mut command: Command = itself(ECHO)?;
        command.args(["--port", &port.to_string(), "--of", of]);
        command.args(["--octets", &octets.to_string()]);
        command.args(retain.then_some("--retain"));
        let child = Child::start(ECHO, &mut command)?;
        child.wait_line(|line| line == echo::READY, LIMIT)?;
        Ok(Self { child, data: None })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The service's configuration, for whoever asks it.
    pub(super) fn config(&self) -> Option<PathBuf> {
        Some(self.data.as_ref()?.path().join("cloud.toml"))
    }

    /// Whether it is still the process that was started.
    pub(super) fn lives(&self) -> bool {
        Path::new(&format!("/proc/{}/stat", self.child.id())).exists()
    }

    /// Its last words, for messages.
    pub(super) fn tail(&self) -> String {
        self.child.tail()
    }

    /// Ends it; says what it complained of, which is no failure of the benchmark.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.child.kill9()?;
        let lines = self.child.lines();
        let complaints = lines
            .iter()
            .map(|line| line.text.as_str())
            .filter(|text| text.contains(" WARN ") || text.contains("ERROR "));
        for text in complaints.take(COMPLAINTS) {
            say(&format!("  the service says: {text}"));
        }
        drop(self.data);
        Ok(())
    }
}

/// A folder and all below it, with rights.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir(to).with_context(cannot)?;
    fs::set_permissions(to, fs::metadata(from).with_context(cannot)?.permissions())
        .with_context(cannot)?;
    for row in fs::read_dir(from).with_context(cannot)? {
        let row = row.with_context(cannot)?;
        let target = to.join(row.file_name());
        if row.file_type().with_context(cannot)?.is_dir() {
            copy(&row.path(), &target)?;
        } else {
            fs::copy(row.path(), target).with_context(cannot)?;
        }
    }
    Ok(())
}
