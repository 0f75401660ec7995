//! The limits of the table's quotas, out of what it has counted and what may pass still. Why they are what they are:
//! [`nft`](super::nft).

use super::Reach;
use super::kernel::UNLIMITED;
use crate::agent::GateState;

/// With less room than this no event at its half is asked for: the end itself is one.
const HALF_LEAST: u64 = 3_000;
/// A limit holds back one part in so many of the room, because the link counts more than the quota where the card makes
/// the segments: 3.6 % over IPv4, 6.0 % over IPv6 in packets of 1280. The rest follows with the next reading.
const MARGIN: u64 = 16;
const MARGIN_LEAST: u64 = 16 * 1024;

/// What the table had counted just before a reading of the meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) passed: u64,
    pub(super) allowed: u64,
    pub(super) own: u64,
    pub(super) delivered: u64,
}

/// What its quotas had refused just before their limits are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) ceiling: u64,
    pub(super) allowance: u64,
}

/// What limits are made of, but for [`Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) seen: Counted,
    pub(super) reach: Reach,
    /// What may pass beyond the ceiling.
    pub(super) beyond: u64,
    pub(super) ended: bool,
}

impl Asked {
    pub(super) fn of(seen: Counted, state: &GateState, reach: Reach) -> Asked {
        let from = match state.open {
            true => state.ceiling.max(reach.used),
            false => reach.used,
        };
        Asked {
            seen,
            reach,
            beyond: state.stop.beyond(from),
            ended: state.ended,
        }
    }
}

/// The quotas' limits on what comes by them: what passed, what they refused, and what may pass still.
pub(super) fn limits(asked: &Asked, refused: Refused) -> [(&'static str, u64); 4] {
    let Asked {
        seen,
        reach,
        beyond,
        ended,
    } = asked;
    let came_by = seen.passed.saturating_add(refused.ceiling);
    let room = reach.room();
    let margin = match room > MARGIN_LEAST {
        true => room / MARGIN,
        false => 0,
    };
    let (ceiling, half) = match room {
        // "over 0" matches each packet, also while another processor counts one.
        0 => (0, UNLIMITED),
        room => (
            came_by.saturating_add(room.saturating_sub(margin)),
            match room >= HALF_LEAST {
                true => came_by.saturating_add(room / 2),
                false => UNLIMITED,
            },
        ),
    };
    let allowance = match beyond {
        0 => 0,
        beyond => seen
            .allowed
            .saturating_add(refused.allowance)
            .saturating_add(*beyond),
    };
    [
        ("ceiling", ceiling),
        ("half", half),
        ("allowance", allowance),
        ("cut", if *ended { 0 } else { UNLIMITED }),
    ]
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

    fn asked(seen: Counted, state: &GateState, reach: Reach) -> Asked {
        Asked::of(seen, state, reach)
    }

    #[test]
    fn limits_are_what_passed_what_was_refused_and_what_remains() {
        let seen = Counted {
            passed: 900,
            allowed: 50,
            ..Counted::default()
        };
        let refused = Refused {
            ceiling: 3_000,
            allowance: 7,
        };
        let open = asked(seen, &state(true, 12_000, 20_000), reach(2_000, 12_000));
        assert_eq!(
            limits(&open, refused),
            [
                ("ceiling", 13_900),
                ("half", 8_900),
                ("allowance", 8_057),
                ("cut", UNLIMITED)
            ]
        );
        let shut = asked(seen, &state(false, 12_000, 12_000), reach(2_000, 2_000));
        assert_eq!(
            limits(&shut, refused),
            [
                ("ceiling", 0),
                ("half", UNLIMITED),
                ("allowance", 10_057),
                ("cut", UNLIMITED)
            ]
        );
    }

    /// A quota as the kernel has it, and the counters of its rules.
    #[derive(Default)]
    struct Quota {
        came_by: u64,
        limit: u64,
        passed: u64,
        refused: u64,
        shut: bool,
    }

    impl Quota {
        fn meet(&mut self, octets: u64) {
            if self.shut {
                return;
            }
            self.came_by += octets;
            match self.came_by > self.limit {
                true => {
                    self.shut = true;
                    self.refused += octets;
                }
                false => self.passed += octets,
            }
        }

        fn flood(&mut self, packets: u64) {
            for _ in 0..packets {
                self.meet(1_000);
            }
        }
    }

    #[test]
    fn a_flood_between_any_two_steps_makes_no_limit_too_wide_and_holds_up_nothing() {
        for flooded in 0..4 {
            let flood = |quota: &mut Quota, step| {
                quota.flood(if step == flooded { 10_000 } else { 1 });
            };
            let mut quota = Quota::default();
            for window in 1..=50_u64 {
                let until = window * 10_000;
                flood(&mut quota, 0);
                let seen = Counted {
                    passed: quota.passed,
                    ..Counted::default()
                };
                flood(&mut quota, 1);
                let used = quota.passed;
                flood(&mut quota, 2);
                let refused = Refused {
                    ceiling: quota.refused,
                    allowance: 0,
                };
                let open = asked(seen, &state(true, until, until), reach(used, until));
                flood(&mut quota, 3);
                quota.limit = limits(&open, refused)[0].1;
                quota.shut = false;
                quota.flood(10_000);
                assert!(quota.passed <= until, "{} of {until}", quota.passed);
                // Too tight by what passed or was refused meanwhile: never by the flood.
                let missing = until - quota.passed;
                assert!(missing <= 4_000, "{missing} of {until}, {flooded}");
            }
        }
    }

    #[test]
    fn much_room_keeps_a_margin_and_little_room_none() {
        let all = asked(
            Counted::default(),
            &state(true, 240_000, 240_000),
            reach(0, 240_000),
        );
        let all = limits(&all, Refused::default());
        assert_eq!(all[0], ("ceiling", 225_000));
        let last = asked(
            Counted::default(),
            &state(true, 2_000, 2_000),
            reach(0, 2_000),
        );
        let last = limits(&last, Refused::default());
        assert_eq!(
            (last[0], last[1]),
            (("ceiling", 2_000), ("half", UNLIMITED))
        );
    }
}
