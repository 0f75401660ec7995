//! What entries say about the rules of packages and fleets: terms, plans, limits, events, money.

use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text, ZoneId};
use simquota_shared::units::{EntryNumber, Octets, UnixMillis};
use simquota_shared::{wire, wire_enum};

wire! {
    /// Terms of a package beyond the usual ones. They follow its purchase in the same commit.
    pub struct TermsSet {
        /// Which.
        pub package: PackageId,
        /// Not to be used before this.
        pub from: Option<UnixMillis>,
        /// Valid for so long from its first use on.
        pub lasts_s: Option<u64>,
        /// Octets that may be used beyond its volume.
        pub overage: Octets,
        /// What it cost, in minor units.
        pub price: u64,
        /// The plan that it is a period of.
        pub plan: Option<PackageId>,
    }
}

wire! {
    /// A package began: it was first used, or its first day came.
    pub struct PackageBegan {
        /// Which.
        pub package: PackageId,
        /// Valid until; none: without end.
        pub until: Option<UnixMillis>,
    }
}

wire_enum! {
    /// How often a plan gives its volume anew.
    pub enum Every {
        /// Each day.
        Day = 0,
        /// Each week, on a day of it.
        Week = 1,
        /// Each month, on a day of it; in a shorter month on its last one.
        Month = 2,
    }
}

wire! {
    /// When a plan turns. `[every, day, minute, time zone]`
    pub struct Cadence {
        /// How often.
        pub every: Every,
        /// 1 (Monday) to 7 for a week, 1 to 31 for a month, 0 for a day.
        pub day: u64,
        /// Minutes after midnight.
        pub minute: u64,
        /// In the time of this place, a name of the IANA database.
        pub zone: Text,
    }
}

wire! {
    /// What goes over from one period of a plan to the next, of what is available at the turn. `[min, max]`
    pub struct Rollover {
        /// At least this, even if less is left: the rest is credited.
        pub min: Octets,
        /// At most this: the rest expires.
        pub max: Octets,
    }
}

wire! {
    /// A plan began: each of its periods is a package of its own, `{plan}-1`, `{plan}-2`, ….
    pub struct PlanBegan {
        /// Its id.
        pub plan: PackageId,
        /// Its fleet.
        pub fleet: FleetId,
        /// The device that its packages are for; none: the fleet's pool.
        pub device: Option<DeviceId>,
        /// Octets of each period.
        pub volume: Octets,
        /// Where its packages are valid; empty: everywhere.
        pub zones: Vec<ZoneId>,
        /// Their priority.
        pub priority: u64,
        /// Octets that may be used beyond the volume of each period.
        pub overage: Octets,
        /// What each period costs, in minor units.
        pub price: u64,
        /// When it turns.
        pub cadence: Cadence,
        /// What goes over; none: nothing.
        pub rollover: Option<Rollover>,
    }
}

wire! {
    /// A plan turned.
    pub struct PlanTurned {
        /// Which.
        pub plan: PackageId,
        /// The period's number, from 1.
        pub period: u64,
        /// The period's package; none: it was not paid for, the fleet's balance was too low.
        pub package: Option<PackageId>,
        /// The next turn.
        pub next: UnixMillis,
    }
}

wire! {
    /// A plan turns no more. Its last package stays what it is.
    pub struct PlanEnded {
        /// Which.
        pub plan: PackageId,
    }
}

wire! {
    /// Permitted overage was credited to its package, because it is about to be reserved or debited.
    pub struct Overdrawn {
        /// Which.
        pub package: PackageId,
    }
}

wire! {
    /// Available octets went from one package to another of the same fleet.
    pub struct Moved {
        /// Out of this one.
        pub from: PackageId,
        /// Into this one.
        pub to: PackageId,
        /// Why, in words.
        pub why: Text,
    }
}

wire! {
    /// Octets were debited by a command, not by usage.
    pub struct Debited {
        /// From which package.
        pub package: PackageId,
        /// Why, in words.
        pub why: Text,
    }
}

wire! {
    /// A deduction, or a part of it, was given back. A counter-entry: the deduction stays what it is.
    pub struct Refunded {
        /// The entry of the deduction.
        pub of: EntryNumber,
        /// Octets given back.
        pub octets: Octets,
        /// Why, in words.
        pub why: Text,
    }
}

wire! {
    /// A package was used beyond a threshold, upward. It is told once, and again only after it fell below.
    pub struct Crossed {
        /// Which.
        pub package: PackageId,
        /// The threshold.
        pub percent: u64,
        /// Counts the crossings of this package.
        pub crossing: u64,
        /// False where only a rule waits for it.
        pub told: bool,
    }
}

wire! {
    /// Octets in a day and in a month. `[day / null, month / null]`
    pub struct Caps {
        /// At most so many a day.
        pub day: Option<Octets>,
        /// At most so many a month.
        pub month: Option<Octets>,
    }
}

wire! {
    /// A day or a month. `[from, to]`
    pub struct Window {
        /// Its begin.
        pub from: UnixMillis,
        /// Its end: the next one's begin.
        pub to: UnixMillis,
    }
}

wire! {
    /// A fleet's limits were set.
    pub struct LimitsSet {
        /// Of each device that has none of its own.
        pub device: Caps,
        /// Of all devices together, out of the pool.
        pub pool: Caps,
        /// The most that one device may use out of the pool in a month.
        pub share: Option<Octets>,
    }
}

wire! {
    /// A fleet's day or month began, in the time of its place.
    pub struct WindowsTurned {
        /// The place: a name of the IANA database.
        pub zone: Text,
        /// The day.
        pub day: Window,
        /// The month.
        pub month: Window,
    }
}

wire! {
    /// A device's own caps were set; none of both: the fleet's hold.
    pub struct DeviceCapsSet {
        /// They.
        pub caps: Caps,
    }
}

wire_enum! {
    /// A limit that can be reached.
    pub enum Limit {
        /// The device's day.
        DeviceDay = 0,
        /// The device's month.
        DeviceMonth = 1,
        /// The device's share of the pool in this month.
        Share = 2,
        /// The pool's day.
        PoolDay = 3,
        /// The pool's month.
        PoolMonth = 4,
    }
}

wire! {
    /// A limit was reached. It is told once in its day or month.
    pub struct LimitReached {
        /// Which.
        pub limit: Limit,
        /// Octets used.
        pub used: Octets,
        /// Of so many.
        pub of: Octets,
        /// Until it begins anew.
        pub until: UnixMillis,
    }
}

wire! {
    /// The percentages at which a fleet hears of the use of its packages.
    pub struct ThresholdsSet {
        /// They, rising.
        pub percents: Vec<u64>,
    }
}

wire! {
    /// A rule that buys a package by itself.
    pub struct TopUp {
        /// For packages of this device; none: for those of the pool.
        pub device: Option<DeviceId>,
        /// When a package is used beyond this.
        pub percent: u64,
        /// How much is bought.
        pub volume: Octets,
        /// For how long; none: without end.
        pub days: Option<u64>,
        /// For how much, in minor units.
        pub price: u64,
        /// At most so often in a month.
        pub most: u64,
    }
}

wire! {
    /// A rule was set, or taken back.
    pub struct TopUpSet {
        /// Its name.
        pub rule: PackageId,
        /// It; none: taken back.
        pub top_up: Option<TopUp>,
    }
}

wire! {
    /// A rule had its turn, in the commit that crossed.
    pub struct ToppedUp {
        /// Its name.
        pub rule: PackageId,
        /// The package that was used beyond the percentage.
        pub package: PackageId,
        /// The package that was bought; none: it was not, see `why`.
        pub bought: Option<PackageId>,
        /// Why not, in words; empty when it was bought.
        pub why: Text,
    }
}

wire! {
    /// A fleet was suspended or resumed.
    pub struct FleetSuspension {
        /// The state after it.
        pub suspended: bool,
    }
}

wire! {
    /// The devices of a fleet up to this one were told of its suspension or resumption.
    pub struct FleetTold {
        /// The last one told; none: all were.
        pub after: Option<DeviceId>,
    }
}

wire! {
    /// Money came into a fleet's balance, or went out of it.
    pub struct MoneyMoved {
        /// Why, in words.
        pub why: Text,
    }
}

wire! {
    /// The money for the unused part of a cancelled package was given back.
    pub struct MoneyRefunded {
        /// Which package.
        pub package: PackageId,
        /// Nothing more of it will come back.
        pub settled: bool,
    }
}
