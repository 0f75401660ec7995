//! The story: what happens when, and how it ends.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rustix::process::Signal;
use serde_json::Value;
use simquota_shared::units::{Octets, human};

use super::cloud::{number, text};
use super::options::Options;
use super::plan::{
    AMNESIA_PERMILLE, AWAY_PERMILLE, DRY, HERO, KILL_PERMILLE, LEAVE_PERMILLE, METER,
    TOP_UP_PERMILLE,
};
use super::proof::{Meters, Midway, Proof, Seen};
use super::sim;
use super::stage::{Interrupts, Stage};
use super::traffic::{Traffic, lo_received};
use crate::broker::Broker as _;
use crate::netns::Lab;

/// An agent that used up its quota in the moment before it was killed had no remainder to return: it is killed again.
const KILLS_MAX: u32 = 3;
/// Agents that could not settle everything in their time are started again so often.
const ROUNDS_MAX: u32 = 3;
const STORY_END_PERMILLE: u64 = 1000;

/// Plays it all. `true` if the proof holds.
///
/// # Errors
/// When something could not be shown; the text says where everything of the run is kept.
pub(super) fn play(options: &Options) -> anyhow::Result<bool> {
    // Listened to first: whatever is made from here on is also taken away.
    let interrupts = Interrupts::listen()?;
    let lab = options.gate.map(|_| sim::lab()).transpose()?;
    let folder = tempfile::Builder::new()
        .prefix("simquota-demo-")
        .tempdir()
        .map_err(|error| {
            anyhow!("cannot make a folder for temporary files ({error}): check TMPDIR")
        })?;
    match perform(options, folder.path(), interrupts, lab) {
        Ok(true) if !options.keep => Ok(true),
        Ok(holds) => {
            let kept = folder.keep();
            eprintln!("kept: {}", kept.display());
            Ok(holds)
        }
        Err(error) => {
            let kept = folder.keep();
            Err(anyhow!("{error:#}\nkept: {}", kept.display()))
        }
    }
}

fn perform(
    options: &Options,
    folder: &Path,
    interrupts: Interrupts,
    lab: Option<Lab>,
) -> anyhow::Result<bool> {
    let mut stage = Stage::set(options, folder, interrupts, lab)?;
    stage.start_agents()?;
    let traffic = Traffic::begin(options.seed)?;
    stage.show.begin();
    stage
        .show
        .headline("prepaid data flows; each device is metered up to its ceiling");
    sim::begin(&mut stage)?;
    let seen = story(&mut stage)?;
    if options.keep && !stage.interrupts.any() {
        let told = invitation(&stage);
        stage.show.print(&told);
        stage.show.headline("it goes on until Ctrl-C");
        stage.watch(Duration::MAX, |stage| Ok(stage.interrupts.any()))?;
    }
    let meters = close(&mut stage, traffic)?;
    let proof = Proof::gather(&mut stage, meters, seen)?;
    stage.show.print(&proof.text());
    if options.json {
        stage.show.print(&format!("{}\n", proof.json()));
    }
    Ok(proof.holds())
}

/// From the first grants to the closing time; less of it if the user wants the end.
fn story(stage: &mut Stage) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    if !stage.until(LEAVE_PERMILLE)? {
        return Ok(seen);
    }
    leave(stage)?;
    stage.show.headline(&format!(
        "the pool of fleet {DRY} runs dry: the last unit, then nothing more"
    ));
    if !stage.until(AMNESIA_PERMILLE)? {
        return Ok(seen);
    }
    stage
        .show
        .headline("half-way: the broker is restarted and has lost its memory");
    stage.broker.restart_with_amnesia()?;
    let lost =
        "restarted: no session, no queue, no retained message is left; everyone connects again"
            .to_owned();
    stage.tell_once("", "broker", lost);
    sim::stops(stage)?;
    if !stage.until(KILL_PERMILLE)? {
        return Ok(seen);
    }
    seen.returned = kill(stage)?;
    if !stage.until(TOP_UP_PERMILLE)? {
        return Ok(seen);
    }
    top_up(stage)?;
    sim::is_released(stage)?;
    seen.midway = Some(Midway::ask(stage)?);
    stage.until(STORY_END_PERMILLE)?;
    Ok(seen)
}

/// The device changes to another network and back.
fn leave(stage: &mut Stage) -> anyhow::Result<()> {
    stage.show.headline(&format!(
        "{HERO} leaves its SIM for another network, and comes back"
    ));
    let seconds = stage.options.seconds;
    // It is more to see if it has something to give back.
    stage.watch(Duration::from_millis(seconds * 100), |stage| {
        Ok(stage.interrupts.any() || stage.hero().holds_quota())
    })?;
    stage.signal(HERO, Signal::USR1)?;
    let gone = Duration::from_millis((seconds * AWAY_PERMILLE).min(10_000));
    stage.watch(gone, |stage| Ok(stage.interrupts.any()))?;
    stage.signal(HERO, Signal::USR2)
}

/// `kill -9` with quota in hand, and a start: the remainder goes back before anything new is granted.
fn kill(stage: &mut Stage) -> anyhow::Result<Option<String>> {
    let mut returned = None;
    for _ in 0..KILLS_MAX {
        stage.show.headline(&format!(
            "{HERO} is killed with quota in hand (kill -9), and started again"
        ));
        stage.must(&format!("{HERO} to hold quota"), |stage| {
            Ok(stage.interrupts.any() || stage.hero().holds_quota())
        })?;
        if stage.interrupts.any() {
            break;
        }
        let hero = stage.hero();
        hero.kill9()?;
        let in_hand = human(Octets(hero.status.remaining));
        let words = format!(
            "killed with about {in_hand} in hand; what it had metered is on its disk or in the counter"
        );
        stage.tell_once("S5", HERO, words);
        // Long enough to be seen.
        let seconds = stage.options.seconds;
        stage.watch(Duration::from_millis((seconds * 50).min(2_000)), |_| {
            Ok(false)
        })?;
        stage.story.again(HERO);
        stage.hero().start()?;
        stage.must(&format!("{HERO} to be granted quota again"), |stage| {
            let hero = stage.hero();
            let up = hero
                .process
                .as_ref()
                .is_some_and(|process| process.id() == hero.status.pid);
            Ok(up && (hero.status.gate_open || hero.state() == "exhausted"))
        })?;
        returned = remainder(stage)?;
        if let Some(words) = &returned {
            stage.tell_once("S21-S23", "ledger", words.clone());
            break;
        }
    }
    Ok(returned)
}

/// The ledger's entry that released the remainder at the last start.
fn remainder(stage: &Stage) -> anyhow::Result<Option<String>> {
    let rows = hero_rows(stage)?;
    let at_start = |row: &&Value| text(row, "words").contains("(initial, boot)");
    let last = rows.iter().rev().find(at_start);
    let released = last.filter(|row| text(row, "steps").contains("S22"));
    Ok(released.map(|row| format!("entry {}: {}", number(row, "entry"), text(row, "words"))))
}

/// What the ledger says of the device that the story is about.
fn hero_rows(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    Ok(
        match stage.cloud.run(["explain", HERO, "--fleet", "buses"])? {
            Value::Array(rows) => rows,
            other => vec![other],
        },
    )
}

fn top_up(stage: &mut Stage) -> anyhow::Result<()> {
    stage.show.headline(&format!(
        "someone buys a package for fleet {DRY}: its devices flow again"
    ));
    stage.story.again("vending-1");
    let volume = stage.plan.top_up.to_string();
    let package = format!("{DRY}-top-up");
    stage.cloud.run([
        "package",
        "buy",
        "--fleet",
        DRY,
        "--volume",
        &volume,
        "--package",
        &package,
    ])?;
    let size = human(Octets(stage.plan.top_up));
    let words = format!("package {package} of {size} was bought for the pool of fleet {DRY}");
    stage.tell_once("S13", "platform", words);
    stage.must(
        &format!("the devices of fleet {DRY} to flow again"),
        |stage| Ok(stage.interrupts.any() || stage.dry().all(|agent| agent.status.gate_open)),
    )
}

/// The closing time: the meter on `lo` first, then all others; each stores, reports and gives its grant back.
fn close(stage: &mut Stage, traffic: Traffic) -> anyhow::Result<Meters> {
    stage.closing = true;
    let own = traffic.end();
    stage
        .show
        .headline("the meter on lo is closed; its last report goes out");
    stage.signal(METER, Signal::TERM)?;
    stage.must(&format!("{METER} to end"), |stage| {
        stage.meter().has_ended()
    })?;
    let lo_after = lo_received();
    sim::end(stage)?;
    stage.show.headline(
        "closing time: everyone stores, reports, and gives back what is left of its grant",
    );
    stage.end_agents()?;
    for _ in 1..ROUNDS_MAX {
        let late: Vec<String> = stage
            .agents
            .iter()
            .filter(|agent| !agent.is_settled())
            .map(|agent| agent.planned.id.clone())
            .collect();
        if late.is_empty() {
            break;
        }
        stage.show.headline(&format!(
            "not everything was through: {} started again",
            late.join(", ")
        ));
        for id in &late {
            stage.agent(id).start()?;
        }
        stage.must("agents that were started again to register", |stage| {
            Ok(late.iter().all(|id| {
                let agent = stage.agent(id);
                agent
                    .process
                    .as_ref()
                    .is_some_and(|process| process.id() == agent.status.pid)
                    && agent.status.registered
            }))
        })?;
        stage.end_agents()?;
    }
    let late: Vec<&str> = stage
        .agents
        .iter()
        .filter(|agent| !agent.is_settled())
        .map(|agent| agent.planned.id.as_str())
        .collect();
    if !late.is_empty() {
        bail!(
            "{} could not report everything or return a grant in {ROUNDS_MAX} tries: see their agent.log; {}",
            late.join(", "),
            stage.cloud.service.tail()
        );
    }
    let lo_kernel = lo_after
        .zip(stage.lo_before)
        .map(|(after, before)| after.saturating_sub(before));
    Ok(Meters {
        own,
        lo_kernel,
        sim: sim::seen(stage)?,
    })
}

/// The commands for another terminal.
fn invitation(stage: &Stage) -> String {
    let program =
        std::env::current_exe().map_or("demo".to_owned(), |path| path.display().to_string());
    let cloud = format!("{program} cloud --config {}", stage.cloud.config.display());
    let folder = stage.folder.display();
    let mut lines = vec![
        String::new(),
        "From another terminal you can watch and steer it:".to_owned(),
        format!("  {cloud} device list"),
        format!("  {cloud} explain {HERO}"),
        format!("  {cloud} audit"),
        format!("  {cloud} package buy --fleet {DRY} --volume 5MB"),
        format!("  {cloud} device suspend {HERO}      (and resume)"),
        format!("  {program} edge status --config {folder}/{HERO}/edge.toml"),
        format!("  {program} edge outbox --config {folder}/{HERO}/edge.toml"),
        format!("  tail -f {folder}/{HERO}/agent.log {folder}/cloud.log"),
    ];
    if let Some(process) = stage
        .agents
        .iter()
        .find(|agent| agent.planned.id == HERO)
        .and_then(|hero| hero.process.as_ref())
    {
        let pid = process.id();
        lines.push(format!(
            "  kill -USR1 {pid}      ({HERO} leaves its SIM; -USR2: it is back)"
        ));
    }
    lines.push("Ctrl-C here ends it in order, with the proof.".to_owned());
    lines.push(String::new());
    lines.join("\n")
}
