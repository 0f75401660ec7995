//! The operator's rules: sizes, times and bounds that decisions go by. They come from `cloud.toml`.

use simquota_shared::message::{FinalAction, Policy};
use simquota_shared::units::Octets;

/// What decisions go by. Every field is in the unit that its name or type says.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// A grant is at least this, unless less is left.
    pub grant_min: Octets,
    /// A grant is at most this.
    pub grant_max: Octets,
    /// A grant is to last so long at the device's recent rate; 0: it is what was asked for.
    pub target_s: u64,
    /// A grant is never valid for less, whatever its packages' ends (DESIGN section 5).
    pub validity_min_s: u64,
    /// Octets beyond the ceiling for control traffic and the allow-list.
    pub allowance: Octets,
    /// A device gives its remainder back after this long without traffic; 0: never.
    pub hold_s: u64,
    /// How long traffic may go on when no answer comes.
    pub silence_s: u64,
    /// What the device does at the ceiling of its last grant.
    pub final_action: FinalAction,
    /// Octets a second that no link exceeds: a used total beyond that is implausible.
    pub line_rate: u64,
    /// What devices go by.
    pub policy: Policy,
    /// How long a command to a device stays valid.
    pub command_s: u64,
    /// When a refused registration may be tried again.
    pub retry_s: u64,
    /// The most devices that one top-up pushes to.
    pub pushes_max: usize,
    /// New epochs that a device may begin in a day.
    pub epochs_a_day: usize,
    /// A device that shows up as two is shut out until a person looks.
    pub freeze: bool,
    /// A device that was not heard for so long is silent; 0: none ever is.
    pub silent_s: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            grant_min: Octets(64 * 1024),
            grant_max: Octets(64_000_000),
            target_s: 1800,
            validity_min_s: 600,
            allowance: Octets(64 * 1024),
            hold_s: 0,
            silence_s: 0,
            final_action: FinalAction::Terminate,
            line_rate: 1_250_000_000,
            policy: Policy {
                version: 1,
                ..Policy::DEFAULT
            },
            command_s: 86_400,
            retry_s: 60,
            pushes_max: 1000,
            epochs_a_day: 24,
            freeze: false,
            silent_s: 86_400,
        }
    }
}
