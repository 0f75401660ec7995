//! The gate as a program of the user's: for systems without nftables.
//!
//! The program is started at each change and gets one line of JSON on its standard input. It has to make the system
//! so, whatever it was before, and end with 0:
//!
//! ```json
//! {"open":true,"octets":950000,"control_octets":65536,"ended":false,"final":null}
//! ```
//!
//! | field | what it means |
//! |---|---|
//! | `open` | whether traffic may pass |
//! | `octets` | how much from now on, sent and received together; 0 when it is shut |
//! | `control_octets` | how much the agent itself, names and time may use beyond that |
//! | `ended` | nothing more is to be expected: end the flows |
//! | `final` | what passes when the last grant is used up: `null`, `"terminate"`, `{"hosts":[…]}`, `{"bit_per_s":…}` |
//!
//! What the program can't stop in time is metered as overrun.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use simquota_shared::message::FinalAction;
use simquota_shared::units::Octets;

use super::{GateError, Reach};
use crate::agent::GateState;
use crate::io::clock;

/// A hook that takes longer is ended: the agent meters on.
const WITHIN_MS: u64 = 5_000;
const LOOK: Duration = Duration::from_millis(2);

/// What a program was told last. The octets that passed since are no news: it counts by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    open: bool,
    until: Octets,
    stop: Octets,
    ended: bool,
    last: Option<FinalAction>,
}

/// A program that is told how the gate is to be.
#[derive(Debug)]
pub struct CommandGate {
    program: Vec<String>,
    told: Option<Told>,
}

impl CommandGate {
    /// `program` and its arguments; it is told of a shut gate at once.
    ///
    /// # Errors
    /// When it can't be started or fails.
    pub fn open(program: Vec<String>) -> Result<CommandGate, GateError> {
        let mut gate = CommandGate {
            program,
            told: None,
        };
        let shut = GateState::shut(Octets::ZERO, Octets::ZERO);
        gate.set(&shut, Reach::of(&shut, Octets::ZERO))?;
        Ok(gate)
    }

    /// Tells it, if something has changed.
    ///
    /// # Errors
    /// When the program can't be started, fails or takes too long; it is told again at the next occasion.
    pub fn set(&mut self, state: &GateState, reach: Reach) -> Result<(), GateError> {
        let open = state.open && reach.room() > 0;
        let now = Told {
            open,
            until: if open { reach.until } else { Octets::ZERO },
            stop: state.stop,
            ended: state.ended,
            last: state.final_unit.clone(),
        };
        if self.told.as_ref() == Some(&now) {
            return Ok(());
        }
        let base = if state.open {
            state.ceiling.max(reach.used)
        } else {
            reach.used
        };
        self.tell(&json!({
            "open": open,
            "octets": reach.room(),
            "control_octets": state.stop.beyond(base),
            "ended": state.ended,
            "final": last(state.final_unit.as_ref()),
        }))?;
        self.told = Some(now);
        Ok(())
    }

    fn tell(&self, line: &Value) -> Result<(), GateError> {
        let Some((name, arguments)) = self.program.split_first() else {
            return Ok(());
        };
        let failed = |source| GateError::NoProgram {
            program: name.clone(),
            source,
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
        match within(&mut child).map_err(failed)? {
            true => Ok(()),
            false => Err(GateError::Refused {
                program: name.clone(),
                said: "it failed or took more than 5 s".to_owned(),
            }),
        }
    }
}

/// Whether the program ended well and in time.
fn within(child: &mut Child) -> io::Result<bool> {
    let until_ms = clock::monotonic_ms().saturating_add(WITHIN_MS);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if clock::monotonic_ms() >= until_ms {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}

fn last(action: Option<&FinalAction>) -> Value {
    match action {
        None => Value::Null,
        Some(FinalAction::Terminate) => json!("terminate"),
        Some(FinalAction::Restrict(hosts)) => {
            let hosts: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
            json!({ "hosts": hosts })
        }
        Some(FinalAction::Throttle(bit_per_s)) => json!({ "bit_per_s": bit_per_s }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_program_is_told_each_change_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let script = format!("cat >> {}", said.display());
        let program = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let mut gate = CommandGate::open(program).unwrap();
        let open = GateState {
            open: true,
            ..GateState::shut(Octets(1_000), Octets(1_500))
        };
        gate.set(&open, Reach::of(&open, Octets(100))).unwrap();
        gate.set(&open, Reach::of(&open, Octets(300))).unwrap();
        let over = GateState {
            final_unit: Some(FinalAction::Throttle(8_000)),
            ended: true,
            ..GateState::shut(Octets(1_000), Octets(1_500))
        };
        gate.set(&over, Reach::of(&over, Octets(1_000))).unwrap();
        let said = std::fs::read_to_string(said).unwrap();
        let said: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            said,
            [
                json!({"open": false, "octets": 0, "control_octets": 0, "ended": false, "final": null}),
                json!({"open": true, "octets": 900, "control_octets": 500, "ended": false, "final": null}),
                json!({"open": false, "octets": 0, "control_octets": 500, "ended": true, "final": {"bit_per_s": 8_000}}),
            ]
        );
    }

    #[test]
    fn a_program_that_fails_is_named_and_told_again() {
        let mut gate = CommandGate {
            program: vec!["false".to_owned()],
            told: None,
        };
        let shut = GateState::shut(Octets(5), Octets(5));
        let error = gate.set(&shut, Reach::of(&shut, Octets(5))).unwrap_err();
        assert!(error.to_string().contains("`false`"), "{error}");
        assert_eq!(gate.told, None);
    }
}
