#![allow(clippy::unwrap_used)]
use super::*;

fn mistake(text: &str) -> String {
    let error = Config::parse(text, Path::new("/etc/cloud.toml")).unwrap_err();
    let line = error.to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn the_shipped_file_is_the_defaults_and_names_every_key() {
    let shipped = Config::parse(SHIPPED, Path::new("cloud.toml")).unwrap();
    assert_eq!(shipped.rules, Rules::default());
    assert_eq!(shipped, Config::parse("", Path::new("cloud.toml")).unwrap());
    // Without a default of serde's, a key that is missing in the file would have failed above; and each
    // is explained: a comment stands before every group of keys.
    assert!(SHIPPED.lines().filter(|line| line.starts_with('#')).count() > 30);
}

#[test]
fn relative_paths_start_at_the_file() {
    let config = Config::parse("data = 'd'", Path::new("/etc/simquota/cloud.toml")).unwrap();
    assert_eq!(config.store_folder(), Path::new("/etc/simquota/d/ledger"));
    let config = Config::parse("data = '/d'", Path::new("/etc/simquota/cloud.toml")).unwrap();
    assert_eq!(config.data, Path::new("/d"));
}

#[test]
fn mistakes_name_the_key_and_what_to_write() {
    let mistakes = [
        "prot = 1",
        "[broker]\nprot = 1883",
        "[broker]\nport = 'x'",
        "[broker]\nport = 70000",
        "[broker]\nport = 0",
        "[broker]\nkeep_alive_s = 1",
        "[grant]\nmax = '64 XB'",
        "[grant]\nmax = '1 kB'",
        "[grant]\nfinal = 'stop'",
        "[grant]\nfinal = 'restrict'",
        "[grant]\nfinal = 'throttle'",
        "[limits]\nsender_per_s = 0",
        "[policy]\nreport_s = 0",
        "node = 'Cloud 1'",
        "data = ''",
        "data = ",
        "[broker]\ncredentials = 'nowhere'",
    ];
    let lines: Vec<String> = mistakes
        .iter()
        .map(|text| format!("{text:?}\n  {}", mistake(text)))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn credentials_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.toml");
    let file = folder.path().join("broker.credentials");
    fs::write(&path, "[broker]\ncredentials = 'broker.credentials'").unwrap();
    fs::write(&file, "cloud:a:b\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Config::read(&path).unwrap_err().to_string();
    assert!(error.contains("run `chmod 600"), "{error}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config::read(&path).unwrap();
    let both = ("cloud".to_owned(), "a:b".to_owned());
    assert_eq!(config.broker.credentials, Some(both));
    assert!(!format!("{config:?}").contains("a:b"));
    fs::write(&file, "cloud").unwrap();
    assert!(
        Config::read(&path)
            .unwrap_err()
            .to_string()
            .contains("write user:password")
    );
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Config::read(Path::new("/nowhere/cloud.toml"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("simquota-cloud init"), "{error}");
}
