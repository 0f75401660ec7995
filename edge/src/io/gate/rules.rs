//! The gate's table, as text for the `nft` program.
//!
//! Everything that the SIM's interface carries, sent, received and forwarded, is counted by the quota `ceiling`; what
//! goes beyond it is let through only for a reason, and then counted by the quota `allowance`. `half` does nothing but
//! say, by the kernel's event, that it is time for another reading.
//!
//! What is dropped on its way in was delivered by the SIM and is metered; `delivered` counts it, so that it is not
//! taken for the agent's own traffic and does not eat the allowance.
//!
//! A new table begins shut: all its quotas are 0.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::io::counter::Direction;

/// The bits of the connection mark that are ours: the agent's connection, and names and time.
const MARK_OWN: u32 = 0x1000_0000;
const MARK_AUX: u32 = 0x2000_0000;

/// What passes beyond the ceiling besides the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing.
    #[default]
    Nothing,
    /// These hosts.
    Hosts(Vec<IpAddr>),
    /// Everything, at so many octets a second.
    Rate(u64),
}

/// The surroundings of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The SIM's interface.
    pub interface: String,
    /// What of it is metered.
    pub direction: Direction,
    /// The user that the agent runs as.
    pub uid: u32,
    /// The broker's port. The agent's own traffic is that user's to that port.
    pub port: u16,
}

impl Place {
    /// The name of the table: one for each interface, so that two agents do not meet.
    #[must_use]
    pub fn table(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let interface: String = self.interface.chars().map(plain).collect();
        format!("simquota_{interface}")
    }

    /// The whole table, replacing one of that name in the same transaction.
    pub(super) fn rules(&self, beyond: &Beyond) -> String {
        let table = self.table();
        let name = quoted(&self.interface);
        let mut text = format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
             quota ceiling {{ over 0 bytes }}\nquota half {{ over 0 bytes }}\n\
             quota allowance {{ over 0 bytes }}\nquota cut {{ over {limit} bytes }}\n\
             counter own {{ }}\ncounter stopped {{ }}\ncounter delivered {{ }}\n\
             chain noted {{\niifname {name} counter name \"delivered\"\ncounter name \"stopped\"\n}}\n\
             chain held_up {{\njump noted\ndrop\n}}\n\
             chain ended {{\njump noted\nreject with tcp reset\n}}\n\
             chain allowed {{\nquota name \"allowance\" goto held_up\naccept\n}}\n\
             chain beyond {{\n{beyond}}}\n\
             chain metered {{\nct mark and {MARK_OWN} == {MARK_OWN} counter name \"own\"\n\
             quota name \"half\"\nquota name \"ceiling\" goto beyond\n}}\n",
            limit = super::kernel::UNLIMITED,
            beyond = beyond_rules(beyond),
        );
        let marks = format!(
            "oifname {name} meta skuid {uid} tcp dport {port} ct mark set ct mark or {MARK_OWN}\n\
             oifname {name} udp dport {{ 53, 67, 123, 547 }} ct mark set ct mark or {MARK_AUX}\n\
             oifname {name} tcp dport 53 ct mark set ct mark or {MARK_AUX}\n",
            uid = self.uid,
            port = self.port,
        );
        let (sent, received) = match self.direction {
            Direction::Both => (true, true),
            Direction::Tx => (true, false),
            Direction::Rx => (false, true),
        };
        let sent = match sent {
            true => format!("oifname {name} jump metered\n"),
            false => String::new(),
        };
        let received = match received {
            true => format!("iifname {name} jump metered\n"),
            false => String::new(),
        };
        for (hook, rules) in [
            ("output", format!("{marks}{sent}")),
            ("input", received.clone()),
            ("forward", format!("{received}{sent}")),
        ] {
            // Past the filters of others: what they drop never reached the SIM.
            let _ = writeln!(
                text,
                "chain {hook}_sim {{\ntype filter hook {hook} priority 10\npolicy accept\n{rules}}}"
            );
        }
        text.push_str("}\n");
        text
    }

    /// Only what passes beyond the ceiling, anew.
    pub(super) fn rules_beyond(&self, beyond: &Beyond) -> String {
        let table = self.table();
        format!(
            "flush chain inet {table} beyond\ntable inet {table} {{\nchain beyond {{\n{}}}\n}}\n",
            beyond_rules(beyond)
        )
    }

    /// Takes the table away, if there is one.
    #[must_use]
    pub fn rules_removed(&self) -> String {
        let table = self.table();
        format!("table inet {table}\ndelete table inet {table}\n")
    }
}

fn beyond_rules(beyond: &Beyond) -> String {
    let mut rules = format!(
        "ct mark and {MARK_OWN} == {MARK_OWN} goto allowed\n\
         ct mark and {MARK_AUX} == {MARK_AUX} goto allowed\n\
         icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} goto allowed\n\
         tcp flags & rst == rst goto allowed\n"
    );
    match beyond {
        Beyond::Nothing => {}
        Beyond::Hosts(hosts) => {
            for host in hosts {
                let family = if host.is_ipv4() { "ip" } else { "ip6" };
                let _ = write!(
                    rules,
                    "{family} daddr {host} goto allowed\n{family} saddr {host} goto allowed\n"
                );
            }
        }
        Beyond::Rate(octets) => {
            let _ = writeln!(rules, "limit rate {octets} bytes/second goto allowed");
        }
    }
    // A flow whose grant is merely late loses packets; one whose grant is used up is ended, so that the far end stops.
    rules.push_str("meta l4proto tcp quota name \"cut\" goto ended\ngoto held_up\n");
    rules
}

/// The kernel allows any name without slash and space; quotes would end ours.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace(['"', '\\', '*', '\n'], "_"))
}
