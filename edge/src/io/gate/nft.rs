//! The gate in the kernel: a table of nftables that stops traffic by itself, exactly, whatever the agent does.
//!
//! # What the kernel enforces at every instant
//!
//! The table counts otherwise than the link (segments that the card makes later, packets that were dropped), so a limit
//! is always put together from two counts of its own and the room that the meter leaves:
//!
//! `limit = passed, read just before the meter + room + refused, read just before the limit is set`
//!
//! A quota lets a packet pass when all that came by it, this packet too, is within its limit. What came by is what
//! passed and what it refused. So, `refused` never going back, what passes since `passed` was read is at most the room:
//! whatever happens between the readings and the setting, in whatever order the processors count it.
//!
//! * What passes between reading `passed` and reading the meter is in both: the limit is too tight by that much.
//! * What is refused between reading `refused` and setting the limit comes by the quota and is not in the limit: too
//!   tight by that much. It is next to nothing, however fast a sender is: the first packet that is refused shuts the
//!   table (see [`rules`](super::rules)), and no later one comes to the quota until the agent has set the limit and
//!   opened it again, in this order. So a flood at a used-up gate moves nothing, and can't hold up what is granted.
//! * A counter lags a moment behind its quota. Both counts then are too small, and the limit too tight.
//!
//! Never too wide, then, and what is too tight is made good by the next reading, which sets the limit anew; the kernel
//! asks for one when half of the room is used. The kernel does not say how much came by a quota that is used up (it
//! says the limit), so no limit can be built on that.
//!
//! A reading of an interface's last octets, or one that failed, is no reading that a limit could be built on: what
//! passed since would be in `passed` and not in the meter.
//!
//! The kernel's table outlives the agent: traffic stops where it was allowed to, and no later.
//!
//! # What others can do to it
//!
//! Since Linux 6.9 a table can belong to a socket and stay when that is closed. Where the kernel has that, the table is
//! the agent's alone while it runs: a foreign `nft flush ruleset` passes it by, and changes are refused. The program `nft`
//! knows tables of one owner, but none that stay (before 1.1), so the table is made by hand, filled by the program, and
//! then taken over. After the agent's death it is free: whoever starts next takes it away, once there is another.
//!
//! Elsewhere, or with `gate.table = "shared"`, everybody with the right can take it away. The kernel says so, and the
//! table is made again, shut; what passed meanwhile is metered. That is as much as the link carries in the time that
//! the program takes, some ten milliseconds.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use simquota_shared::message::FinalAction;

use super::kernel::{Kind, Objects};
use super::limits::{Asked, Counted, Refused, limits};
use super::program::nft;
use super::rules::{Beyond, Place};
use super::watch::{Ours, TableWatch};
use super::{Apart, GateError, Reach};
use crate::agent::GateState;
use crate::io::clock;

pub use super::watch::TableEvent;

/// Limits are brought in line with what was refused since no sooner than this.
const AGAIN_MS: u64 = 200;
/// The counter of what the SIM delivered and the gate dropped.
const DELIVERED: &str = "delivered";
/// Addresses in an allow-list.
const HOSTS_MAX: usize = 64;

/// What the table was last told.
#[derive(Clone, Copy, Debug)]
struct Set {
    asked: Asked,
    refused: Refused,
    /// What had been refused when the table was last opened, and when that was last looked at.
    opened: Refused,
    looked_ms: u64,
}

/// A table in the kernel.
pub struct NftGate {
    place: Place,
    objects: Objects,
    /// Nobody else can change the table.
    owned: bool,
    ours: Ours,
    _watch: TableWatch,
    /// The index of the interface that is fenced under any name.
    life: Option<u32>,
    /// As last read, and as of the last reading of the meter; none before there is one.
    counted: Counted,
    seen: Option<Counted>,
    /// What tables before this one have counted.
    before: Apart,
    set: Option<Set>,
    action: Option<FinalAction>,
    /// Tables made again because somebody else took one away.
    remade: u64,
}

impl NftGate {
    /// Puts the table into the kernel, shut. `life` is the interface's index, where there is one already. `on_event` is
    /// called on a thread of its own.
    ///
    /// # Errors
    /// Without `nft`, without the right, or where the kernel has no nftables.
    pub fn open(
        place: Place,
        life: Option<u32>,
        on_event: impl FnMut(TableEvent) + Send + 'static,
    ) -> Result<NftGate, GateError> {
        let ours = Ours::default();
        let tables = place.tables();
        // Watched before it is made, so that nothing happens to it unseen.
        let watch =
            TableWatch::begin(&tables, ours.clone(), on_event).map_err(GateError::Kernel)?;
        let [first, second] = tables;
        let mut old = Objects::open(&first).map_err(GateError::Kernel)?;
        let (new, old) = match old.counted(Kind::Counter, DELIVERED) {
            // Of a process before; it goes when the new one is there.
            Ok(_) => (second, Some(old)),
            Err(_) => (first, Objects::open(&second).ok()),
        };
        let (objects, owned) = make(&place, &new, life, &Beyond::Nothing, &ours)?;
        if !owned && place.owned {
            tracing::info!("the kernel lets others change the gate's table; it is watched");
        }
        // What it dropped, the meter shows as well.
        let dropped = old.map_or(Ok(0), |old| replace(old, &ours))?;
        Ok(NftGate {
            place,
            objects,
            owned,
            ours,
            _watch: watch,
            life,
            counted: Counted::default(),
            seen: None,
            before: Apart { own: 0, dropped },
            set: None,
            action: None,
            remade: 0,
        })
    }

    /// Reads what the table has counted. Called just before the meter is read; [`NftGate::after_reading`] follows if it was.
    ///
    /// # Errors
    /// When the table is gone, or somebody else set its counts back.
    pub fn before_reading(&mut self) -> Result<Apart, GateError> {
        let mut counter = |name| {
            let counted = self.objects.counted(Kind::Counter, name);
            counted.map_err(GateError::Kernel)
        };
        let now = Counted {
            passed: counter("passed")?,
            allowed: counter("allowed")?,
            own: counter("own")?,
            delivered: counter(DELIVERED)?,
        };
        // Limits speak of these counts, so nobody may set them back.
        let back = now.passed < self.counted.passed || now.allowed < self.counted.allowed;
        if back || !self.quotas_follow(now)? {
            return Err(GateError::SetBack);
        }
        self.counted = now;
        Ok(self.apart())
    }

    /// Whether the quotas have counted at least what passed before.
    fn quotas_follow(&mut self, now: Counted) -> Result<bool, GateError> {
        let Some(Set { asked, refused, .. }) = &self.set else {
            return Ok(true);
        };
        let [ceiling, _, allowance, _] = limits(asked, *refused);
        for ((name, limit), passed) in [(ceiling, now.passed), (allowance, now.allowed)] {
            let came_by = self.objects.counted(Kind::Quota, name);
            // Of one that is used up the kernel says its limit.
            if came_by.map_err(GateError::Kernel)? < passed.min(limit) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The meter was read, and shows all that the interface of that index had carried when
    /// [`NftGate::before_reading`] was called.
    ///
    /// # Errors
    /// When the table is gone.
    pub fn after_reading(&mut self, index: u32) -> Result<(), GateError> {
        self.seen = Some(self.counted);
        if self.life != Some(index) {
            let followed = self.objects.replace_index("lives", index);
            followed.map_err(GateError::Kernel)?;
            self.life = Some(index);
        }
        Ok(())
    }

    const fn apart(&self) -> Apart {
        Apart {
            own: self.before.own.saturating_add(self.counted.own),
            dropped: self.before.dropped.saturating_add(self.counted.delivered),
        }
    }

    /// Sets the limits. `reach` speaks of the last reading.
    ///
    /// # Errors
    /// When the table is gone.
    pub fn set(&mut self, state: &GateState, reach: Reach) -> Result<(), GateError> {
        // Before flows are ended that the action lets go on. Wider than the limits it can't be: the allowance has its
        // own. And the limits are set whatever became of it.
        let acted = self.act(state.final_unit.as_ref());
        // Without a reading that belongs to this table it stays as it was made: shut.
        if let Some(seen) = self.seen {
            self.tell(Asked::of(seen, state, reach))?;
        }
        acted
    }

    fn act(&mut self, action: Option<&FinalAction>) -> Result<(), GateError> {
        if self.action.as_ref() != action {
            let beyond = action.map_or(Beyond::Nothing, beyond);
            let table = self.objects.table().to_owned();
            if self.owned {
                // Free for as long as the program works on it. It is watched, as always.
                self.objects = open_objects(&table, &self.ours)?;
            }
            let done = nft(&self.place.rules_beyond(&table, &beyond), &self.ours);
            if self.owned {
                self.objects.own().map_err(GateError::Kernel)?;
            }
            done?;
            self.action = action.cloned();
        }
        Ok(())
    }

    fn tell(&mut self, asked: Asked) -> Result<(), GateError> {
        let now_ms = clock::monotonic_ms();
        let Some(told) = self.set else {
            let refused = self.refused()?;
            return self.tell_now(asked, refused, &["shut", "spent"], now_ms);
        };
        // The same refusals in both: what differs is what is asked.
        let before = limits(&told.asked, told.refused);
        let after = limits(&asked, told.refused);
        let due = now_ms >= told.looked_ms.saturating_add(AGAIN_MS);
        if before == after && !due {
            return Ok(());
        }
        let refused = self.refused()?;
        // What was refused since is made good, and the next that meets the gate is heard of. Not at once: each would
        // be answered by a reading, and a flood by nothing but readings.
        let again = due && refused != told.opened;
        let [ceiling, half, allowance, cut] = [0, 1, 2, 3].map(|n| before.get(n) != after.get(n));
        if again || ceiling || half || allowance || cut {
            let mut open = Vec::new();
            open.extend((again || ceiling).then_some("shut"));
            open.extend((again || allowance).then_some("spent"));
            self.tell_now(asked, refused, &open, now_ms)?;
        } else if let Some(set) = &mut self.set {
            set.looked_ms = now_ms;
        }
        Ok(())
    }

    fn tell_now(
        &mut self,
        asked: Asked,
        refused: Refused,
        open: &[&str],
        now_ms: u64,
    ) -> Result<(), GateError> {
        let limits = limits(&asked, refused);
        self.objects.limit(&limits).map_err(GateError::Kernel)?;
        // Only now, or what comes between would shut them again.
        self.objects.empty(open).map_err(GateError::Kernel)?;
        let told = self.set.map(|set| (set.opened, set.looked_ms));
        let (mut opened, mut looked_ms) = told.unwrap_or((refused, now_ms));
        if open.contains(&"shut") {
            opened.ceiling = refused.ceiling;
            looked_ms = now_ms;
        }
        if open.contains(&"spent") {
            opened.allowance = refused.allowance;
        }
        self.set = Some(Set {
            asked,
            refused,
            opened,
            looked_ms,
        });
        Ok(())
    }

    fn refused(&mut self) -> Result<Refused, GateError> {
        let mut counter = |name| {
            let counted = self.objects.counted(Kind::Counter, name);
            counted.map_err(GateError::Kernel)
        };
        Ok(Refused {
            ceiling: counter("refused")?,
            allowance: counter("overdrawn")?,
        })
    }

    /// Makes the table again, shut. The limits follow with the next reading.
    ///
    /// # Errors
    /// As [`NftGate::open`].
    pub fn remake(&mut self) -> Result<(), GateError> {
        let [first, second] = self.place.tables();
        let new = if self.objects.table() == first {
            second
        } else {
            first
        };
        let (objects, owned) = make(&self.place, &new, self.life, &Beyond::Nothing, &self.ours)?;
        let old = std::mem::replace(&mut self.objects, objects);
        self.owned = owned;
        let before = self.before;
        self.before = self.apart();
        self.counted = Counted::default();
        self.seen = None;
        self.set = None;
        self.action = None;
        self.remade = self.remade.saturating_add(1);
        // If it is there still, it knows what it dropped in the end.
        let dropped = before.dropped.saturating_add(replace(old, &self.ours)?);
        self.before.dropped = self.before.dropped.max(dropped);
        Ok(())
    }

    /// Takes the table away: then nothing stops traffic.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_away(mut self) -> Result<(), GateError> {
        self.objects.remove().map(drop).map_err(GateError::Kernel)
    }

    /// How often it was made again.
    pub const fn remade(&self) -> u64 {
        self.remade
    }
}

/// Puts a table into the kernel that lets nothing pass, for the time before the agent runs.
///
/// # Errors
/// As [`NftGate::open`].
pub fn shut(place: &Place) -> Result<(), GateError> {
    // Free for the agent to take away.
    let free = Place {
        owned: false,
        ..place.clone()
    };
    NftGate::open(free, None, |_| {}).map(drop)
}

/// Takes the table away: then nothing stops traffic.
///
/// # Errors
/// As [`NftGate::open`].
pub fn remove(place: &Place) -> Result<(), GateError> {
    for table in place.tables() {
        let mut objects = Objects::open(&table).map_err(GateError::Kernel)?;
        objects.remove().map_err(in_use)?;
    }
    Ok(())
}

fn open_objects(table: &str, ours: &Ours) -> Result<Objects, GateError> {
    let objects = Objects::open(table).map_err(GateError::Kernel)?;
    ours.lead(objects.port());
    Ok(objects)
}

/// Makes a table that lets nothing pass. Says whether it is ours alone.
fn make(
    place: &Place,
    table: &str,
    life: Option<u32>,
    beyond: &Beyond,
    ours: &Ours,
) -> Result<(Objects, bool), GateError> {
    let mut objects = open_objects(table, ours)?;
    // One that was begun and is not in use.
    objects.remove().map_err(in_use)?;
    let lasting = place.owned && objects.make_lasting().map_err(GateError::Kernel)?;
    let rules = place.rules(table, beyond, life);
    let rules = match lasting {
        true => rules,
        false => format!("add table inet {table}\n{rules}"),
    };
    nft(&rules, ours)?;
    if lasting {
        objects.own().map_err(GateError::Kernel)?;
    }
    Ok((objects, lasting))
}

/// Takes a table away after another is there; returns what it had dropped of what the SIM delivered.
fn replace(mut old: Objects, ours: &Ours) -> Result<u64, GateError> {
    let dropped = old.counted(Kind::Counter, DELIVERED).unwrap_or(0);
    let table = old.table().to_owned();
    // If it was ours alone, this frees it.
    drop(old);
    let mut old = Objects::open(&table).map_err(GateError::Kernel)?;
    ours.add(old.port());
    old.remove().map_err(in_use)?;
    Ok(dropped)
}

fn in_use(error: io::Error) -> GateError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => GateError::InUse,
        _ => GateError::Kernel(error),
    }
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
