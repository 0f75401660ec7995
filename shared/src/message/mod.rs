//! The messages, one file each. Every payload is an array that begins with the schema version.

pub mod command;
pub mod credit;
pub mod fleet;
pub mod ops;
pub mod policy;
pub mod register;
pub mod status;
pub mod usage;

pub use command::{Ack, Body, Command, Outcome};
pub use credit::{CreditAnswer, CreditRequest, FinalAction, Held, Kind, Reason};
pub use fleet::{Event, FleetCommand, FleetReply, Summary};
pub use ops::{NodeStatus, Rejected, Statistics};
pub use policy::Policy;
pub use register::{Closes, RegisterAnswer, RegisterRequest, SimProfile};
pub use status::Status;
pub use usage::{UsageAck, UsageBatch};
