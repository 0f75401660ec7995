//! What a seed has in store: sizes, rates, and how often everything goes wrong.

use simquota_shared::ids::Text;
use simquota_shared::message::FinalAction;

use super::dice::Dice;

/// One minute of virtual time, in milliseconds.
pub(super) const MINUTE: u64 = 60_000;
/// One hour.
pub(super) const HOUR: u64 = 60 * MINUTE;
/// One day.
pub(super) const DAY: u64 = 24 * HOUR;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Devices, all of one fleet.
    pub devices: usize,
    /// Virtual days before everything comes to rest.
    pub days: u64,
    /// Seconds from one sample to the next.
    pub sample_s: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            devices: 4,
            days: 3,
            sample_s: 600,
        }
    }
}

/// The faults and habits of one run, drawn from its seed. Times are mean gaps in milliseconds; 0 is never.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) drop_permille: u64,
    pub(super) repeat_permille: u64,
    pub(super) delay_ms: u64,
    pub(super) offline: u64,
    pub(super) offline_for: u64,
    pub(super) fickle_permille: u64,
    pub(super) kill: u64,
    pub(super) power_cut: u64,
    pub(super) step_crash_permille: u64,
    pub(super) cloud_crash_permille: u64,
    pub(super) broker_forgets: u64,
    pub(super) clock_step: u64,
    pub(super) cloud_clock_step: u64,
    pub(super) counter_reset: u64,
    pub(super) sim_switch: u64,
    pub(super) zone_change: u64,
    pub(super) store_reset: u64,
    pub(super) rollback: u64,
    pub(super) backup_restore: u64,
    pub(super) command: u64,
    pub(super) top_up: u64,
    pub(super) disk_full_permille: u64,
    pub(super) enforced: bool,
    pub(super) own_charged: bool,
    pub(super) hold_s: u64,
    pub(super) validity_s: u64,
    pub(super) report_s: u64,
    pub(super) pool_octets: u64,
    pub(super) top_up_octets: u64,
    pub(super) want: u64,
    pub(super) burst_octets: u64,
    pub(super) burst_every: u64,
    pub(super) final_action: FinalAction,
    pub(super) target_s: u64,
}

impl Plan {
    pub(super) fn draw(seed: u64, dice: &mut Dice) -> Self {
        let sometimes = |dice: &mut Dice, chance: u64, mean: u64| {
            if dice.permille(chance) {
                mean / 2 + dice.below(mean)
            } else {
                0
            }
        };
        Self {
            // In every third world grants are what is asked for. Not drawn: what the other dice show stays as it was.
            target_s: if seed % 3 == 1 { 0 } else { 1800 },
            drop_permille: [0, 20, 100, 300][dice.below(4) as usize % 4],
            repeat_permille: [0, 20, 100][dice.below(3) as usize % 3],
            delay_ms: [50, 500, 5_000, 60_000][dice.below(4) as usize % 4],
            offline: sometimes(dice, 700, 8 * HOUR),
            offline_for: 30 * MINUTE + dice.below(6 * HOUR),
            fickle_permille: if dice.permille(500) {
                1 + dice.below(40)
            } else {
                0
            },
            kill: sometimes(dice, 500, DAY),
            power_cut: sometimes(dice, 500, DAY),
            step_crash_permille: if dice.permille(400) {
                1 + dice.below(4)
            } else {
                0
            },
            cloud_crash_permille: if dice.permille(500) {
                1 + dice.below(20)
            } else {
                0
            },
            broker_forgets: sometimes(dice, 500, DAY),
            clock_step: sometimes(dice, 400, DAY),
            cloud_clock_step: sometimes(dice, 200, DAY),
            counter_reset: sometimes(dice, 300, DAY),
            sim_switch: sometimes(dice, 300, DAY),
            zone_change: sometimes(dice, 300, DAY),
            store_reset: sometimes(dice, 250, 3 * DAY),
            rollback: sometimes(dice, 150, 3 * DAY),
            backup_restore: sometimes(dice, 120, 6 * DAY),
            command: sometimes(dice, 500, 12 * HOUR),
            top_up: sometimes(dice, 800, 8 * HOUR),
            disk_full_permille: if dice.permille(200) {
                1 + dice.below(5)
            } else {
                0
            },
            enforced: dice.permille(700),
            own_charged: dice.permille(800),
            hold_s: [0, 0, 1800][dice.below(3) as usize % 3],
            validity_s: [1_200, 3_600, 14_400][dice.below(3) as usize % 3],
            report_s: [1_200, 3_600][dice.below(2) as usize % 2],
            pool_octets: [1_000_000, 20_000_000, 400_000_000][dice.below(3) as usize % 3],
            top_up_octets: 200_000 + dice.below(20_000_000),
            want: 100_000 + dice.below(4_000_000),
            burst_octets: 1_000 + dice.below(400_000),
            burst_every: 2 * MINUTE + dice.below(30 * MINUTE),
            final_action: match dice.below(4) {
                0 => FinalAction::Restrict(vec![Text::clipped("shop.example")]),
                1 => FinalAction::Throttle(8_000),
                _ => FinalAction::Terminate,
            },
        }
    }
}
