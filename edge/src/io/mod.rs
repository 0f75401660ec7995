//! Everything that touches the world: clocks, counters, links, the broker.
//!
//! The agent's decisions live elsewhere and are pure; nothing here decides about quota.
//!
//! # What waits, how much of it, and what happens then
//!
//! | what waits | bound | when it is full | who is told | shown by |
//! |---|---|---|---|---|
//! | samples in memory | `store.sync` octets, 100 rows, 5 min | *commit* | nobody | `agent::tests::metering` |
//! | samples in the store | the disk | *stop*: the gate is shut until there is space, nothing is dropped | the log, `status` | `run::tests` (a full disk) |
//! | settled samples | `store.keep_days`, `store.keep` | *the oldest go* | nobody | `store::…no_more_acknowledged_rows…` |
//! | reports under way | 4 batches of 500 rows, 8 KiB each | *wait* for the acknowledgement; they are sent again by a timer | nobody | `agent::…no_more_than_four_batches…` |
//! | requests for quota under way | 1 | *replace* by a cut, else wait | nobody | `agent::tests::random` |
//! | packets to the broker | 32 | *drop*: the agent's timers bring them back | the log | `mqtt::tests` |
//! | messages from the broker | 256 | *drop*: asked for again by the agent's timers | the log, counted | `run::queue::…a_flood_of_messages…` |
//! | orders of whoever runs the agent, events of links and of the gate | none: they come from this machine's root and kernel, the kernel's sockets bound them, and each is taken at once | – | – | – |
//! | outcomes of commands | 64 | *forget the oldest*: a repeat is caught by its number, or does no harm | nobody | `agent::tests::commands` |
//! | damaged stores moved aside | 3 | *the newest takes the last one's place* | the log | `recover::…only_three_are_kept` |

mod attempt;
pub mod channel;
pub mod clock;
pub mod counter;
pub mod folder;
pub mod gate;
pub mod hook;
pub mod keyfile;
pub mod link;
pub mod mirror;
pub mod mqtt;
mod netlink;
pub mod post;
pub mod record;
pub mod recover;
pub mod service;
pub mod store;
pub mod tls;
pub mod trace;
