//! One seed decides everything. SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine, for ever.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own, so that one part's draws do not shift another's.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..below`; 0 for 0.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        match below {
            0 => 0,
            // The bias is below 2^-32 for the ranges in use here.
            _ => self.next() % below,
        }
    }

    /// `from..=to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True so many times in a thousand.
    pub(super) fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// Around `mean`, from 0 to ten times that: many short, few long.
    pub(super) fn spread(&mut self, mean: u64) -> u64 {
        let tenths = 1 + self.below(10);
        let turns = 1 + self.below(tenths);
        mean.saturating_mul(turns) / 3
    }
}
