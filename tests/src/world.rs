//! A small world of real parts: a broker, the cloud as a process, agents as processes, in a folder of its own.
//!
//! It is for tests and proofs: what does not go as it must ends in a panic that says what.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so does its harness"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::broker::{Broker, EmbeddedBroker};
use crate::process::{Child, LIMIT, await_fact};

/// The program that is the service and the agent, by its first argument: this one if it proves or measures, else the demo that
/// is built beside every test.
pub(crate) fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    if this
        .file_stem()
        .is_some_and(|name| name == "prove" || name == "bench")
    {
        return this;
    }
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("demo"))
        .find(|demo| demo.is_file());
    found.unwrap_or_else(|| panic!("no demo beside {}: run it by cargo", this.display()))
}

/// What differs from the shipped cloud.toml. Grants are what devices ask for, however long a test takes.
const CLOUD: &str = "data = \"DATA\"\n[broker]\nhost = \"127.0.0.1\"\nport = PORT\n[grant]\nmin = \"1 kB\"\ntarget_s = 0\n[policy]\nsample_s = 1\nreport_s = 1\n[limits]\nsender_per_s = 10000\nsender_burst = 10000\n";

/// What differs from the shipped edge.toml.
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"DATA\"\n[quota]\nwant = \"WANT\"\n[broker]\nhost = \"127.0.0.1\"\nport = PORT\n[source]\nkind = \"trace\"\nfile = \"trace.csv\"\nspeed = SPEED\npoll_ms = 100\n[end]\nexit_at_end = true\nshutdown_s = 30\n";

/// A broker, the service, and a folder for all of it. Dropping it ends and removes all.
pub struct World<B = EmbeddedBroker> {
    /// Where everything is, unless told otherwise.
    pub folder: tempfile::TempDir,
    /// The broker.
    pub broker: B,
    /// The service, while it runs.
    pub cloud: Option<Child>,
}

/// One device: its folder, and its process while it runs.
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its configuration, key and trace.
    pub folder: PathBuf,
    /// Its agent's data.
    pub data: PathBuf,
    /// Its agent, while it runs.
    pub process: Option<Child>,
}

impl World {
    /// An embedded broker, and a cloud with one fleet, SIMs and an enrolment key.
    #[must_use]
    pub fn start() -> Self {
        Self::over(EmbeddedBroker::start().unwrap())
    }

    /// The same, with the service's data in this folder.
    #[must_use]
    pub fn start_at(data: &Path) -> Self {
        Self::made(EmbeddedBroker::start().unwrap(), data)
    }
}

impl<B: Broker> World<B> {
    /// The same over another broker.
    #[must_use]
    pub fn over(broker: B) -> Self {
        Self::made(broker, Path::new("cloud"))
    }

    fn made(broker: B, data: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = CLOUD
            .replace("PORT", &broker.port().to_string())
            .replace("DATA", data.to_str().unwrap());
        fs::write(folder.path().join("cloud.toml"), config).unwrap();
        let mut world = Self {
            folder,
            broker,
            cloud: None,
        };
        world.cloud(&["init"]);
        world.start_cloud();
        let sims: String = (0..20)
            .map(|n| format!("89883030{n:011},90128{n:010},CloudMobile,home,iot\n"))
            .collect();
        let csv = world.folder.path().join("sims.csv");
        fs::write(&csv, format!("iccid,imsi,operator,zones,apn\n{sims}")).unwrap();
        world.cloud(&["fleet", "create", "buses"]);
        world.cloud(&["sim", "import", csv.to_str().unwrap()]);
        world.cloud(&["enrol", "batch", "create", "spring", "--fleet", "buses"]);
        world
    }

    /// Starts the service, also after its end.
    pub fn start_cloud(&mut self) {
        let config = self.folder.path().join("cloud.toml");
        let mut command = Command::new(program());
        command
            .args(["cloud", "--config"])
            .arg(&config)
            .arg("serve");
        self.cloud = Some(Child::start("cloud", &mut command).unwrap());
    }

    /// A command of `simquota-cloud`, with `--json`: what it printed and its exit code.
    pub fn command(&self, args: &[&str]) -> (Vec<Value>, i32, String) {
        let output = Command::new(program())
            .args(["cloud", "--config"])
            .arg(self.folder.path().join("cloud.toml"))
            .args(["--json", "--yes", "--wait-s", "30"])
            .args(args)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let values = serde_json::Deserializer::from_slice(&output.stdout)
            .into_iter::<Value>()
            .map_while(Result::ok)
            .collect();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (values, output.status.code().unwrap_or(-1), said)
    }

    /// What a command of `simquota-cloud` prints for people; it has to succeed.
    #[must_use]
    pub fn text(&self, args: &[&str]) -> String {
        let output = Command::new(program())
            .args(["cloud", "--config"])
            .arg(self.folder.path().join("cloud.toml"))
            .args(args)
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "simquota-cloud {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, which has to succeed.
    pub fn cloud(&self, args: &[&str]) -> Vec<Value> {
        let (values, code, said) = self.command(args);
        assert_eq!(code, 0, "simquota-cloud {args:?}: {said}");
        values
    }

    /// A device that plays `trace` (lines of `seconds,up,down`).
    #[must_use]
    pub fn device(&self, id: &str, trace: &str, speed: u32, want: &str) -> Device {
        let data = self.folder.path().join(id).join("data");
        self.device_at(&data, id, trace, speed, want)
    }

    /// The same, with the agent's data in this folder.
    #[must_use]
    pub fn device_at(&self, data: &Path, id: &str, trace: &str, speed: u32, want: &str) -> Device {
        let folder = self.folder.path().join(id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("trace.csv"), trace).unwrap();
        let config = EDGE
            .replace("PORT", &self.broker.port().to_string())
            .replace("DATA", data.to_str().unwrap())
            .replace("SPEED", &speed.to_string())
            .replace("WANT", want);
        fs::write(folder.join("edge.toml"), config).unwrap();
        let output = Command::new(program())
            .args(["cloud", "--config"])
            .arg(self.folder.path().join("cloud.toml"))
            .args(["enrol", id, "--batch", "spring"])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let key = folder.join("edge.key");
        fs::write(&key, &output.stdout).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Device {
            id: id.to_owned(),
            folder,
            data: data.to_owned(),
            process: None,
        }
    }

    /// What the service says of a device.
    #[must_use]
    pub fn show(&self, device: &Device) -> Value {
        self.cloud(&["device", "show", &device.id]).remove(0)
    }

    /// The audit, which has to hold.
    pub fn audit(&self) -> Value {
        let audit = self.cloud(&["audit"]).remove(0);
        assert_eq!(audit["holds"], true, "{audit}");
        audit
    }

    /// The same of the service's folder, while it does not run.
    pub fn audit_folder(&self) -> Value {
        let (found, code, said) = self.command(&["audit", "--offline"]);
        assert_eq!(code, 0, "{found:?}: {said}");
        found.into_iter().next().unwrap()
    }
}

impl Device {
    /// Starts its agent, also after its end.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more arguments.
    pub fn start_with(&mut self, args: &[&str]) {
        let mut command = Command::new(program());
        command
            .args(["edge", "run", "--json", "--config"])
            .arg(self.folder.join("edge.toml"))
            .args(args);
        self.process = Some(Child::start(&self.id, &mut command).unwrap());
    }

    /// The same, logging at another level.
    pub fn start_logging(&mut self, level: &str) {
        let mut command = Command::new(program());
        command
            .env("RUST_LOG", level)
            .args(["edge", "run", "--json", "--config"])
            .arg(self.folder.join("edge.toml"));
        self.process = Some(Child::start(&self.id, &mut command).unwrap());
    }

    /// `status.json` of the process that runs.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let text = fs::read(self.data.join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Waits until the status says so.
    pub fn await_status(&self, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        await_fact(LIMIT, &format!("{}: {what}", self.id), || {
            self.status().filter(|status| fact(status))
        })
        .unwrap_or_else(|error| {
            let log = self.process.as_ref().map(|process| process.tail());
            panic!("{error}; last status {:?}; log {log:#?}", self.status())
        })
    }

    /// What the store holds, when the agent does not run.
    #[must_use]
    pub fn stored(&self) -> Value {
        let output = Command::new(program())
            .args(["edge", "status", "--json", "--config"])
            .arg(self.folder.join("edge.toml"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}: {}", self.id, String::from_utf8_lossy(&output.stderr)))
    }
}

/// The sum of a trace.
#[must_use]
pub fn octets(trace: &str) -> u64 {
    trace
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',').skip(1);
            Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
        })
        .sum()
}

/// A trace of a busy device: so many seconds, so many octets a second down, a quarter of it up.
#[must_use]
pub fn steady(seconds: u64, down: u64) -> String {
    (0..seconds)
        .map(|second| format!("{second},{},{down}\n", down / 4))
        .collect()
}

/// A file's text.
#[must_use]
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
