//! Everything that touches the world: clocks, key files, the store, the broker, and the loop that joins them.
//!
//! Nothing here decides about quota: that is [`crate::charging`], which is pure.
//!
//! | module | what |
//! |---|---|
//! | [`audit`](mod@audit) | every octet of a store that nobody has open, and every balance anew |
//! | [`backup`] | the journal as one file, and back |
//! | [`clock`] | the only place that reads a clock |
//! | [`keys`] | the key folder: secrets never leave it |
//! | [`roster`] | whom the keys were made for, to write a broker's access control from |
//! | [`store`] | the journal and its checkpoints, durable |
//! | [`mqtt`] | a connection that comes back, acknowledgements in the order of delivery |
//! | [`tls`] | certificates and keys, read before each connection |
//! | [`verify`] | from octets to a request, or to a refusal with a reason |
//! | [`admission`] | how often a device may ask |
//! | `pipeline` | receive, verify, decide, commit, send, acknowledge |
//! | `query` | answers out of the journal, beside the pipeline |
//! | [`hooks`] | events to receivers over HTTP, each from a cursor of its own |
//! | [`http`] | health, readiness, metrics, the log's level, for whoever has a token |
//! | [`metrics`] | what is counted and timed, in Prometheus' words |
//! | [`serve`] | the service: starts all of it and stops it |
//!
//! # What waits, how much of it, and what happens then
//!
//! Nothing here waits without a bound. What is dropped comes again: from the broker, from a device's timer, from whoever
//! asked, or out of the journal.
//!
//! | what waits | bound | when it is full | who is told | shown by |
//! |---|---|---|---|---|
//! | messages unacknowledged at the broker, a connection | `limits.receive_max` | *the broker holds back*: flow control of MQTT 5; mosquitto 2.0 sends more all the same, see the next line | nobody | `mqtt::tests` |
//! | messages under a packet id that is in use | a quarter of `limits.receive_max` | *begin the session anew*: devices ask again | the log | `mqtt::…a_session_whose_window_is_spent…` |
//! | messages for the pipeline, control and usage each | 64 MiB | *break off*: the connection is ended, the broker sends again what was not acknowledged; QoS 0 is *dropped* | QoS 0: counted in `ops/statistics` | `inbox::…at_the_bound_a_connection_ends…` |
//! | a batch | `limits.batch_max`, a tenth of it for usage | *the rest waits its turn* | nobody | `inbox::…a_flood_of_control_leaves_a_tenth…` |
//! | notices for the pipeline | 1000 | *the oldest goes*: only the latest state counts, and who asked asks again | nobody | `inbox::…of_too_many_notices…` |
//! | packets to the broker, a connection | 256 | *wait, then drop*: `limits.send_wait_ms`, on the thread that sends; devices ask again | the log, counted | `mqtt::…a_full_window_delays…` |
//! | questions out of the journal | 16; one that waits already is not asked twice | *drop*: who asked asks again | the log | `query::…questions_that_wait…` |
//! | parts of answers to questions | 20,000 | *drop* the whole answer: who asked asks again | the log | – |
//! | events under way | 1000 | *read again* out of the journal, when there is room | nobody: each is published | `publisher::…at_the_bound…` |
//! | refusals a second on `ops/rejected` | `limits.rejected_per_s` | *count only* | counted in `ops/statistics` | `operators::…refusals_are_always_counted…` |
//! | messages of a sender, of a fleet, of all | `limits.sender_per_s`, `fleet_per_s`, `all_per_s` | *come back later*: 3004, or a mark with `retry_s` | the sender | `admission::…who_asks_too_often…` |
//! | senders kept in mind | `limits.senders_max` | *forget*: the limit for all holds alone | nobody | `admission::…all_together_have_a_limit…` |
//! | derived keys kept in mind | 65,536 | *forget* what was not used for long | nobody | `verify::…the_key_cache_is_bounded…` |

pub mod admission;
pub mod audit;
pub mod backup;
pub mod clock;
pub mod hooks;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod mqtt;
#[cfg(test)]
mod peer;
mod pipeline;
mod query;
pub mod roster;
pub mod serve;
pub mod store;
pub mod tls;
pub mod verify;
