//! A manager's month, by the command line only: the README's script is run as it stands there, and what it prints is
//! a snapshot.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::world::{World, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const README: &str = include_str!("../../README.md");

/// The script: what stands in the block after this heading.
fn script() -> String {
    let section = README.split("## A manager's month").nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

fn program(folder: &Path, name: &str, args: &str) {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\nexec {DEMO} {args} \"$@\"\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Times and random ids become the same wherever and whenever it runs; columns stay where they are.
fn settled(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut letters: Vec<char> = line.chars().collect();
        let mask = |letters: &mut Vec<char>, pattern: &str, with: char| {
            let pattern: Vec<char> = pattern.chars().collect();
            for at in 0..letters.len().saturating_sub(pattern.len() - 1) {
                let fits = |(letter, wanted): (&char, &char)| match wanted {
                    '0' => letter.is_ascii_digit(),
                    'x' => letter.is_ascii_hexdigit(),
                    other => letter == other,
                };
                let here = &mut letters[at..at + pattern.len()];
                if here.iter().zip(&pattern).all(fits) {
                    for (letter, wanted) in here.iter_mut().zip(&pattern) {
                        if matches!(wanted, '0' | 'x') {
                            *letter = with;
                        }
                    }
                }
            }
        };
        mask(&mut letters, "0000-00-00 00:00:00Z", '#');
        mask(&mut letters, "c-xxxxxxxxxxxxxxxx", '#');
        writeln!(
            out,
            "{}",
            letters.into_iter().collect::<String>().trim_end()
        )
        .unwrap();
    }
    out
}

#[test]
fn a_managers_month_by_the_command_line() {
    let world = World::start();
    // What the README's reader has already: a service, a list of SIMs, and two devices' configurations.
    let folder = world.folder.path();
    for (name, args) in [
        ("simquota-cloud", "cloud --wait-s 30"),
        ("simquota-edge", "edge"),
    ] {
        program(folder, name, args);
    }
    let sims: String = (0..4)
        .map(|n| format!("8988999{n:012},90199{n:010},Cloud Mobile,home,iot\n"))
        .collect();
    fs::write(
        folder.join("trams.csv"),
        format!("iccid,imsi,operator,zones,apn\n{sims}"),
    )
    .unwrap();
    for (name, seconds) in [("tram-1", 30), ("tram-2", 10)] {
        let device = world.device(name, &steady(seconds, 8_000), 30, "500 kB");
        let config = crate::world::read(&device.folder.join("edge.toml"));
        let config = config
            .replace("edge.key", &format!("{name}.key"))
            .replace("trace.csv", &format!("{name}/trace.csv"));
        fs::write(folder.join(format!("{name}.toml")), config).unwrap();
    }
    let file = folder.join("month.sh");
    fs::write(&file, script()).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args([
            "-c",
            "umask 077; exec timeout 120 bash -euv -o pipefail month.sh 2>&1",
        ])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("NO_COLOR", "1")
        .env_remove("SIMQUOTA_CLOUD_CONFIG")
        .output()
        .unwrap();
    let text = settled(&String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{text}");
    insta::assert_snapshot!(text);
    world.audit();
}
