//! Numbers with a meaning. Swapped arguments do not compile, and arithmetic is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);

            /// The plain number.
            #[must_use]
            pub const fn value(self) -> u64 {
                self.0
            }

            /// `self + other`, or `None` past `u64::MAX`.
            #[must_use]
            pub const fn checked_add(self, other: u64) -> Option<Self> {
                match self.0.checked_add(other) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// `self - other`, or `None` when other is the larger one.
            #[must_use]
            pub const fn checked_sub(self, other: u64) -> Option<Self> {
                match self.0.checked_sub(other) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }

            /// How far `self` lies beyond `other`; zero when it does not. For distances, never for balances.
            #[must_use]
            pub const fn beyond(self, other: Self) -> u64 {
                self.0.saturating_sub(other.0)
            }

            /// The number after this one, or `None` past `u64::MAX`.
            #[must_use]
            pub const fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A count of IP octets, or a position on a device's used-total axis.
    Octets
);
number!(
    /// The number of a usage sample within an epoch: +1 for each, from 1, never used twice.
    Seq
);
number!(
    /// One life of a device's local store. A factory reset or a lost flash starts a new one.
    Epoch
);
number!(
    /// How often the agent has been started in this epoch, from 1.
    Boot
);
number!(
    /// The number of a credit request within an epoch: +1 for each, from 1 (RFC 8506, 8.2 CC-Request-Number).
    RequestNumber
);
number!(
    /// Counts what the cloud said unasked after an answer: 0 is the answer itself, 1, 2, … the pushes (rule R7).
    Push
);
number!(
    /// Milliseconds since 1970-01-01T00:00:00Z on the cloud's clock.
    UnixMillis
);
number!(
    /// The number of an entry in the ledger's journal: +1 for each, from 1, without a gap.
    EntryNumber
);

impl UnixMillis {
    /// This time plus whole seconds, or `None` past the end of the axis.
    #[must_use]
    pub const fn plus_s(self, seconds: u64) -> Option<Self> {
        match seconds.checked_mul(1000) {
            Some(ms) => self.checked_add(ms),
            None => None,
        }
    }
}

/// Octets for people: decimal units, MB is 10^6 (DESIGN section 11, number 13).
///
/// ```
/// use simquota_shared::units::{human, Octets};
/// assert_eq!(human(Octets(999)), "999 B");
/// assert_eq!(human(Octets(1_500_000)), "1.50 MB");
/// ```
#[must_use]
pub fn human(octets: Octets) -> String {
    const STEPS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    for (size, unit) in STEPS {
        if octets.0 >= size {
            let whole = octets.0 / size;
            // Rounded down: a balance shown is never more than what there is.
            let hundredths = (octets.0 % size) / (size / 100);
            return format!("{whole}.{hundredths:02} {unit}");
        }
    }
    format!("{} B", octets.0)
}

/// A text that is not an amount of octets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an amount of octets: write a whole number with B, kB, MB, GB, KiB, MiB or GiB, for example 10MB"
)]
pub struct BadAmount(String);

/// Reads an amount: `1500`, `10MB` (10^6) or `10MiB` (2^20), with or without a space.
///
/// # Errors
/// [`BadAmount`] for anything else, also for an amount past `u64::MAX`.
///
/// ```
/// use simquota_shared::units::{parse_octets, Octets};
/// assert_eq!(parse_octets("10 MB").unwrap(), Octets(10_000_000));
/// assert_eq!(parse_octets("1MiB").unwrap(), Octets(1_048_576));
/// assert!(parse_octets("1.5MB").is_err());
/// ```
pub fn parse_octets(text: &str) -> Result<Octets, BadAmount> {
    let bad = || BadAmount(text.chars().take(32).collect());
    let trimmed = text.trim();
    let digits_end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(digits_end);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(bad()),
    };
    let count: u64 = digits.parse().map_err(|_| bad())?;
    count.checked_mul(factor).map(Octets).ok_or_else(bad)
}
