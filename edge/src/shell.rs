//! The order in which the agent's wishes are carried out: the crash-safety contract, in one function.
//!
//! **What is promised is durable before anyone hears it.** Lower the gate, read the meter, step again with the
//! reading, commit, raise the gate, publish. Raising is never before the commit, lowering never after it. When
//! the commit fails the caller shuts the gate and builds the agent anew from the store.
//!
//! The real agent ([`crate::run`]) and the simulator go through [`carry_out`] with a [`World`] of their own.

use simquota_shared::units::Octets;

use crate::agent::{Agent, Commit, Effects, GateState, Input, Load, Notice, Now, Outgoing, Row};

/// What the agent acts on. Any of it may end the agent's life: the simulator cuts the power between any two calls.
pub trait World {
    /// Why the agent can't go on.
    type Stop;

    /// Both clocks.
    fn now(&mut self) -> Now;
    /// Makes the gate this tight. `used` is the used total at the last reading: what the counter showed then.
    ///
    /// # Errors
    /// The agent can't go on.
    fn lower(&mut self, gate: &GateState, used: Octets) -> Result<(), Self::Stop>;
    /// Reads the meter: [`Input::Reading`] or [`Input::NoReading`].
    ///
    /// # Errors
    /// The agent can't go on.
    fn read(&mut self) -> Result<Input, Self::Stop>;
    /// Commits, durably and as one.
    ///
    /// # Errors
    /// The agent can't go on.
    fn commit(&mut self, commit: Commit) -> Result<(), Self::Stop>;
    /// Makes the gate this wide. `used` is the used total at the last reading.
    ///
    /// # Errors
    /// The agent can't go on.
    fn raise(&mut self, gate: &GateState, used: Octets) -> Result<(), Self::Stop>;
    /// Queues a message. A message that can't be queued is dropped: the agent's timers bring it back.
    ///
    /// # Errors
    /// The agent can't go on.
    fn publish(&mut self, message: Outgoing) -> Result<(), Self::Stop>;
    /// Reads rows back from the store.
    ///
    /// # Errors
    /// The agent can't go on.
    fn load(&mut self, load: Load) -> Result<Vec<Row>, Self::Stop>;
    /// Takes note of a fact.
    fn notice(&mut self, notice: Notice);
}

/// What is left to do after everything was carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// Step with a tick at this time on the monotonic clock.
    pub wake_at_ms: Option<u64>,
    /// The epoch has ended: begin another one.
    pub new_epoch: bool,
    /// The agent has ended in order.
    pub done: bool,
}

/// Steps the agent with an input and carries out everything that it wants.
///
/// # Errors
/// Whatever ended it; the agent must be thrown away.
pub fn step<W: World>(agent: &mut Agent, input: Input, world: &mut W) -> Result<After, W::Stop> {
    let now = world.now();
    let effects = agent.step(input, now);
    carry_out(agent, effects, world)
}

/// Carries out effects, in the order of the contract.
///
/// # Errors
/// Whatever ended it; the agent must be thrown away.
pub fn carry_out<W: World>(
    agent: &mut Agent,
    first: Effects,
    world: &mut W,
) -> Result<After, W::Stop> {
    let mut after = After::default();
    let mut next = Some(first);
    while let Some(effects) = next.take() {
        let Effects {
            lower,
            read,
            store,
            raise,
            publish,
            load,
            notices,
            wake_at_ms,
            new_epoch,
            done,
        } = effects;
        after.wake_at_ms = wake_at_ms.or(after.wake_at_ms);
        after.new_epoch |= new_epoch;
        after.done |= done;
        if let Some(gate) = lower {
            world.lower(&gate, agent.used())?;
        }
        if read {
            let reading = world.read()?;
            let now = world.now();
            next = Some(agent.step(reading, now));
            continue;
        }
        if let Some(commit) = store {
            world.commit(commit)?;
        }
        if let Some(gate) = raise {
            world.raise(&gate, agent.used())?;
        }
        for message in publish {
            world.publish(message)?;
        }
        for notice in notices {
            world.notice(notice);
        }
        if let Some(load) = load {
            let rows = world.load(load)?;
            let now = world.now();
            next = Some(agent.step(Input::Rows(rows), now));
        }
    }
    Ok(after)
}
