//! Dashboard, alerts and runbook: nothing in them that a scrape does not have, and no alert without its paragraph.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use simquota_tests::missing::missing_part;

use super::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../cloud")
        .join(name)
}

/// Every word in a text that is a metric's name.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("simquota_"))
        .collect()
}

/// What a scrape has samples or descriptions of.
fn offered(scrape: &str) -> BTreeSet<&str> {
    let described = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let samples = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split([' ', '{']).next());
    described.chain(samples).collect()
}

fn alerts() -> Vec<String> {
    let text = read(&file("ops/alerts.yml"));
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn each_metric_of_dashboard_and_alerts_is_in_a_live_scrape_and_each_in_a_scrape_is_described() {
    let mut world = World::start();
    // A receiver, a refusal and a decision, so that every series is there.
    let nobody = simquota_tests::port::free_port().unwrap();
    let hook = format!("[[hook]]\nname = \"pager\"\nurl = \"http://127.0.0.1:{nobody}/\"\n");
    let at = restart_with(&mut world, &hook);
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "buses",
        "--volume",
        "1MB",
        "--package",
        "p",
    ]);
    let mut device = world.device("t-1", &crate::world::steady(3, 10), 5, "1 kB");
    device.start();
    device.process.as_mut().unwrap().wait_exit(LIMIT).unwrap();
    world.cloud(&["package", "cancel", "p", "--fleet", "buses"]);
    let (_, code, _) = world.command(&["device", "show", "nobody", "--fleet", "buses"]);
    assert_eq!(code, 1);
    let admin = token(&world, "admin");
    let dashboard = read(&file("ops/dashboard.json"));
    let rules = read(&file("ops/alerts.yml"));
    let wanted: BTreeSet<&str> = named(&dashboard).union(&named(&rules)).copied().collect();
    assert!(wanted.len() > 15, "{wanted:?}");
    let mut missing = Vec::new();
    let found = simquota_tests::process::await_fact(LIMIT, "every metric that is named", || {
        let scrape = get(at, "/metrics", Some(&admin)).body;
        let offered = offered(&scrape);
        missing = wanted
            .iter()
            .filter(|name| !offered.contains(*name))
            .map(|name| (*name).to_owned())
            .collect();
        missing.is_empty().then(|| scrape.clone())
    });
    let scrape = found.unwrap_or_else(|error| panic!("{error}: {missing:?}"));
    let page = read(&file("OPERATIONS.md"));
    for line in scrape.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ") {
            let name = name.split(' ').next().unwrap();
            assert!(
                page.contains(&format!("`{name}`")),
                "OPERATIONS.md says nothing of {name}"
            );
        }
    }
}

#[test]
fn each_alert_has_its_paragraph_and_each_paragraph_its_alert() {
    let alerts = alerts();
    assert!(alerts.len() > 10);
    let page = read(&file("OPERATIONS.md"));
    let runbook = page.split("\n## Runbook\n").nth(1).unwrap();
    let runbook = runbook.split("\n## ").next().unwrap();
    let paragraphs: Vec<(&str, &str)> = runbook
        .split("\n### ")
        .skip(1)
        .map(|part| part.split_once('\n').unwrap())
        .collect();
    let titles: Vec<&str> = paragraphs.iter().map(|(title, _)| *title).collect();
    assert_eq!(titles, alerts);
    for (title, text) in paragraphs {
        assert!(text.trim().len() > 150, "{title} says too little to act by");
    }
    let rules = read(&file("ops/alerts.yml"));
    for alert in alerts {
        let link = format!("runbook: cloud/OPERATIONS.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} does not name its paragraph");
    }
}

#[test]
fn promtool_takes_the_rules() {
    let Ok(said) = Command::new("promtool")
        .args(["check", "rules"])
        .arg(file("ops/alerts.yml"))
        .output()
    else {
        return missing_part("promtool (alert rules)");
    };
    let words = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success(),
        "{words}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(
        words.contains(&format!("SUCCESS: {} rules found", alerts().len())),
        "{words}"
    );
}

#[test]
fn the_dashboard_is_json_whose_panels_each_ask_something() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read(&file("ops/dashboard.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        assert!(!expression.is_empty(), "{panel}");
    }
}
