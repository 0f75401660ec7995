//! A small world behind a guarded mosquitto: TLS, client certificates, access control. Like [`World`](crate::world),
//! with a broker that asks who is there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use simquota_tests::broker::{Broker as _, Mosquitto};
use simquota_tests::process::{Child, LIMIT, await_fact};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

pub(crate) struct Guarded {
    pub(crate) folder: PathBuf,
    pub(crate) broker: Mosquitto,
    pub(crate) cloud: Option<Child>,
}

/// One device: its folder, and its process while it runs.
pub(crate) struct Device {
    pub(crate) folder: PathBuf,
    pub(crate) process: Option<Child>,
}

/// A table of a configuration with more keys in it.
fn configured(text: &str, broker: &str) -> String {
    text.replace("[broker]\n", &format!("[broker]\n{broker}"))
}

impl Guarded {
    /// The broker with these settings; the cloud's `[broker]` has these keys besides host and port.
    pub(crate) fn new(folder: &Path, program: &Path, settings: &str, keys: &str) -> Self {
        let broker = Mosquitto::start_with(program, settings).unwrap();
        let config = format!(
            "data = \"cloud\"\n[broker]\nhost = \"localhost\"\nport = {}\n[grant]\nmin = \"1 kB\"\n[policy]\nsample_s = 1\nreport_s = 1\n",
            broker.port()
        );
        fs::write(folder.join("cloud.toml"), configured(&config, keys)).unwrap();
        let guarded = Self {
            folder: folder.to_owned(),
            broker,
            cloud: None,
        };
        guarded.cloud(&["init"]);
        guarded
    }

    pub(crate) fn start_cloud(&mut self) {
        let mut command = self.command(&["serve"]);
        self.cloud = Some(Child::start("cloud", &mut command).unwrap());
    }

    /// A fleet, SIMs, an enrolment key and a package.
    pub(crate) fn furnish(&self) {
        let sims: String = (0..20)
            .map(|n| format!("89883030{n:011},90128{n:010},CloudMobile,home,iot\n"))
            .collect();
        let csv = self.folder.join("sims.csv");
        fs::write(&csv, sims).unwrap();
        self.cloud(&["fleet", "create", "buses"]);
        self.cloud(&["sim", "import", csv.to_str().unwrap()]);
        self.cloud(&["enrol", "batch", "create", "spring", "--fleet", "buses"]);
        self.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(DEMO);
        command
            .args(["cloud", "--config"])
            .arg(self.folder.join("cloud.toml"))
            .args(["--wait-s", "30"])
            .args(args)
            .env("NO_COLOR", "1");
        command
    }

    /// What a command of `simquota-cloud` printed, its exit code, and what it said.
    pub(crate) fn run(&self, args: &[&str]) -> (String, i32, String) {
        let output = self.command(args).output().unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// The same with `--json`, which has to succeed.
    pub(crate) fn cloud(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        let (out, code, said) = self.run(&args);
        assert_eq!(code, 0, "simquota-cloud {args:?}: {said}");
        serde_json::Deserializer::from_str(&out)
            .into_iter::<Value>()
            .map_while(Result::ok)
            .collect()
    }

    /// A device that plays `trace`; its `[broker]` has these keys besides host and port.
    pub(crate) fn device(&self, id: &str, trace: &str, keys: &str) -> Device {
        let folder = self.folder.join(id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("trace.csv"), trace).unwrap();
        let config = format!(
            "key_file = \"edge.key\"\ndata = \"data\"\n[broker]\nhost = \"localhost\"\nport = {}\n[source]\nkind = \"trace\"\nfile = \"trace.csv\"\nspeed = 1\npoll_ms = 100\n[end]\nexit_at_end = true\nshutdown_s = 30\n",
            self.broker.port()
        );
        fs::write(folder.join("edge.toml"), configured(&config, keys)).unwrap();
        let (line, code, said) = self.run(&["enrol", id, "--batch", "spring"]);
        assert_eq!(code, 0, "{said}");
        let key = folder.join("edge.key");
        fs::write(&key, line).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Device {
            folder,
            process: None,
        }
    }

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
        self.process = Some(Child::start("edge", &mut command).unwrap());
    }

    pub(crate) fn await_status(&self, what: &str, fact: impl Fn(&Value) -> bool) -> Value {
        await_fact(LIMIT, what, || {
            let text = fs::read(self.folder.join("data/status.json")).ok()?;
            let status = serde_json::from_slice(&text).ok()?;
            fact(&status).then_some(status)
        })
        .unwrap_or_else(|error| {
            let log = self.process.as_ref().map(Child::tail);
            panic!("{error}; log {log:#?}")
        })
    }
}
