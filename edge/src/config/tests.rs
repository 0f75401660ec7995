#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;

use simquota_shared::units::Octets;

use super::*;
use crate::io::gate::GateKind;

const PATH: &str = "edge.toml";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new(PATH))
}

/// A folder with a key file, and the settings of a file in it that holds `text`.
fn settings(text: &str) -> (tempfile::TempDir, Result<Settings, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("edge.key");
    let line = format!("csim1:tracker-1:batch-a/1:{}\n", "ab".repeat(32));
    std::fs::write(&key, line).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = dir.path().join(PATH);
    std::fs::write(&path, text).unwrap();
    let settings = Config::read(&path).and_then(|config| config.settings(&path));
    (dir, settings)
}

#[test]
fn the_shipped_file_is_every_key_and_the_defaults() {
    let config = parse("").unwrap();
    insta::assert_debug_snapshot!(config);
    // Every field of the struct stands in the file: without the file's value it would not be read at all. And every
    // key of the file is a field, or it would be refused. So the two are the same set; this only shows it.
    let file: serde_json::Value = config::Config::builder()
        .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize)
        .unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), file);
}

#[test]
fn the_shipped_files_example_works_as_it_stands() {
    let example: Vec<&str> = DEFAULTS
        .lines()
        .skip_while(|line| !line.contains("The least that works"))
        .skip(2)
        .map_while(|line| line.strip_prefix("#   "))
        .collect();
    assert!(example.len() > 3, "{example:?}");
    let (dir, settings) = settings(&example.join("\n"));
    let settings = settings.unwrap();
    assert_eq!(settings.broker.host, "mqtt.example.com");
    assert_eq!(settings.data, dir.path().join("edge-data"));
    assert_eq!(settings.enrolment.device.as_str(), "tracker-1");
    assert_eq!(settings.agent.want, Octets(1_000_000));
    assert_eq!(settings.agent.sync_octets, Octets(65_536));
    assert_eq!(settings.gate.kind(), GateKind::Observe);
}

#[test]
fn a_trace_gets_a_gate_that_holds_it_back() {
    let (dir, settings) = settings("[source]\nkind = \"trace\"\nfile = \"t.csv\"\nspeed = 60\n");
    let settings = settings.unwrap();
    assert_eq!(settings.gate.kind(), GateKind::Trace);
    assert!(!settings.agent.observe);
    let Metered::Trace(options) = settings.source else {
        panic!("not a trace");
    };
    assert_eq!(options.trace, dir.path().join("t.csv"));
    assert_eq!(options.speed, 60);
}

#[test]
fn each_mistake_is_one_line_that_names_file_key_and_remedy() {
    let mut seen = Vec::new();
    for text in [
        "brokr = 1",
        "[broker]\nhots = \"x\"",
        "[broker]\nport = \"many\"",
        "[broker]\nport = 70000",
        "[broker]\nport = 0",
        "[broker]\nhost = \"\"",
        "[broker]\nkeep_alive_s = 2",
        "[source]\nkind = \"modem\"",
        "[source]\nkind = \"trace\"",
        "[source]\ninterface = \"\"",
        "[source]\ndirection = \"up\"",
        "[source]\npoll_ms = 0",
        "[gate]\nkind = \"trace\"",
        "[quota]\nwant = \"1 megabyte\"",
        "[quota]\nwant = \"0 B\"",
        "[store]\nsync = \"64 Kib\"",
        "[store]\nkeep = \"8 megs\"",
        "[device_info]\nzone = \"At Home\"",
        "device = \"tracker-2\"",
        "key_file = \"none.key\"",
        "[end]\nexit_at_end = \"perhaps\"",
        "broker = ",
        "[broker",
    ] {
        let (dir, settings) = settings(text);
        let error = settings.expect_err(text).to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        let folder = format!("{}/", dir.path().display());
        seen.push(format!("{text:?}\n  {}", error.replace(&folder, "")));
    }
    insta::assert_snapshot!(seen.join("\n"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::read(Path::new("no/such/edge.toml")).unwrap_err();
    assert!(error.to_string().contains("no/such/edge.toml"), "{error}");
}
