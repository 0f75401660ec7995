//! `acl`: the files with which a broker keeps everybody to their own topics.
//!
//! Correctness never depends on them: every message is sealed, and the ledger believes a device about itself alone.
//! They keep a device from reading what others say, from filling the broker, and from costing the service a look.
//!
//! | user | who | password |
//! |---|---|---|
//! | `tracker-1` | a device: its id | derived from the device's key |
//! | `key.buses-manager` | a person's key | derived from it |
//! | `node.cloud-1` | the service | derived from its signing key |
//!
//! An id has no dot, so no device can be called like a person. Each password is HKDF-SHA-256 with info `mqtt`: 256 bits
//! that nobody chose, so one round of hashing is as good as a million, and a flood of wrong ones costs the broker
//! little.
//!
//! The files for mosquitto are tested against a real one. Those for EMQX follow its documentation (5.x: file source,
//! built-in database) and are held by snapshots alone: they were never run against an EMQX. Try them on yours first.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};
use simquota_shared::envelope::{Key, Kid};
use simquota_shared::ids::{FleetId, KeyId, NodeId};
use simquota_shared::topic::PREFIX;
use zeroize::Zeroizing;

use super::{Common, print};
use crate::config::Config;
use crate::io::keys::{KeyFolder, node_user, person_user};
use crate::io::roster::{self, Roster};
use crate::ledger::entry::Role;

const SALT_OCTETS: usize = 12;

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// mosquitto 2: an `acl_file` and a `password_file`
    Mosquitto,
    /// EMQX 5: `acl.conf` and a bootstrap file for the built-in database
    Emqx,
}

/// A user of the broker.
struct User {
    name: String,
    password: Zeroizing<String>,
}

pub(super) fn run(common: &Common, kind: Kind, out: &Path) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    let folder = KeyFolder::open(&config.data)?;
    let mut roster = roster::read(&config.data)?;
    // `init` makes this one before there is a roster.
    let admin: KeyId = crate::io::keys::ADMIN.parse()?;
    roster.people.entry(admin).or_insert((Role::Admin, None));
    let users = users(&config, &folder, &roster)?;
    fs::create_dir_all(out).with_context(|| format!("can't make {}", out.display()))?;
    let (rules, passwords, next) = match kind {
        Kind::Mosquitto => (
            ("mosquitto.acl", mosquitto_rules(&config.node, &roster)),
            ("mosquitto.passwd", mosquitto_passwords(&users)?),
            "in mosquitto.conf:\n  allow_anonymous false\n  acl_file mosquitto.acl\n  password_file mosquitto.passwd\nthen `kill -HUP` it after each change",
        ),
        Kind::Emqx => (
            ("acl.conf", emqx_rules(&config.node, &roster)),
            ("users.csv", emqx_passwords(&users)?),
            "in emqx.conf: authorization.no_match = deny, a file source with acl.conf, and a built-in database with\npassword_hash_algorithm {name = sha256, salt_position = prefix} and bootstrap_file users.csv",
        ),
    };
    for (name, text) in [&rules, &passwords] {
        write(&out.join(name), text)?;
    }
    let count = users.len();
    if common.json {
        let row = serde_json::json!({ "rules": rules.0, "passwords": passwords.0, "users": count });
        return Ok(print(&format!("{row}\n"))?);
    }
    Ok(print(&format!(
        "{} and {} for {count} users are in {}\nnext: write `credentials = \"derived\"` in cloud.toml's [broker], and {next}\n",
        rules.0,
        passwords.0,
        out.display()
    ))?)
}

fn users(config: &Config, folder: &KeyFolder, roster: &Roster) -> anyhow::Result<Vec<User>> {
    let node = folder.node()?;
    let mut users = vec![User {
        name: node_user(&config.node),
        password: Key::new(node.to_bytes()).mqtt_password(),
    }];
    for id in roster.people.keys() {
        // A key that was made for somebody else may be with them alone: then they have no user here.
        let Ok(kid) = folder.latest_person(id) else {
            continue;
        };
        let key = folder.person(&kid)?;
        let key = key.ok_or_else(|| anyhow!("key {kid} is gone: restore it from a backup"))?;
        users.push(User {
            name: person_user(id),
            password: key.mqtt_password(),
        });
    }
    for (id, kid) in &roster.devices {
        let batch = folder.enrolment(&Kid::first(&kid.name))?.ok_or_else(|| {
            anyhow!(
                "enrolment key {} is gone: restore it from a backup",
                kid.name
            )
        })?;
        users.push(User {
            name: id.to_string(),
            password: batch.for_device(id, kid.generation).mqtt_password(),
        });
    }
    Ok(users)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    // Beside its place and then renamed: a broker that reloads sees the old file or the new one.
    let beside = path.with_extension("new");
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("can't write {}", path.display()))
}

/// What a person reads and writes.
fn person(key: &KeyId, role: Role, fleet: Option<&FleetId>) -> (Vec<String>, Vec<String>) {
    let fleets = fleet.map_or("+", FleetId::as_str);
    let mut reads = vec![
        format!("f/{fleets}/reply/{key}"),
        format!("f/{fleets}/event"),
        format!("f/{fleets}/summary"),
    ];
    let mut writes = vec![format!("f/{fleets}/command")];
    if role == Role::Admin {
        reads.push(format!("ops/reply/{key}"));
        reads.extend(["ops/node/+", "ops/statistics/+", "ops/rejected"].map(str::to_owned));
        writes.push("ops/command".to_owned());
    }
    (reads, writes)
}

/// What the service reads and writes; the last two are its test that subscriptions deliver.
fn service(node: &NodeId) -> (Vec<String>, Vec<String>) {
    // Its own events come back to it: then they are published.
    let reads = [
        "d/+/up/+",
        "d/+/status",
        "f/+/command",
        "f/+/event",
        "ops/command",
    ];
    let writes = [
        "d/+/down/+".to_owned(),
        "f/+/reply/+".to_owned(),
        "f/+/event".to_owned(),
        "f/+/summary".to_owned(),
        "ops/reply/+".to_owned(),
        format!("ops/node/{node}"),
        format!("ops/statistics/{node}"),
        "ops/rejected".to_owned(),
        format!("d/{node}/up/usage"),
        format!("d/{node}/up/ack"),
    ];
    (reads.map(str::to_owned).to_vec(), writes.to_vec())
}

fn mosquitto_rules(node: &NodeId, roster: &Roster) -> String {
    let mut text = format!(
        "# Written by `simquota-cloud acl mosquitto`. Whoever is not named here may do nothing.\n\n\
         # A device: %u is its user name.\n\
         pattern write {PREFIX}d/%u/up/+\n\
         pattern write {PREFIX}d/%u/status\n\
         pattern read {PREFIX}d/%u/down/+\n"
    );
    let mut user = |name: &str, (reads, writes): (Vec<String>, Vec<String>)| {
        text.push_str(&format!("\nuser {name}\n"));
        for topic in reads {
            text.push_str(&format!("topic read {PREFIX}{topic}\n"));
        }
        for topic in writes {
            text.push_str(&format!("topic write {PREFIX}{topic}\n"));
        }
    };
    user(&node_user(node), service(node));
    for (key, (role, fleet)) in &roster.people {
        user(&person_user(key), person(key, *role, fleet.as_ref()));
    }
    text
}

/// `user:$7$rounds$salt$hash`: PBKDF2 with HMAC-SHA-512, as mosquitto 2 has it.
fn mosquitto_passwords(users: &[User]) -> anyhow::Result<String> {
    let mut text = String::new();
    for User { name, password } in users {
        let salt = salt()?;
        let hash = pbkdf2_once(password.as_bytes(), &salt)?;
        text.push_str(&format!(
            "{name}:$7$1${}${}\n",
            base64(&salt),
            base64(&hash)
        ));
    }
    Ok(text)
}

fn emqx_rules(node: &NodeId, roster: &Roster) -> String {
    let mut text = format!(
        "%% Written by `simquota-cloud acl emqx`. Whoever is not named here may do nothing.\n\n\
         %% A device: its user name has no dot.\n\
         {{allow, {{username, {{re, \"^[a-z0-9-]+$\"}}}}, publish, [\"{PREFIX}d/${{username}}/up/+\", \"{PREFIX}d/${{username}}/status\"]}}.\n\
         {{allow, {{username, {{re, \"^[a-z0-9-]+$\"}}}}, subscribe, [\"{PREFIX}d/${{username}}/down/+\"]}}.\n\n"
    );
    let mut user = |name: &str, (reads, writes): (Vec<String>, Vec<String>)| {
        for (action, topics) in [("subscribe", reads), ("publish", writes)] {
            let topics: Vec<String> = topics
                .iter()
                .map(|topic| format!("\"{PREFIX}{topic}\""))
                .collect();
            text.push_str(&format!(
                "{{allow, {{username, \"{name}\"}}, {action}, [{}]}}.\n",
                topics.join(", ")
            ));
        }
    };
    user(&node_user(node), service(node));
    for (key, (role, fleet)) in &roster.people {
        user(&person_user(key), person(key, *role, fleet.as_ref()));
    }
    text.push_str("\n{deny, all}.\n");
    text
}

/// `user_id,password_hash,salt,is_superuser`: SHA-256 over salt and password.
fn emqx_passwords(users: &[User]) -> anyhow::Result<String> {
    let mut text = "user_id,password_hash,salt,is_superuser\n".to_owned();
    for User { name, password } in users {
        let salt = hex::encode(salt()?);
        let hash = Sha256::new()
            .chain_update(salt.as_bytes())
            .chain_update(password.as_bytes())
            .finalize();
        text.push_str(&format!("{name},{},{salt},false\n", hex::encode(hash)));
    }
    Ok(text)
}

fn salt() -> anyhow::Result<[u8; SALT_OCTETS]> {
    let mut salt = [0; SALT_OCTETS];
    getrandom::fill(&mut salt).context("the system gives no random numbers")?;
    Ok(salt)
}

/// PBKDF2 (RFC 8018, 5.2) of one round and one block: HMAC(password, salt || 1).
fn pbkdf2_once(password: &[u8], salt: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mac = Hmac::<Sha512>::new_from_slice(password).context("a password has no length")?;
    let block = mac.chain_update(salt).chain_update(1_u32.to_be_bytes());
    Ok(block.finalize().into_bytes().to_vec())
}

/// Source: RFC 4648, section 4, with padding.
fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let group = (0..3).fold(0_usize, |group, index| {
            group << 8 | usize::from(chunk.get(index).copied().unwrap_or(0))
        });
        for index in 0..4 {
            let digit = DIGITS.get(group >> (18 - 6 * index) & 63);
            // One octet fills two digits, two fill three.
            match digit.filter(|_| index <= chunk.len()) {
                Some(digit) => text.push(char::from(*digit)),
                None => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn roster() -> Roster {
        let mut roster = Roster::default();
        let fleet: FleetId = "buses".parse().unwrap();
        for (key, role, fleet) in [
            ("admin", Role::Admin, None),
            ("buses-manager", Role::Manager, Some(fleet.clone())),
            ("auditor", Role::Viewer, Some(fleet)),
        ] {
            roster.people.insert(key.parse().unwrap(), (role, fleet));
        }
        let spring = Kid::first(&"spring");
        roster.devices.insert("tracker-1".parse().unwrap(), spring);
        roster
    }

    #[test]
    fn the_rules_name_everybody_and_no_device_by_name() {
        let node: NodeId = "cloud-1".parse().unwrap();
        insta::assert_snapshot!("mosquitto", mosquitto_rules(&node, &roster()));
        insta::assert_snapshot!("emqx", emqx_rules(&node, &roster()));
    }

    #[test]
    fn no_file_holds_a_password() {
        let password = Key::new([7; 32]).mqtt_password();
        let user = || {
            vec![User {
                name: "tracker-1".to_owned(),
                password: password.clone(),
            }]
        };
        for text in [mosquitto_passwords(&user()), emqx_passwords(&user())] {
            let text = text.unwrap();
            assert!(text.contains("tracker-1") && !text.contains(password.as_str()));
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
