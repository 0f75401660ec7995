//! The conformance kit on devices of which it is known what they keep: our agent, the stranger, and strangers that each
//! make one mistake.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use simquota_tests::broker::{Broker as _, Mosquitto};
use simquota_tests::certificates::{Authority, Validity};
use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, LIMIT};
use simquota_tests::tools;

use crate::tls::listener;

const KIT: &str = env!("CARGO_BIN_EXE_conformance");
const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// Mistake of `wrong.py`, the first rule that it breaks.
const WRONG: [(&str, &str); 18] = [
    ("adds", "repeated-answer"),
    ("any-epoch", "other-epoch"),
    ("boundless", "silence"),
    ("deletes", "resends-usage"),
    ("forged", "forged-answer"),
    ("hasty", "registers-first"),
    ("keeps-epoch", "new-epoch"),
    ("lowers", "keeps-ceiling"),
    ("new-octets", "repeats-request"),
    ("overspends", "stops-at-ceiling"),
    ("receipt", "validity"),
    ("restless", "holding"),
    ("silent", "repeats-request"),
    ("stale", "older-number"),
    ("swaps", "command-order"),
    ("twice", "command-once"),
    ("unrestricted", "restrict"),
    ("unthrottled", "throttle"),
];

/// A kit and the device that it looks at.
struct Trial {
    name: &'static str,
    kit: Child,
    device: Child,
}

struct Place {
    python: PathBuf,
    port: u16,
    /// Of a broker with TLS, whose issuer is in `ca.pem`.
    tls_port: u16,
    folder: tempfile::TempDir,
}

impl Place {
    fn key(&self, device: &str) -> PathBuf {
        let file = self.folder.path().join(format!("{device}.key"));
        let line = format!("csim1:{device}:batch/1:{:064x}", 7);
        fs::write(&file, line).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// The kit listens before the device starts.
    fn trial(
        &self,
        name: &'static str,
        wait_s: u64,
        broker: &[String],
        key: &Path,
        device: &mut Command,
    ) -> Trial {
        let mut kit = Command::new(KIT);
        kit.args(["--json", "--wait-s", &wait_s.to_string()])
            .args(["--epoch-s", &(2 * wait_s).to_string(), "--broker"])
            .args(broker)
            .arg("--device")
            .arg(key);
        let kit = Child::start("kit", &mut kit).unwrap();
        kit.wait_line(|line| line.starts_with("listening"), LIMIT)
            .unwrap();
        let device = Child::start(name, device).unwrap();
        Trial { name, kit, device }
    }

    fn stranger(&self, name: &'static str, wrong: Option<&str>) -> Trial {
        let key = self.key(name);
        let mut device = Command::new(&self.python);
        device
            .arg(tools::client("wrong.py"))
            .args(["127.0.0.1", &self.port.to_string()])
            .arg(&key)
            // 20 kB a second, and no number of turns that comes to a grant.
            .args(["--hurry", "10", "--octets", "1050"])
            .args(wrong.map(|wrong| format!("--wrong={wrong}")));
        let broker = [format!("mqtt://127.0.0.1:{}", self.port)];
        self.trial(name, 12, &broker, &key, &mut device)
    }

    /// The broker with TLS, for the kit, with the issuers that are in a file.
    fn over_tls(&self, issuers: &Path) -> [String; 3] {
        [
            format!("mqtts://localhost:{}", self.tls_port),
            "--ca".to_owned(),
            issuers.to_str().unwrap().to_owned(),
        ]
    }

    /// Over TLS, with traffic that pauses for 6 of 12 seconds.
    fn agent(&self) -> Trial {
        let key = self.key("agent");
        let folder = self.folder.path();
        let trace: String = (0..3600)
            .map(|second| match second % 120 {
                0..60 => format!("{second},400,1700\n"),
                _ => format!("{second},0,0\n"),
            })
            .collect();
        fs::write(folder.join("trace.csv"), trace).unwrap();
        let config = format!(
            "key_file = \"agent.key\"\ndata = \"data\"\n[broker]\nhost = \"localhost\"\nport = {}\ntls = true\n\
             ca_file = \"ca.pem\"\n[source]\n\
             kind = \"trace\"\nfile = \"trace.csv\"\nspeed = 10\nrepeat = true\npoll_ms = 50\n",
            self.tls_port
        );
        let path = folder.join("edge.toml");
        fs::write(&path, config).unwrap();
        let mut device = Command::new(DEMO);
        device.args(["edge", "run", "--config"]).arg(path);
        let broker = self.over_tls(&folder.join("ca.pem"));
        self.trial("agent", 30, &broker, &key, &mut device)
    }
}

impl Place {
    fn the_kit_believes_no_other_issuer(&self) {
        let other = self.folder.path().join("other.pem");
        Authority::new("other").unwrap().write(&other).unwrap();
        let output = Command::new(KIT)
            .arg("--broker")
            .args(self.over_tls(&other))
            .arg("--device")
            .arg(self.key("nobody"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("ca_file"), "{said}");
    }
}

impl Trial {
    /// The kit's rules in order, as name, outcome, why; and whether all were kept.
    fn end(mut self) -> (Vec<(String, String, String)>, bool) {
        let status = self.kit.wait_exit(10 * LIMIT).unwrap();
        let lines = self.kit.lines();
        let report: Value = lines
            .iter()
            .find_map(|line| serde_json::from_str(&line.text).ok())
            .unwrap_or_else(|| panic!("{}: {lines:#?}", self.name));
        assert_eq!(report["passed"], status.success());
        self.device.kill9().unwrap();
        let text = |row: &Value, what: &str| row[what].as_str().unwrap().to_owned();
        let rules = report["rules"].as_array().unwrap();
        let rules = rules
            .iter()
            .map(|row| (text(row, "rule"), text(row, "outcome"), text(row, "why")));
        (rules.collect(), status.success())
    }
}

#[test]
fn the_kit_passes_agent_and_stranger_and_finds_each_mistake() {
    let (Some(python), Some(mosquitto)) = (tools::python(), Mosquitto::find()) else {
        return missing_part(
            "mosquitto, and Python with pycose, cbor2 and paho-mqtt (conformance)",
        );
    };
    let broker = Mosquitto::start(&mosquitto).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let issuer = Authority::new("issuer").unwrap();
    issuer.write(&folder.path().join("ca.pem")).unwrap();
    let server = issuer
        .issue(folder.path(), "server", &["localhost"], Validity::Now)
        .unwrap();
    let guarded = Mosquitto::start_with(&mosquitto, &listener(&server, None)).unwrap();
    let place = Place {
        python,
        port: broker.port_v4(),
        tls_port: guarded.port_v4(),
        folder,
    };
    place.the_kit_believes_no_other_issuer();
    let right = [place.agent(), place.stranger("stranger", None)];
    let wrong = WRONG.map(|(name, rule)| (place.stranger(name, Some(name)), rule));
    for trial in right {
        let name = trial.name;
        let (rules, passed) = trial.end();
        let kept = rules.iter().filter(|(_, outcome, _)| outcome == "kept");
        let kept = kept.count();
        println!("{name}: {kept} of {} rules kept", rules.len());
        assert!(passed, "{name}: {rules:#?}");
        // The stranger chose to have no holding time.
        let chosen = usize::from(name == "stranger");
        assert_eq!(kept + chosen, rules.len(), "{name}: {rules:#?}");
    }
    for (trial, rule) in wrong {
        let name = trial.name;
        let (rules, passed) = trial.end();
        let broken: Vec<_> = rules
            .iter()
            .filter(|(_, outcome, _)| outcome == "broken")
            .collect();
        assert!(!passed, "{name}: {rules:#?}");
        let first = broken
            .first()
            .unwrap_or_else(|| panic!("{name}: {rules:#?}"));
        println!("{name}: breaks {}: {}", first.0, first.2);
        assert_eq!(first.0, rule, "{name}: {broken:#?}");
    }
}
