//! Which command an id stands for: a digest of the whole, and of each argument, so that a refusal can say what
//! differs. `[8 octets] ([4 octets of the name's digest] [4 octets of the value's])*`

use serde_cbor::Value;
use simquota_shared::message::FleetCommand;
use simquota_shared::message::ops::Blob;

use crate::charging::encoded;
use crate::ledger::chain::digest;
use crate::ledger::{Broken, Done};

const WHOLE: usize = 8;
const PART: usize = 4;

/// The digests of a command.
pub(super) fn of(command: &FleetCommand) -> Result<Blob, Broken> {
    let mut body = digest(&encoded(&(&command.name, &command.args, command.expected))?).0;
    if let Value::Map(arguments) = &command.args {
        for (name, value) in arguments {
            body.extend(short(name)?);
            body.extend(short(value)?);
        }
    }
    Ok(Blob(body))
}

/// What differs from the command that has the id already, in words.
pub(super) fn differences(done: &Done, command: &FleetCommand, body: &Blob) -> String {
    if done.name != command.name.as_str() {
        return format!("not for {}", command.name);
    }
    let before = parts(&done.body);
    let now = parts(&body.0);
    let mut words: Vec<String> = Vec::new();
    if let Value::Map(arguments) = &command.args {
        for ((name, value), key) in now.iter().zip(arguments.keys()) {
            let key = match key {
                Value::Text(text) => text.as_str(),
                _ => "an argument without a name",
            };
            match before.iter().find(|(old, _)| old == name) {
                Some((_, old)) if old == value => {}
                Some(_) => words.push(format!("'{key}' differs")),
                None => words.push(format!("'{key}' was not given")),
            }
        }
    }
    let gone = before
        .iter()
        .filter(|(old, _)| now.iter().all(|(name, _)| name != old))
        .count();
    if gone > 0 {
        words.push(format!("{gone} arguments are missing now"));
    }
    if words.is_empty() {
        words.push("its arguments differ".to_owned());
    }
    words.join(", ")
}

fn short(value: &Value) -> Result<Vec<u8>, Broken> {
    let mut octets = digest(&encoded(value)?).0;
    octets.truncate(PART);
    Ok(octets)
}

fn parts(body: &[u8]) -> Vec<(&[u8], &[u8])> {
    body.get(WHOLE..)
        .unwrap_or_default()
        .chunks_exact(2 * PART)
        .map(|part| part.split_at(PART))
        .collect()
}
