//! A program of the user's that hears when a SIM was assigned or released, for handing its profile to the modem.
//!
//! It is started with one line of JSON on its standard input, on a thread of its own, and ended if it takes too long:
//!
//! ```json
//! {"event":"assigned","iccid":"8988303000000000001","imsi":"901280000000001","operator":"CloudMobile","zones":["home"],"apn":"iot"}
//! {"event":"released","iccid":"8988303000000000001"}
//! ```
//!
//! `assigned` comes with the first registration of each start, also when nothing changed: the modem may have lost it.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use simquota_shared::ids::Iccid;
use simquota_shared::message::SimProfile;

use crate::io::clock;

const LOOK: Duration = Duration::from_millis(10);
/// A modem may take its time to change its profile; a hook that hangs must not pile up others behind it.
const WITHIN_MS: u64 = 60_000;

/// What came of it: the error, with what to do, or none.
pub type Outcome = Option<String>;

/// The hook, and which SIM it heard of last.
#[derive(Debug, Default)]
pub struct SimHook {
    /// The program and its arguments; none without a hook.
    pub program: Vec<String>,
    assigned: Option<Iccid>,
}

impl SimHook {
    /// A hook; `iccid` is the SIM of the last start.
    #[must_use]
    pub fn new(program: Vec<String>, iccid: Option<Iccid>) -> SimHook {
        SimHook {
            program,
            assigned: iccid,
        }
    }

    /// This SIM is the device's now; the one before is not any more. `done` is called on another thread.
    pub fn assigned(&mut self, sim: &SimProfile, done: impl FnOnce(Outcome) + Send + 'static) {
        let before = self.assigned.replace(sim.iccid.clone());
        let released = before
            .filter(|before| *before != sim.iccid)
            .map(|iccid| json!({ "event": "released", "iccid": iccid.as_str() }));
        let zones: Vec<&str> = sim.zones.iter().map(|zone| zone.as_str()).collect();
        let assigned = json!({
            "event": "assigned",
            "iccid": sim.iccid.as_str(),
            "imsi": sim.imsi.as_str(),
            "operator": sim.operator.as_str(),
            "zones": zones,
            "apn": sim.apn.as_str(),
        });
        let lines: Vec<Value> = released.into_iter().chain([assigned]).collect();
        let program = self.program.clone();
        if program.is_empty() {
            return;
        }
        let thread = std::thread::Builder::new().name("sim-hook".to_owned());
        let spawned = thread.spawn(move || {
            // One after the other: the modem gives up the one before it takes the next.
            let error = lines
                .iter()
                .find_map(|line| call(&program, line, WITHIN_MS).err());
            done(error);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for the SIM's hook");
        }
    }
}

fn call(program: &[String], line: &Value, within_ms: u64) -> Result<(), String> {
    let Some((name, arguments)) = program.split_first() else {
        return Ok(());
    };
    let failed = |error: io::Error| {
        format!("the SIM's hook `{name}` can't be run ({error}): correct sim.hook")
    };
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it has its reasons; its exit code is what counts.
        let _ = writeln!(stdin, "{line}");
    }
    match ended(&mut child, within_ms).map_err(failed)? {
        Some(true) => Ok(()),
        Some(false) => Err(format!(
            "the SIM's hook `{name}` failed: its own output says why"
        )),
        None => Err(format!(
            "the SIM's hook `{name}` took more than {} s and was ended",
            within_ms / 1000
        )),
    }
}

/// Whether the program ended well; none if it was ended.
fn ended(child: &mut Child, within_ms: u64) -> io::Result<Option<bool>> {
    let until_ms = clock::monotonic_ms().saturating_add(within_ms);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if clock::monotonic_ms() >= until_ms {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::sync::mpsc::channel;

    use simquota_shared::ids::Text;

    use super::*;

    fn sim(iccid: &str) -> SimProfile {
        SimProfile {
            iccid: iccid.parse().unwrap(),
            imsi: Text::clipped("901280000000001"),
            operator: Text::clipped("CloudMobile"),
            zones: vec!["home".parse().unwrap()],
            apn: Text::clipped("iot"),
        }
    }

    fn script(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[test]
    fn it_hears_of_the_next_sim_and_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let program = script(&format!("cat >> {}", said.display()));
        let mut hook = SimHook::new(program, Some("8988303000000000001".parse().unwrap()));
        let (sender, outcomes) = channel();
        for iccid in ["8988303000000000001", "8988303000000000002"] {
            let sender = sender.clone();
            hook.assigned(&sim(iccid), move |outcome| sender.send(outcome).unwrap());
            assert_eq!(outcomes.recv().unwrap(), None);
        }
        let said = std::fs::read_to_string(said).unwrap();
        let said: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let events: Vec<_> = said
            .iter()
            .map(|line| {
                (
                    line["event"].as_str().unwrap(),
                    line["iccid"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            events,
            [
                ("assigned", "8988303000000000001"),
                ("released", "8988303000000000001"),
                ("assigned", "8988303000000000002"),
            ]
        );
        assert_eq!(said[0]["apn"], "iot");
    }

    #[test]
    fn one_that_fails_hangs_or_is_missing_is_named() {
        for (program, within_ms, says) in [
            (script("exit 3"), 30_000, "failed"),
            (script("exec sleep 60"), 1, "was ended"),
            (vec!["/nowhere/hook".to_owned()], 1, "correct sim.hook"),
        ] {
            let error = call(&program, &json!({}), within_ms).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
