//! Which of the channels carries the connection to the broker.
//!
//! The first of the order that can be used, once it has been usable for a moment: a link that comes up sheds its
//! routes a few times, and each change costs a new connection. Nothing here touches the world.

use crate::agent::Input;
use crate::io::channel::{Channel, Order, Reach};

/// A channel is taken when it was usable for so long; the first at a start, and one that is the only one, at once.
const SETTLE_MS: u64 = 1_000;

/// What can be used now, and what is.
#[derive(Debug, Default)]
pub(super) struct Channels {
    order: Order,
    reach: Vec<Reach>,
    /// Since when each is as it is.
    since_ms: Vec<u64>,
    /// Place in the order and the interface's index.
    taken: Option<(usize, u32)>,
    /// The SIM was left because its link was down.
    left: bool,
}

/// What a look at the channels came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Choice {
    /// The connection is to be made anew, over what [`Channels::taken`] says.
    pub(super) connect: bool,
    /// What the agent hears.
    pub(super) input: Option<Input>,
}

impl Channels {
    pub(super) fn new(order: Order) -> Channels {
        Channels {
            order,
            ..Channels::default()
        }
    }

    /// What carries the connection; none when nothing is chosen, or nothing can be used.
    pub(super) fn taken(&self) -> Option<&Channel> {
        let (place, _) = self.taken?;
        self.order.channels.get(place)
    }

    /// Whether a connection may be made at all: without an order always.
    pub(super) fn may_connect(&self) -> bool {
        self.order.channels.is_empty() || self.taken.is_some()
    }

    /// The kernel says what can be used.
    pub(super) fn heard(&mut self, reach: Vec<Reach>, now_ms: u64) {
        self.since_ms.resize(reach.len(), now_ms);
        for (place, now) in reach.iter().enumerate() {
            if self.reach.get(place) != Some(now)
                && let Some(since_ms) = self.since_ms.get_mut(place)
            {
                *since_ms = now_ms;
            }
        }
        self.reach = reach;
    }

    /// Chooses anew.
    pub(super) fn choose(&mut self, now_ms: u64) -> Choice {
        let mut choice = Choice::default();
        let present = self
            .taken
            .filter(|(place, index)| self.reach.get(*place) == Some(&Reach::Usable(*index)));
        let first = self.usable().find(|(place, _)| {
            present.is_none_or(|(taken, _)| {
                taken == *place || now_ms >= self.since_of(*place).saturating_add(SETTLE_MS)
            })
        });
        // One that can't be used any more is kept until there is another: it may come back.
        if first.is_some() && first != self.taken {
            self.taken = first;
            choice.connect = true;
        }
        choice.input = self.sim_input(now_ms);
        choice
    }

    /// When to choose again though nothing was heard.
    pub(super) fn wake_at_ms(&self, now_ms: u64) -> Option<u64> {
        let settles = self
            .usable()
            .take_while(|usable| Some(*usable) != self.taken)
            .map(|(place, _)| self.since_of(place).saturating_add(SETTLE_MS));
        let leaves = self
            .sim_down_since()
            .filter(|_| !self.left)
            .map(|since_ms| since_ms.saturating_add(self.order.leave_ms));
        settles.chain(leaves).filter(|at_ms| *at_ms > now_ms).min()
    }

    fn usable(&self) -> impl Iterator<Item = (usize, u32)> {
        self.reach
            .iter()
            .enumerate()
            .filter_map(|(place, reach)| match reach {
                Reach::Usable(index) => Some((place, *index)),
                Reach::None => None,
            })
    }

    fn since_of(&self, place: usize) -> u64 {
        self.since_ms.get(place).copied().unwrap_or(0)
    }

    /// The SIM that is in the order but can't be used, while another one can.
    fn sim_down_since(&self) -> Option<u64> {
        let place = self.order.channels.iter().position(|channel| channel.sim)?;
        let down = self.reach.get(place) == Some(&Reach::None);
        let other = self.usable().next().is_some();
        (down && other).then(|| self.since_of(place))
    }

    /// Leaving the SIM, and coming back to it.
    fn sim_input(&mut self, now_ms: u64) -> Option<Input> {
        match self.sim_down_since() {
            Some(since_ms)
                if !self.left && now_ms >= since_ms.saturating_add(self.order.leave_ms) =>
            {
                self.left = true;
                Some(Input::LoseSim(None))
            }
            Some(_) => None,
            None => {
                let place = self.order.channels.iter().position(|channel| channel.sim)?;
                let up = matches!(self.reach.get(place), Some(Reach::Usable(_)));
                (up && std::mem::take(&mut self.left)).then_some(Input::ReturnSim)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const UP: Reach = Reach::Usable(2);
    const WIFI: Reach = Reach::Usable(3);
    const NONE: Reach = Reach::None;

    fn channels() -> Channels {
        Channels::new(Order {
            channels: vec![Channel::sim("wwan0"), Channel::other("wlan0")],
            leave_ms: 10_000,
        })
    }

    fn taken(channels: &Channels) -> &str {
        channels.taken().map_or("", |channel| channel.id.as_str())
    }

    #[test]
    fn the_first_that_can_be_used_is_taken_and_a_better_one_when_it_has_settled() {
        let mut channels = channels();
        assert!(!channels.choose(0).connect);
        assert!(!channels.may_connect());
        channels.heard(vec![NONE, WIFI], 100);
        assert!(channels.choose(100).connect);
        assert_eq!(taken(&channels), "wlan0");
        channels.heard(vec![UP, WIFI], 500);
        assert!(!channels.choose(500).connect);
        assert_eq!(channels.wake_at_ms(500), Some(1_500));
        assert!(channels.choose(1_500).connect);
        assert_eq!(taken(&channels), "sim");
        assert_eq!(channels.wake_at_ms(1_500), None);
        // Another interface under the same name knows nothing of the connection.
        channels.heard(vec![Reach::Usable(9), WIFI], 2_000);
        assert!(channels.choose(2_000).connect);
        // Nothing can be used: what was taken may come back.
        channels.heard(vec![NONE, NONE], 3_000);
        assert!(!channels.choose(3_000).connect);
        assert!(channels.may_connect());
    }

    #[test]
    fn a_sim_that_stays_down_is_left_and_one_that_is_back_is_returned_to() {
        let mut channels = channels();
        channels.heard(vec![UP, WIFI], 0);
        channels.choose(0);
        channels.heard(vec![NONE, WIFI], 1_000);
        let choice = channels.choose(1_000);
        assert!(choice.connect && choice.input.is_none());
        assert_eq!(channels.wake_at_ms(2_000), Some(11_000));
        assert_eq!(channels.choose(11_000).input, Some(Input::LoseSim(None)));
        assert_eq!(channels.choose(12_000).input, None);
        assert_eq!(channels.wake_at_ms(12_000), None);
        channels.heard(vec![UP, WIFI], 13_000);
        assert_eq!(channels.choose(13_000).input, Some(Input::ReturnSim));
        // Without another channel there is nowhere to go.
        channels.heard(vec![NONE, NONE], 14_000);
        assert_eq!(channels.choose(99_000).input, None);
    }
}
