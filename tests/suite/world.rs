//! A small world of real parts: a broker, the cloud as a process, agents as processes, in a folder of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use simquota_tests::broker::{Broker, EmbeddedBroker};
use simquota_tests::process::{Child, LIMIT, await_fact};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// What differs from the shipped cloud.toml.
const CLOUD: &str = "data = \"cloud\"\n[broker]\nhost = \"127.0.0.1\"\nport = PORT\n[grant]\nmin = \"1 kB\"\n[policy]\nsample_s = 1\nreport_s = 1\n[limits]\nsender_per_s = 10000\nsender_burst = 10000\n";

/// What differs from the shipped edge.toml.
const EDGE: &str = "key_file = \"edge.key\"\ndata = \"data\"\n[quota]\nwant = \"WANT\"\n[broker]\nhost = \"127.0.0.1\"\nport = PORT\n[source]\nkind = \"trace\"\nfile = \"trace.csv\"\nspeed = SPEED\npoll_ms = 100\n[end]\nexit_at_end = true\nshutdown_s = 30\n";

pub(crate) struct World<B = EmbeddedBroker> {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) broker: B,
    pub(crate) cloud: Option<Child>,
}

/// One device: its folder, and its process while it runs.
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) process: Option<Child>,
}

impl World {
    /// An embedded broker, and a cloud with one fleet, SIMs and an enrolment key.
    pub(crate) fn start() -> Self {
        Self::over(EmbeddedBroker::start().unwrap())
    }
}

impl<B: Broker> World<B> {
    /// The same over another broker.
    pub(crate) fn over(broker: B) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = CLOUD.replace("PORT", &broker.port().to_string());
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

    pub(crate) fn start_cloud(&mut self) {
        let config = self.folder.path().join("cloud.toml");
        let mut command = Command::new(DEMO);
        command
            .args(["cloud", "--config"])
            .arg(&config)
            .arg("serve");
        self.cloud = Some(Child::start("cloud", &mut command).unwrap());
    }

    /// A command of `simquota-cloud`, with `--json`: what it printed and its exit code.
    pub(crate) fn command(&self, args: &[&str]) -> (Vec<Value>, i32, String) {
        let output = Command::new(DEMO)
            .args(["cloud", "--config"])
            .arg(self.folder.path().join("cloud.toml"))
            .args(["--json", "--wait-s", "30"])
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

    /// The same, which has to succeed.
    pub(crate) fn cloud(&self, args: &[&str]) -> Vec<Value> {
        let (values, code, said) = self.command(args);
        assert_eq!(code, 0, "simquota-cloud {args:?}: {said}");
        values
    }

    /// A device that plays `trace` (lines of `seconds,up,down`).
    pub(crate) fn device(&self, id: &str, trace: &str, speed: u32, want: &str) -> Device {
        let folder = self.folder.path().join(id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("trace.csv"), trace).unwrap();
        let config = EDGE
            .replace("PORT", &self.broker.port().to_string())
            .replace("SPEED", &speed.to_string())
            .replace("WANT", want);
        fs::write(folder.join("edge.toml"), config).unwrap();
        let output = Command::new(DEMO)
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
            process: None,
        }
    }

    pub(crate) fn show(&self, device: &Device) -> Value {
        self.cloud(&["device", "show", &device.id]).remove(0)
    }

    /// The audit, which has to hold.
    pub(crate) fn audit(&self) -> Value {
        let audit = self.cloud(&["audit"]).remove(0);
        assert_eq!(audit["holds"], true, "{audit}");
        audit
    }
}

impl Device {
    pub(crate) fn start(&mut self) {
        let mut command = Command::new(DEMO);
        command
            .args(["edge", "run", "--json", "--config"])
            .arg(self.folder.join("edge.toml"));
        self.process = Some(Child::start(&self.id, &mut command).unwrap());
    }

    /// `status.json` of the process that runs.
    pub(crate) fn status(&self) -> Option<Value> {
        let text = fs::read(self.folder.join("data/status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) fn await_status(&self, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        await_fact(LIMIT, &format!("{}: {what}", self.id), || {
            self.status().filter(|status| fact(status))
        })
        .unwrap_or_else(|error| {
            let log = self.process.as_ref().map(|process| process.tail());
            panic!("{error}; last status {:?}; log {log:#?}", self.status())
        })
    }

    /// What the store holds, when the agent does not run.
    pub(crate) fn stored(&self) -> Value {
        let output = Command::new(DEMO)
            .args(["edge", "status", "--json", "--config"])
            .arg(self.folder.join("edge.toml"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}: {}", self.id, String::from_utf8_lossy(&output.stderr)))
    }
}

/// The sum of a trace.
pub(crate) fn octets(trace: &str) -> u64 {
    trace
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',').skip(1);
            Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
        })
        .sum()
}

/// A trace of a busy device: so many seconds, so many octets a second.
pub(crate) fn steady(seconds: u64, down: u64) -> String {
    (0..seconds)
        .map(|second| format!("{second},{},{down}\n", down / 4))
        .collect()
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
