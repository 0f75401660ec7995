//! Who is used how often: the second half as often as the first, the third a third as often (Zipf's law, exponent 1).

use super::world::Dice;

/// Weights are kept as whole numbers: the first has this one.
const FIRST: u64 = 1 << 32;
/// Neighbours in rank are not neighbours in number. Odd and not a multiple of 5: it meets each of 500,000 once.
const STRIDE: usize = 2_654_435_761;

/// So many things, drawn by their rank.
#[derive(Debug)]
pub(super) struct Zipf {
    /// The sum of all weights up to each rank.
    sums: Vec<u64>,
}

impl Zipf {
    pub(super) fn new(count: usize) -> Self {
        let mut sum = 0_u64;
        let ranks = 1..=count as u64;
        let sums = ranks.map(|rank| {
            sum += FIRST / rank;
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// A number below [`len`](Self::len).
    pub(super) fn draw(&self, dice: &mut Dice) -> usize {
        let all = self.sums.last().copied().unwrap_or(0);
        let drawn = dice.below(all);
        let rank = self.sums.partition_point(|sum| *sum <= drawn);
        rank.wrapping_mul(STRIDE)
            .checked_rem(self.len())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_drawn_twice_as_often_as_the_second() {
        let (zipf, mut dice) = (Zipf::new(1000), Dice::new(1));
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            if let Some(count) = counts.get_mut(zipf.draw(&mut dice)) {
                *count += 1;
            }
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let share = |rank: usize| counts.get(rank).copied().unwrap_or(0);
        assert!(
            (180..220).contains(&(share(0) * 100 / share(1))),
            "{} and {}",
            share(0),
            share(1)
        );
        assert!(counts.iter().filter(|count| **count > 0).count() > 900);
    }
}
