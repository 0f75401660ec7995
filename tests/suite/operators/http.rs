//! Health, readiness, metrics, the log's level: who may ask, and what is answered.

use std::process::{Command, Stdio};

use simquota_tests::missing::missing_part;
use simquota_tests::process::{LIMIT, await_fact};

use super::*;
use crate::world::steady;

pub(super) fn await_ready(at: SocketAddr) {
    await_fact(LIMIT, "readiness", || {
        (get(at, "/readyz", None).status == 200).then_some(())
    })
    .unwrap();
}

/// The value of a metric in a scrape, its labels included in the name.
pub(super) fn value(scrape: &str, name: &str) -> Option<f64> {
    let line = scrape
        .lines()
        .find(|line| line.rsplit_once(' ').is_some_and(|(left, _)| left == name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn a_key_that_is_believed_reads_the_metrics_and_nobody_else() {
    let mut world = World::start();
    let at = restart_with(&mut world, "");
    assert_eq!(get(at, "/healthz", None).status, 200);
    await_ready(at);
    assert_eq!(
        get(at, "/readyz", None).body,
        "{\"ready\":true,\"reasons\":[]}\n"
    );
    assert_eq!(get(at, "/nothing", None).status, 404);

    let refused = get(at, "/metrics", None);
    assert_eq!(refused.status, 401, "loopback exempts nobody");
    let challenge = "www-authenticate: bearer realm=\"simquota\"";
    assert!(
        refused.headers.iter().any(|line| line == challenge),
        "{refused:?}"
    );
    world.cloud(&[
        "key", "create", "auditor", "--role", "viewer", "--fleet", "buses",
    ]);
    let viewer = token(&world, "auditor");
    assert_eq!(get(at, "/metrics", Some(&viewer)).status, 200);
    let forged = viewer.replace("auditor", "admin");
    assert_eq!(get(at, "/metrics", Some(&forged)).status, 401);
    let (mut altered, last) = (viewer.clone(), viewer.chars().last());
    altered.pop();
    altered.push(if last == Some('0') { '1' } else { '0' });
    assert_eq!(get(at, "/metrics", Some(&altered)).status, 401);

    // A viewer looks and changes nothing.
    assert_eq!(
        request(at, "PUT", "/log", Some(&viewer), "debug").status,
        403
    );
    assert_eq!(request(at, "PUT", "/log", None, "debug").status, 401);
    // The answer to the command is out, so the entry is durable: the token goes with its key.
    world.cloud(&["key", "revoke", "auditor"]);
    assert_eq!(get(at, "/metrics", Some(&viewer)).status, 401);

    let at = restart_with(&mut world, "metrics_open = true\n");
    assert_eq!(get(at, "/metrics", None).status, 200);
    assert_eq!(
        get(at, "/log", None).status,
        401,
        "nothing else is opened by it"
    );
    world.cloud.as_ref().unwrap().assert_no_errors(&[]);
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let mut world = World::start();
    let at = restart_with(&mut world, "");
    await_ready(at);
    let admin = token(&world, "admin");
    assert_eq!(get(at, "/log", Some(&admin)).body, "info\n");
    let mark = world.cloud.as_ref().unwrap().mark();
    let wrong = request(at, "PUT", "/log", Some(&admin), "loud");
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let too_long = "info,".repeat(100);
    assert_eq!(
        request(at, "PUT", "/log", Some(&admin), &too_long).status,
        413
    );
    assert_eq!(
        request(at, "PUT", "/log", Some(&admin), "simquota_cloud=debug").status,
        204
    );
    // Under the new level what was decided is told.
    let mut device = world.device("t-1", &steady(30, 10), 1, "1 kB");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    device.start();
    let cloud = world.cloud.as_ref().unwrap();
    cloud
        .wait_line_after(
            mark,
            |line| line.contains("DEBUG") && line.contains("decided"),
            LIMIT,
        )
        .unwrap();
    // SIGHUP puts the file's line in force again.
    let pid = cloud.id().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    assert!(sent.success());
    cloud
        .wait_line_after(mark, |line| line.contains("log set by the file"), LIMIT)
        .unwrap();
    assert_eq!(get(at, "/log", Some(&admin)).body, "info\n");
}

#[test]
fn it_is_not_ready_without_a_broker() {
    let mut world = World::start();
    let path = world.folder.path().join("cloud.toml");
    let text = read(&path);
    let line = text
        .lines()
        .find(|line| line.starts_with("port = "))
        .unwrap();
    let nobody = simquota_tests::port::free_port().unwrap();
    fs::write(&path, text.replace(line, &format!("port = {}", nobody))).unwrap();
    let at = restart_with(&mut world, "");
    let answer = get(at, "/readyz", None);
    assert_eq!(answer.status, 503);
    assert!(
        answer
            .body
            .contains("no connection to the broker for control"),
        "{answer:?}"
    );
    assert_eq!(get(at, "/healthz", None).status, 200);
}

#[test]
fn a_live_scrape_passes_promtool_and_counts_what_happened() {
    let mut world = World::start();
    let at = restart_with(&mut world, "");
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "1MB"]);
    let mut device = world.device("t-1", &steady(5, 100), 5, "1 kB");
    device.start();
    device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    let admin = token(&world, "admin");
    let scrape = await_fact(LIMIT, "all of it to be charged", || {
        let scrape = get(at, "/metrics", Some(&admin)).body;
        (value(&scrape, "simquota_charged_bytes_total") == Some(625.0)
            && value(&scrape, "simquota_devices") == Some(1.0))
        .then_some(scrape)
    })
    .unwrap();
    assert!(value(&scrape, "simquota_grant_seconds_count").unwrap() >= 1.0);
    assert!(value(&scrape, "simquota_credit_decisions_total{code=\"2001\"}").unwrap() >= 1.0);
    assert!(value(&scrape, "simquota_journal_sync_seconds_count").unwrap() >= 2.0);
    assert_eq!(
        value(&scrape, "simquota_broker_connected{lane=\"usage\"}"),
        Some(1.0)
    );
    assert_eq!(value(&scrape, "simquota_read_only"), Some(0.0));
    if Command::new("promtool").arg("--version").output().is_err() {
        return missing_part("promtool (metrics)");
    }
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(scrape.as_bytes())
        .unwrap();
    let said = tool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert!(
        said.status.success() && words.is_empty(),
        "promtool: {words}"
    );
}
