//! The gate's table, as text for the `nft` program: commands that add to a table that is there, because only the kernel
//! itself can be asked for one that stays ours (see [`nft`](super::nft)).
//!
//! Everything that the SIM's interface carries, sent, received and forwarded, is counted by the quota `ceiling`; what
//! goes beyond it is let through only for a reason, and then counted by the quota `allowance`. `half` does nothing but
//! say, by the kernel's event, that it is time for another reading.
//!
//! A quota goes on counting what it refuses. So the first packet that it refuses puts its family into a set (`shut`,
//! `spent`), and what is in there never comes to the quota again until the set is emptied. The counters `passed` and
//! `refused` (`allowed` and `overdrawn` for the allowance) split what a quota has counted; the order of the rules
//! matters: a packet counts as passed only after it did, and as refused only after the set has its family. See
//! [`nft`](super::nft) for what follows from that.
//!
//! What is dropped on its way in was delivered by the SIM and is metered; `delivered` counts it, so that it is not
//! taken for the agent's own traffic and does not eat the allowance.
//!
//! The SIM's interface is the one of the configured name, so that a new one is fenced before anybody has heard of it,
//! and the one of the index in `lives`, so that the one that is metered stays fenced under another name.
//!
//! A new table begins shut: all its quotas are 0.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::io::counter::Direction;

/// The bits of the connection mark that are ours: the agent's connection, and names and time.
const MARK_OWN: u32 = 0x1000_0000;
const MARK_AUX: u32 = 0x2000_0000;

/// All counters.
const COUNTERS: [&str; 7] = [
    "own",
    "stopped",
    "delivered",
    "passed",
    "refused",
    "allowed",
    "overdrawn",
];

/// Interfaces that `lives` has room for: one, and one more while they change.
const LIVES_MAX: u32 = 4;

/// The largest packet that the kernel makes for a card to cut up.
const SEGMENT_OCTETS: u32 = 64 * 1024;

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
    /// Nobody else may change the table while the agent runs, where the kernel has that.
    pub owned: bool,
}

impl Place {
    /// The names of the table: of this interface alone, so that two agents do not meet. There are two, so that a new one
    /// can be made beside the present one, which goes only then.
    #[must_use]
    pub fn tables(&self) -> [String; 2] {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let interface: String = self.interface.chars().map(plain).collect();
        [
            format!("simquota_{interface}"),
            format!("simquota_{interface}_2"),
        ]
    }

    /// All that is in a table, which is empty. `life` is the index of the interface, where one is known.
    pub(super) fn rules(&self, table: &str, beyond: &Beyond, life: Option<u32>) -> String {
        let mut text = String::new();
        for (quota, octets) in [
            ("ceiling", 0),
            ("half", 0),
            ("allowance", 0),
            ("cut", super::kernel::UNLIMITED),
        ] {
            let _ = writeln!(
                text,
                "add quota inet {table} {quota} {{ over {octets} bytes }}"
            );
        }
        for counter in COUNTERS {
            let _ = writeln!(text, "add counter inet {table} {counter}");
        }
        for set in ["shut", "spent"] {
            let _ = writeln!(
                text,
                "add set inet {table} {set} {{ type nf_proto; flags dynamic; size 4; }}"
            );
        }
        let _ = writeln!(
            text,
            "add set inet {table} lives {{ type iface_index; size {LIVES_MAX}; }}"
        );
        if let Some(index) = life {
            let _ = writeln!(text, "add element inet {table} lives {{ {index} }}");
        }
        let chains = self.chains(beyond);
        // A chain is there before a rule leads to it.
        for (chain, hook, _) in &chains {
            let _ = writeln!(text, "add chain inet {table} {chain} {hook}");
        }
        for (chain, _, rules) in &chains {
            text.push_str(&in_chain(table, chain, rules));
        }
        text
    }

    /// Each chain: its name, where it hangs, its rules.
    fn chains(&self, beyond: &Beyond) -> Vec<(&'static str, String, String)> {
        let name = quoted(&self.interface);
        let (uid, port) = (self.uid, self.port);
        let plain = |chain, rules: &str| (chain, String::new(), rules.to_owned());
        let marks = format!("oif @lives jump marks\noifname {name} jump marks\n");
        let (sent, received) = match self.direction {
            Direction::Both => ("jump sent\n", "jump received\n"),
            Direction::Tx => ("jump sent\n", ""),
            Direction::Rx => ("", "jump received\n"),
        };
        let mut chains = vec![
            plain("noted_in", "counter name delivered\ncounter name stopped"),
            plain(
                "noted",
                &format!(
                    "iif @lives goto noted_in\niifname {name} goto noted_in\ncounter name stopped"
                ),
            ),
            plain("held_up", "jump noted\ndrop"),
            plain("ended", "jump noted\nreject with tcp reset"),
            plain(
                "overdraw",
                "add @spent { meta nfproto }\ncounter name overdrawn\ngoto held_up",
            ),
            plain(
                "allowed",
                "meta nfproto @spent goto held_up\nquota name allowance goto overdraw\ncounter name allowed\naccept",
            ),
            plain("beyond", &beyond_rules(beyond)),
            plain(
                "closing",
                "add @shut { meta nfproto }\ncounter name refused\ngoto beyond",
            ),
            plain(
                "metered",
                &format!(
                    "ct mark and {MARK_OWN} == {MARK_OWN} counter name own\n\
                     meta nfproto @shut goto beyond\nquota name half\n\
                     quota name ceiling goto closing\ncounter name passed"
                ),
            ),
            plain(
                "marks",
                &format!(
                    "meta skuid {uid} tcp dport {port} ct mark set ct mark or {MARK_OWN}\n\
                     udp dport {{ 53, 67, 123, 547 }} ct mark set ct mark or {MARK_AUX}\n\
                     tcp dport 53 ct mark set ct mark or {MARK_AUX}"
                ),
            ),
            plain(
                "sent",
                &format!("oif @lives goto metered\noifname {name} goto metered"),
            ),
            plain(
                "received",
                &format!("iif @lives goto metered\niifname {name} goto metered"),
            ),
        ];
        for (chain, hook, rules) in [
            ("output_sim", "output", format!("{marks}{sent}")),
            ("input_sim", "input", received.to_owned()),
            ("forward_sim", "forward", format!("{received}{sent}")),
        ] {
            // Past the filters of others: what they drop never reached the SIM.
            let hook = format!("{{ type filter hook {hook} priority 10; policy accept; }}");
            chains.push((chain, hook, rules));
        }
        chains
    }

    /// Only what passes beyond the ceiling, anew.
    pub(super) fn rules_beyond(&self, table: &str, beyond: &Beyond) -> String {
        let rules = in_chain(table, "beyond", &beyond_rules(beyond));
        format!("flush chain inet {table} beyond\n{rules}")
    }
}

fn in_chain(table: &str, chain: &str, rules: &str) -> String {
    rules.lines().fold(String::new(), |mut text, rule| {
        let _ = writeln!(text, "add rule inet {table} {chain} {rule}");
        text
    })
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
            // A flow that is to be slow must live: what is too much is dropped, never reset. A large segment of the
            // kernel's has to fit in, or nothing of such a flow would ever pass.
            let _ = write!(
                rules,
                "limit rate over {octets} bytes/second burst {SEGMENT_OCTETS} bytes goto held_up\ngoto allowed\n"
            );
            return rules;
        }
    }
    // A flow whose grant is merely late loses packets; one whose grant is used up is ended, so that the far end stops.
    rules.push_str("meta l4proto tcp quota name cut goto ended\ngoto held_up\n");
    rules
}

/// The kernel allows any name without slash and space; quotes would end ours.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace(['"', '\\', '*', '\n'], "_"))
}
