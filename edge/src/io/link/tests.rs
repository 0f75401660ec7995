#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::io::counter::{Direction, LinkSource, Source as _};
use crate::io::netlink::Counters;

const LIMIT: Duration = Duration::from_secs(30);

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

/// A pair of connected interfaces with unlikely names, deleted when the test ends in any way.
struct Pair {
    a: String,
    b: String,
}

impl Pair {
    /// `None`, said loudly, where interfaces can't be made; a failure where everything must run.
    fn make(test: &str, letter: char) -> Option<Pair> {
        let stem = format!("sqt{}{letter}", std::process::id());
        let pair = Pair {
            a: format!("{stem}0"),
            b: format!("{stem}1"),
        };
        let Err(reason) = ip(&format!(
            "link add {} type veth peer name {}",
            pair.a, pair.b
        )) else {
            return Some(pair);
        };
        let text = format!("NOT RUN: {test} needs root, `ip` and veth ({reason})");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
        // Straight to the stream: the test harness would swallow the print macros of a passing test.
        let _ = writeln!(std::io::stderr(), "{text}");
        None
    }

    /// Nothing but our own packets may flow: no IPv6 chatter of the kernel's.
    fn quiet(&self) {
        for name in [&self.a, &self.b] {
            ip(&format!("link set {name} addrgenmode none")).unwrap();
            // A kernel without IPv6 has no such file and nothing to say.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
    }

    fn up(&self) {
        for name in [&self.a, &self.b] {
            ip(&format!("link set {name} up")).unwrap();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The end that no test renames; the other goes with it.
        let _ = ip(&format!("link del {}", self.b));
    }
}

fn options(interface: &str) -> LinkOptions {
    LinkOptions {
        interface: interface.to_owned(),
        direction: Direction::Both,
        l2_overhead: 14,
    }
}

fn watch(interface: &str) -> (LinkWatch, Receiver<LinkEvent>) {
    let (tx, rx) = channel();
    let watch = LinkWatch::begin(options(interface), None, move |event| {
        let _ = tx.send(event);
    })
    .unwrap();
    (watch, rx)
}

fn next(events: &Receiver<LinkEvent>) -> LinkEvent {
    events.recv_timeout(LIMIT).expect("an event in time")
}

#[test]
fn a_removed_interface_gives_its_final_counters_to_the_octet() {
    let Some(pair) = Pair::make("link removal", 'r') else {
        return;
    };
    pair.quiet();
    let (_watch, events) = watch(&pair.a);
    let LinkEvent::Down { index } = next(&events) else {
        panic!("a new interface is down");
    };
    pair.up();
    assert_eq!(next(&events), LinkEvent::Up { index });
    // An address of the benchmark range, its neighbour known beforehand: no ARP.
    let net = format!("198.18.{}", std::process::id() % 256);
    ip(&format!("addr add {net}.1/30 dev {}", pair.a)).unwrap();
    ip(&format!(
        "neigh add {net}.2 lladdr 02:00:00:00:00:02 dev {}",
        pair.a
    ))
    .unwrap();
    let mut source = LinkSource::open(options(&pair.a)).unwrap();
    let before = source.read(0).unwrap();
    let socket = UdpSocket::bind(format!("{net}.1:0")).unwrap();
    for _ in 0..3 {
        socket.send_to(&[0; 100], format!("{net}.2:9")).unwrap();
    }
    let after = source.read(0).unwrap();
    // 100 octets of payload, 8 of UDP, 20 of IPv4; the 14 of Ethernet are no IP octets.
    assert_eq!(after.up - before.up, 3 * 128);
    assert_eq!(after.packets_up - before.packets_up, 3);
    socket.send_to(&[0; 100], format!("{net}.2:9")).unwrap();

    ip(&format!("link del {}", pair.a)).unwrap();
    let (removed, last) = loop {
        match next(&events) {
            // The kernel may announce that it goes down first.
            LinkEvent::Down { .. } => {}
            LinkEvent::Removed { index, last } => break (index, last),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(removed, index);
    let last = last.expect("final counters");
    assert_eq!(last.identity, after.identity);
    assert_eq!(last.up, after.up + 128, "the packet after the last reading");
    assert_eq!(last.down, after.down);
    assert!(matches!(
        source.read(0),
        Err(SourceError::NoInterface { .. })
    ));
}

#[test]
fn a_recreated_interface_is_another_one_and_a_renamed_one_is_not() {
    let Some(pair) = Pair::make("link re-creation", 'c') else {
        return;
    };
    let (_watch, events) = watch(&pair.a);
    let LinkEvent::Down { index: first } = next(&events) else {
        panic!("a new interface is down");
    };
    let mut source = LinkSource::open(options(&pair.a)).unwrap();
    let before = source.read(0).unwrap();
    ip(&format!("link set {} name {}x", pair.a, pair.a)).unwrap();
    assert_eq!(source.read(0).unwrap(), before, "it is the same");
    // For those who were told where to look, it is so from the start.
    let mut later = LinkSource::open(options(&pair.a)).unwrap();
    assert!(later.read(0).is_err(), "nothing has the name");
    assert_eq!(later.follow(&before.identity), Some(first));
    assert_eq!(later.read(0).unwrap(), before);
    ip(&format!("link del {}x", pair.a)).unwrap();
    let LinkEvent::Removed { index, last } = next(&events) else {
        panic!("only now it is gone");
    };
    assert_eq!(index, first);
    assert!(last.is_some());
    assert!(source.read(0).is_err());
    ip(&format!(
        "link add {} type veth peer name {}",
        pair.a, pair.b
    ))
    .unwrap();
    let LinkEvent::Down { index: second } = next(&events) else {
        panic!("it exists again");
    };
    assert_ne!(first, second);
    assert_eq!(source.read(0).unwrap().identity.index, second);
}

#[test]
fn an_interface_that_lost_its_name_to_another_is_read_once_more() {
    let Some(pair) = Pair::make("link exchange", 'e') else {
        return;
    };
    let mut source = LinkSource::open(options(&pair.a)).unwrap();
    let first = source.read(0).unwrap().identity.index;
    ip(&format!("link set {} name {}x", pair.a, pair.a)).unwrap();
    let other = format!("{}y", pair.b);
    ip(&format!("link add {} type veth peer name {other}", pair.a)).unwrap();
    assert_eq!(source.read(0).unwrap().identity.index, first);
    assert_ne!(source.read(0).unwrap().identity.index, first);
    ip(&format!("link del {other}")).unwrap();
}

#[test]
fn lost_events_are_reported_and_the_present_state_follows() {
    let Some(pair) = Pair::make("link overflow", 'o') else {
        return;
    };
    let (tx, events) = channel();
    let (go, gone) = channel::<()>();
    let mut blocked = true;
    let _watch = LinkWatch::begin_with(options(&pair.a), None, Some(1), move |event| {
        let _ = tx.send(event);
        if std::mem::take(&mut blocked) {
            // The consumer hangs until the storm is over.
            let _ = gone.recv_timeout(LIMIT);
        }
    })
    .unwrap();
    assert!(matches!(next(&events), LinkEvent::Down { .. }));
    for mtu in 1400..1420 {
        ip(&format!("link set {} mtu {mtu}", pair.a)).unwrap();
    }
    pair.up();
    go.send(()).unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&LinkEvent::Resync) {
        seen.push(next(&events));
    }
    // Whether it was seen before or after: in the end the state is known.
    let up = |event: &LinkEvent| matches!(event, LinkEvent::Up { .. });
    while !seen.iter().any(up) {
        seen.push(next(&events));
    }
}

#[test]
fn a_dropped_watch_ends_its_thread() {
    let (watch, events) = watch("lo");
    assert_eq!(next(&events), LinkEvent::Up { index: 1 });
    drop(watch);
    // The thread owned the sender.
    assert!(events.recv_timeout(LIMIT).is_err());
    assert!(events.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected));
}

fn link(index: u32, name: &str, running: bool) -> Link {
    Link {
        index,
        name: name.to_owned(),
        running,
        counters: Some(Counters {
            rx_octets: 1014,
            tx_octets: 2028,
            rx_packets: 1,
            tx_packets: 2,
        }),
    }
}

fn story(news: &[(Link, bool)]) -> Vec<LinkEvent> {
    let mut known = Known {
        options: options("wwan0"),
        place: Place::here().unwrap(),
        link: None,
    };
    let mut events = Vec::new();
    for (link, removed) in news {
        known.heard(link, *removed, &mut |event| events.push(event));
    }
    events
}

#[test]
fn other_interfaces_and_repeats_are_not_reported() {
    let events = story(&[
        (link(7, "wwan1", true), false),
        (link(5, "wwan0", false), false),
        (link(5, "wwan0", false), false),
        (link(5, "wwan0", true), false),
        (link(7, "wwan1", true), true),
        (link(5, "wwan0", true), false),
    ]);
    assert_eq!(
        events,
        [LinkEvent::Down { index: 5 }, LinkEvent::Up { index: 5 }]
    );
}

#[test]
fn a_removal_meters_as_configured_and_is_told_once() {
    let events = story(&[
        (link(5, "wwan0", true), false),
        (link(5, "wwan0", false), true),
        (link(5, "wwan0", false), true),
        (link(6, "wwan0", true), false),
    ]);
    let [
        LinkEvent::Up { index: 5 },
        LinkEvent::Removed {
            index: 5,
            last: Some(last),
        },
        LinkEvent::Up { index: 6 },
    ] = events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!((last.up, last.down), (2000, 1000));
}

#[test]
fn a_renamed_interface_goes_on_until_another_has_its_name() {
    let events = story(&[
        (link(5, "wwan0", true), false),
        (link(5, "other0", true), false),
        (link(5, "other0", false), false),
        (link(5, "other0", true), false),
        (link(6, "wwan0", true), false),
        (link(5, "other0", false), false),
    ]);
    assert_eq!(
        events,
        [
            LinkEvent::Up { index: 5 },
            LinkEvent::Down { index: 5 },
            LinkEvent::Up { index: 5 },
            LinkEvent::Removed {
                index: 5,
                last: None
            },
            LinkEvent::Up { index: 6 },
        ]
    );
}

#[test]
fn a_missed_removal_is_told_without_counters() {
    let events = story(&[
        (link(5, "wwan0", true), false),
        (link(6, "wwan0", true), false),
    ]);
    assert_eq!(
        events,
        [
            LinkEvent::Up { index: 5 },
            LinkEvent::Removed {
                index: 5,
                last: None
            },
            LinkEvent::Up { index: 6 },
        ]
    );
}
