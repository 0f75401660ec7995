//! The gate in the kernel: a table of nftables that stops traffic by itself, exactly, whatever the agent does.
//!
//! The table's quotas count otherwise than the link (segments that the card makes later, packets that were dropped),
//! so a limit is always the quota's own count, read just **before** the meter, and the room that the meter leaves. What
//! passes between the two readings makes the limit too tight, never too wide. Each further reading sets it anew; the
//! kernel asks for one when half of the room is used, so the difference shrinks with the room.
//!
//! The kernel's table outlives the agent: traffic stops where it was allowed to, and no later.

use std::io::{self, Write as _};
use std::net::{IpAddr, ToSocketAddrs};
use std::process::{Command, Stdio};

use simquota_shared::message::FinalAction;

use super::kernel::{Kind, Objects, Ours, TableWatch, UNLIMITED};
use super::rules::{Beyond, Place};
use super::{Apart, GateError, Reach};
use crate::agent::GateState;
use crate::io::clock;

pub use super::kernel::TableEvent;

/// Limits are brought in line with the same reading no sooner than this.
const AGAIN_MS: u64 = 200;
const NFT: &str = "nft";
/// The counter of what the SIM delivered and the gate dropped.
const DELIVERED: &str = "delivered";
/// With less room than this no event at its half is asked for: the end itself is one.
const HALF_LEAST: u64 = 3_000;
/// A limit holds back one part in so many of the room, because the link counts up to 3.3 % more than the quota (large
/// segments); the rest follows with the next reading.
const MARGIN: u64 = 24;
const MARGIN_LEAST: u64 = 16 * 1024;
/// Addresses in an allow-list.
const HOSTS_MAX: usize = 64;

/// What the table has counted at a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    ceiling: u64,
    allowance: u64,
    own: u64,
    delivered: u64,
}

/// What the table was last told.
#[derive(Clone, Copy, Debug)]
struct Set {
    limits: [(&'static str, u64); 4],
    reach: Reach,
    at_ms: u64,
}

/// A table in the kernel.
pub struct NftGate {
    place: Place,
    objects: Objects,
    ours: Ours,
    _watch: TableWatch,
    seen: Counted,
    /// What tables before this one have counted.
    before: Apart,
    set: Option<Set>,
    action: Option<FinalAction>,
    /// Tables made again because somebody else took one away.
    remade: u64,
}

impl NftGate {
    /// Puts the table into the kernel, shut. `on_event` is called on a thread of its own.
    ///
    /// # Errors
    /// Without `nft`, without the right, or where the kernel has no nftables.
    pub fn open(
        place: Place,
        on_event: impl FnMut(TableEvent) + Send + 'static,
    ) -> Result<NftGate, GateError> {
        let table = place.table();
        let mut objects = Objects::open(&table).map_err(GateError::Kernel)?;
        // Of the process before: what its table dropped since, the meter shows as well. There may be none.
        let dropped = objects.counted(Kind::Counter, DELIVERED).unwrap_or(0);
        let ours = Ours::default();
        ours.add(objects.port());
        // Watched before it is made, so that nothing happens to it unseen.
        let watch = TableWatch::begin(&table, ours.clone(), on_event).map_err(GateError::Kernel)?;
        nft(&place.rules(&Beyond::Nothing), &ours)?;
        Ok(NftGate {
            place,
            objects,
            ours,
            _watch: watch,
            seen: Counted::default(),
            before: Apart { own: 0, dropped },
            set: None,
            action: None,
            remade: 0,
        })
    }

    /// Reads what the table has counted. Called just before the meter is read.
    ///
    /// # Errors
    /// When the table is gone.
    pub fn before_reading(&mut self) -> Result<Apart, GateError> {
        let mut read = |kind, name| self.objects.counted(kind, name).map_err(GateError::Kernel);
        let ceiling = read(Kind::Quota, "ceiling")?;
        let allowance = read(Kind::Quota, "allowance")?;
        let own = read(Kind::Counter, "own")?;
        let delivered = read(Kind::Counter, DELIVERED)?;
        self.seen = Counted {
            ceiling,
            allowance,
            own,
            delivered,
        };
        Ok(self.apart())
    }

    const fn apart(&self) -> Apart {
        Apart {
            own: self.before.own.saturating_add(self.seen.own),
            dropped: self.before.dropped.saturating_add(self.seen.delivered),
        }
    }

    /// Sets the limits. `reach` speaks of the last reading.
    ///
    /// # Errors
    /// When the table is gone.
    pub fn set(&mut self, state: &GateState, reach: Reach) -> Result<(), GateError> {
        let limits = limits(self.seen, state, reach);
        let now_ms = clock::monotonic_ms();
        let told = self.set.as_ref().is_some_and(|set| {
            // Packets that don't fit into the last octets move the quota's count alone, one event each.
            let idle = set.reach == reach && now_ms < set.at_ms.saturating_add(AGAIN_MS);
            let same = |n: usize| set.limits.get(n) == limits.get(n);
            set.limits == limits || (idle && same(2) && same(3))
        });
        if !told {
            self.objects.limit(&limits).map_err(GateError::Kernel)?;
            self.set = Some(Set {
                limits,
                reach,
                at_ms: now_ms,
            });
        }
        if self.action != state.final_unit {
            let beyond = state.final_unit.as_ref().map_or(Beyond::Nothing, beyond);
            nft(&self.place.rules_beyond(&beyond), &self.ours)?;
            self.action.clone_from(&state.final_unit);
        }
        Ok(())
    }

    /// Makes the table again, shut. The limits follow with the next reading.
    ///
    /// # Errors
    /// As [`NftGate::open`].
    pub fn remake(&mut self) -> Result<(), GateError> {
        nft(&self.place.rules(&Beyond::Nothing), &self.ours)?;
        self.before = self.apart();
        self.seen = Counted::default();
        self.set = None;
        self.action = None;
        self.remade = self.remade.saturating_add(1);
        Ok(())
    }

    /// How often that was.
    pub const fn remade(&self) -> u64 {
        self.remade
    }
}

/// Puts a table into the kernel that lets nothing pass, for the time before the agent runs.
///
/// # Errors
/// As [`NftGate::open`].
pub fn shut(place: &Place) -> Result<(), GateError> {
    nft(&place.rules(&Beyond::Nothing), &Ours::default())
}

/// Takes the table away: then nothing stops traffic.
///
/// # Errors
/// As [`NftGate::open`].
pub fn remove(place: &Place) -> Result<(), GateError> {
    nft(&place.rules_removed(), &Ours::default())
}

/// The quotas' limits on their own counts.
fn limits(seen: Counted, state: &GateState, reach: Reach) -> [(&'static str, u64); 4] {
    let room = reach.room();
    let margin = match room > MARGIN_LEAST {
        true => room / MARGIN,
        false => 0,
    };
    let (ceiling, half) = match room {
        // "over 0" matches each packet, also while another processor counts one.
        0 => (0, UNLIMITED),
        room => (
            seen.ceiling.saturating_add(room.saturating_sub(margin)),
            match room >= HALF_LEAST {
                true => seen.ceiling.saturating_add(room / 2),
                false => UNLIMITED,
            },
        ),
    };
    let beyond = match state.open {
        true => state.stop.beyond(state.ceiling.max(reach.used)),
        false => state.stop.beyond(reach.used),
    };
    let allowance = match beyond {
        0 => 0,
        beyond => seen.allowance.saturating_add(beyond),
    };
    [
        ("ceiling", ceiling),
        ("half", half),
        ("allowance", allowance),
        ("cut", if state.ended { 0 } else { UNLIMITED }),
    ]
}

/// What a final action lets pass. A name is looked up once, now: the allow-list is for addresses that stay.
fn beyond(action: &FinalAction) -> Beyond {
    match action {
        FinalAction::Terminate => Beyond::Nothing,
        FinalAction::Throttle(bit_per_s) => match bit_per_s / 8 {
            0 => Beyond::Nothing,
            octets => Beyond::Rate(octets),
        },
        FinalAction::Restrict(hosts) => {
            let mut found: Vec<IpAddr> = Vec::new();
            for host in hosts {
                let host = host.as_str();
                match (host.parse(), (host, 0).to_socket_addrs()) {
                    (Ok(address), _) => found.push(address),
                    (Err(_), Ok(addresses)) => found.extend(addresses.map(|a| a.ip())),
                    (Err(_), Err(error)) => {
                        tracing::warn!(host, %error, "a host of the allow-list has no address");
                    }
                }
            }
            found.sort_unstable();
            found.dedup();
            found.truncate(HOSTS_MAX);
            Beyond::Hosts(found)
        }
    }
}

/// Gives rules to the `nft` program, which takes all of them or none.
fn nft(rules: &str, ours: &Ours) -> Result<(), GateError> {
    let mut child = Command::new(NFT)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_nft)?;
    // It binds its socket to the port of its process id.
    ours.add(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(rules.as_bytes());
        // If it ended early, what it said is worth more than the broken pipe.
        drop(written);
    }
    let output = child.wait_with_output().map_err(no_nft)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty());
    Err(GateError::Refused {
        program: NFT.to_owned(),
        said: said.unwrap_or("it said nothing").trim().to_owned(),
    })
}

fn no_nft(source: io::Error) -> GateError {
    GateError::NoProgram {
        program: NFT.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use simquota_shared::units::Octets;

    use super::*;

    fn reach(used: u64, until: u64) -> Reach {
        Reach {
            used: Octets(used),
            until: Octets(until),
        }
    }

    fn state(open: bool, ceiling: u64, stop: u64) -> GateState {
        GateState {
            open,
            ..GateState::shut(Octets(ceiling), Octets(stop))
        }
    }

    #[test]
    fn limits_are_the_quotas_own_counts_and_what_remains() {
        let seen = Counted {
            ceiling: 900,
            allowance: 50,
            ..Counted::default()
        };
        let open = limits(seen, &state(true, 12_000, 20_000), reach(2_000, 12_000));
        assert_eq!(
            open,
            [
                ("ceiling", 10_900),
                ("half", 5_900),
                ("allowance", 8_050),
                ("cut", UNLIMITED)
            ]
        );
        let shut = limits(seen, &state(false, 12_000, 12_000), reach(2_000, 2_000));
        assert_eq!(
            shut,
            [
                ("ceiling", 0),
                ("half", UNLIMITED),
                ("allowance", 10_050),
                ("cut", UNLIMITED)
            ]
        );
    }

    #[test]
    fn much_room_keeps_a_margin_and_little_room_none() {
        let all = limits(
            Counted::default(),
            &state(true, 240_000, 240_000),
            reach(0, 240_000),
        );
        assert_eq!(all[0], ("ceiling", 230_000));
        let last = limits(
            Counted::default(),
            &state(true, 2_000, 2_000),
            reach(0, 2_000),
        );
        assert_eq!(
            (last[0], last[1]),
            (("ceiling", 2_000), ("half", UNLIMITED))
        );
    }
}
