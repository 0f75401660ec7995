//! `watch` and `top`: what goes over the broker, and what the service says of it.

mod demo;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rumqttc::v5::mqttbytes::v5::Packet;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use simquota_shared::topic::Up;
use simquota_tests::process::{Child, LIMIT, await_fact};

use crate::broker::client::Client;
use crate::hand::Hand;
use crate::refused::registration;
use crate::world::{World, steady};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// A watcher that sees the broker by the time this returns.
pub(crate) fn watch(world: &World, args: &[&str]) -> Child {
    let mut command = Command::new(DEMO);
    command
        .args(["cloud", "--config"])
        .arg(world.folder.path().join("cloud.toml"))
        .arg("watch")
        .args(args)
        .env("NO_COLOR", "1");
    let child = Child::start("watch", &mut command).unwrap();
    // The service's status is retained: it comes as soon as the subscription stands.
    child
        .wait_line(|line| line.contains("ops/node/"), LIMIT)
        .unwrap();
    child
}

fn rows(child: &Child) -> Vec<Value> {
    let lines = child.lines();
    let rows = lines.iter().map(|line| serde_json::from_str(&line.text));
    rows.filter_map(Result::ok).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_a_run_is_decoded_and_a_flipped_bit_is_refused() {
    let world = World::start();
    let watcher = watch(&world, &["--json"]);
    let words = watch(&world, &[]);
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let mut device = world.device("tracker-w", &steady(60, 10_000), 20, "1 MB");
    device.start();
    device.await_status("usage acknowledged", |status| {
        status["acked"].as_u64() > Some(0)
    });
    world.cloud(&["device", "suspend", "tracker-w"]);
    device.await_status("the gate to be shut", |status| status["gate_open"] == false);
    let topics = [
        "/up/register",
        "/down/register",
        "/up/usage",
        "/down/usage",
        "/up/credit",
        "/down/credit",
        "/down/command",
        "/up/ack",
        "/status",
        "f/buses/command",
        "f/buses/reply/admin",
        "f/buses/event",
        "ops/statistics/",
    ];
    for topic in topics {
        let there = |line: &str| line.contains(topic) && line.starts_with('{');
        watcher.wait_line(there, LIMIT).unwrap();
    }
    for row in rows(&watcher) {
        assert_eq!(row["verdict"], "verified", "{row}");
        assert!(row["payload"].is_array(), "{row}");
    }
    // One bit of a message that was good.
    let hand = Hand::of(&device);
    let (mut client, _) = Client::connect(&world.broker, "by-hand").await;
    let mut octets = hand.sealed(Up::Register, &registration());
    *octets.last_mut().unwrap() ^= 1;
    client.send(&hand.up(Up::Register), false, octets);
    // Its connection goes on only while it is listened to.
    client
        .until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
        .await;
    let refused = watcher
        .wait_line(|line| line.contains("\"refused\""), LIMIT)
        .unwrap();
    let row: Value = serde_json::from_str(&refused.text).unwrap();
    assert_eq!(row["topic"], "csim/v1/d/tracker-w/up/register");
    let why = row["why"].as_str().unwrap();
    assert!(!why.is_empty());
    let line = words
        .wait_line(|line| line.contains("REFUSED"), LIMIT)
        .unwrap();
    assert!(line.text.contains(why), "{}: {why}", line.text);
    assert!(
        line.text
            .starts_with("d/tracker-w/up/register  spring/1  REFUSED"),
        "{}",
        line.text
    );
    // The service says the same about it.
    watcher
        .wait_line(
            |line| line.contains("ops/rejected") && line.contains("forged"),
            LIMIT,
        )
        .unwrap();
}

#[test]
fn a_stalled_watcher_slows_nobody() {
    let world = World::start();
    let stalled = watch(&world, &["--raw"]);
    let pid = Pid::from_raw(i32::try_from(stalled.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let trace = steady(120, 10_000);
    let mut device = world.device("tracker-w", &trace, 60, "1 MB");
    device.start();
    let ended = device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    assert!(ended.success());
    let charged = world.show(&device)["charged"].as_u64().unwrap();
    assert_eq!(charged, crate::world::octets(&trace));
    kill_process(pid, Signal::CONT).unwrap();
}

#[test]
fn what_a_key_can_not_tell_is_unverified_and_not_refused() {
    let world = World::start();
    // A manager elsewhere: a key file, and nothing else.
    let folder = tempfile::tempdir().unwrap();
    let config = crate::world::read(&world.folder.path().join("cloud.toml"));
    let config = config.replace("data = \"cloud\"", "data = \"none\"");
    std::fs::write(folder.path().join("cloud.toml"), config).unwrap();
    let key = world
        .folder
        .path()
        .join("cloud/keys/person/buses-manager.1.key");
    let mut command = Command::new(DEMO);
    command
        .args(["cloud", "--config"])
        .arg(folder.path().join("cloud.toml"))
        .arg("--key")
        .arg(&key)
        .args(["--json", "watch", "--topic", "ops/node/+", "--count", "1"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(row["verdict"], "unverified", "{row}");
    assert!(row["payload"].is_array(), "{row}");
}

const ROWS: usize = 30;
const COLUMNS: usize = 120;

/// `top` on a terminal of its own, its keys, and all that it drew.
struct Terminal {
    child: std::process::Child,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(world: &World, args: &str) -> Self {
        let config = world.folder.path().join("cloud.toml");
        Self::of(&format!(
            "exec {DEMO} cloud --config {} top {args}",
            config.display()
        ))
    }

    /// What the shell is told on a terminal of its own.
    fn of(line: &str) -> Self {
        let line = format!("stty rows {ROWS} cols {COLUMNS}; {line}");
        // util-linux, on every Debian: a terminal between two pipes.
        let mut child = Command::new("script")
            .args([
                "--quiet",
                "--return",
                "--flush",
                "--command",
                &line,
                "/dev/null",
            ])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let (mut out, all) = (child.stdout.take().unwrap(), Arc::clone(&drawn));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut some) {
                all.lock().unwrap().extend_from_slice(&some[..count]);
            }
        });
        Self { child, drawn }
    }

    /// What a person sees: only what changes is drawn, so words come in pieces.
    fn text(&self) -> String {
        let drawn = String::from_utf8_lossy(&self.drawn.lock().unwrap()).into_owned();
        let mut screen = vec![vec![' '; COLUMNS]; ROWS];
        let (mut row, mut column) = (0, 0);
        let mut letters = drawn.chars();
        while let Some(letter) = letters.next() {
            if letter != '\u{1b}' {
                if !letter.is_control() {
                    if let Some(cell) = screen.get_mut(row).and_then(|row| row.get_mut(column)) {
                        *cell = letter;
                    }
                    column += 1;
                }
                continue;
            }
            if letters.next() != Some('[') {
                continue;
            }
            let mut numbers = String::new();
            let order = loop {
                match letters.next() {
                    Some(letter @ ('0'..='9' | ';' | '?')) => numbers.push(letter),
                    order => break order,
                }
            };
            match order {
                Some('H') => {
                    let mut place = numbers.split(';').map(|place| place.parse().unwrap_or(1));
                    row = place.next().unwrap_or(1_usize).saturating_sub(1);
                    column = place.next().unwrap_or(1_usize).saturating_sub(1);
                }
                Some('J') => screen.iter_mut().for_each(|row| row.fill(' ')),
                _ => {}
            }
        }
        let lines = screen.iter().map(|row| row.iter().collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn shows(&self, what: &str) {
        await_fact(LIMIT, what, || self.text().contains(what).then_some(()))
            .unwrap_or_else(|error| panic!("{error}:\n{}", self.text()));
    }

    fn press(&mut self, keys: &str) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be over, as it should be. Ctrl-C is for one that outlives its terminal.
        if let Some(keyboard) = &mut self.child.stdin {
            let _ = keyboard.write_all(b"\x03");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_lives_on_a_terminal_and_its_keys_open_the_journal_and_end_it() {
    let world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    for id in ["tracker-1", "tracker-2"] {
        let mut device = world.device(id, &steady(5, 100), 5, "1 MB");
        device.start();
        device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    }
    let mut top = Terminal::start(&world, "--fleet buses --every 1");
    top.shows("tracker-1");
    top.shows("tracker-2");
    top.press("/");
    top.shows("Enter keep, Esc clear");
    top.press("r-2\r");
    top.shows("only 'r-2'");
    top.press("\r");
    top.shows("journal of tracker-2");
    top.shows("request 1 (initial");
    top.press("q");
    let ended = await_fact(LIMIT, "top to end", || top.child.try_wait().unwrap()).unwrap();
    assert!(ended.success(), "{ended}:\n{}", top.text());
}

/// A process that is there, and not only waits to be buried.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[test]
fn top_ends_with_its_terminal_also_where_the_signal_for_that_is_ignored() {
    let world = World::start();
    let note = world.folder.path().join("top.pid");
    // As under `nohup`; and it is told of its parent's end by a signal that it ignores here.
    let config = world.folder.path().join("cloud.toml");
    let line = format!(
        "trap '' HUP TERM; echo $$ > {}; exec {DEMO} cloud --config {} top --fleet buses --every 1",
        note.display(),
        config.display()
    );
    let mut top = Terminal::of(&line);
    top.shows("DEVICE");
    let pid = crate::world::read(&note).trim().to_owned();
    assert!(lives(&pid));
    // The terminal's other side is gone with the one that held it.
    top.child.kill().unwrap();
    top.child.wait().unwrap();
    await_fact(LIMIT, "top to end", || (!lives(&pid)).then_some(())).unwrap();
}
