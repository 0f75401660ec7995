//! Ids, topics and units: what is written is read back, and nothing else gets in.

use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, ID_MAX, IdError, KeyId, NodeId, TEXT_MAX, Text};
use simquota_shared::topic::{Down, TOPIC_MAX, Topic, TopicError, Up, filter};
use simquota_shared::units::{Octets, UnixMillis, human, parse_octets};

use crate::samples::id;

pub(crate) fn topics(name: &str) -> Vec<Topic> {
    let (device, fleet): (DeviceId, FleetId) = (id(name), id(name));
    let (key, node): (KeyId, NodeId) = (id(name), id(name));
    let mut topics = vec![
        Topic::Status(device.clone()),
        Topic::FleetCommand(fleet.clone()),
        Topic::FleetReply(fleet.clone(), key.clone()),
        Topic::FleetEvent(fleet.clone()),
        Topic::FleetSummary(fleet),
        Topic::OpsCommand,
        Topic::OpsReply(key),
        Topic::OpsNode(node.clone()),
        Topic::OpsStatistics(node),
        Topic::OpsRejected,
    ];
    for up in [Up::Register, Up::Usage, Up::Credit, Up::Ack] {
        topics.push(Topic::Up(device.clone(), up));
    }
    for down in [Down::Register, Down::Usage, Down::Credit, Down::Command] {
        topics.push(Topic::Down(device.clone(), down));
    }
    topics
}

#[test]
fn topics_are_these() {
    let lines: Vec<String> = topics("x-1").iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("topics", lines.join("\n"));
    let (device, fleet, key) = (id("x-1"), id("x-1"), id("k-1"));
    let mut filters = vec![
        filter::device_down(&device),
        filter::usage(),
        filter::fleet_reply(&fleet, &key),
    ];
    filters.extend(filter::control());
    insta::assert_snapshot!("filters", filters.join("\n"));
}

#[test]
fn topics_are_read_back() {
    let longest = "z".repeat(ID_MAX);
    for name in ["a", "0", "-", "up", "down", "status", "ops", &longest] {
        for topic in topics(name) {
            let text = topic.to_string();
            assert!(text.len() <= TOPIC_MAX);
            assert_eq!(text.parse::<Topic>().unwrap(), topic, "{text}");
        }
    }
}

/// Octets that a client could put where an id or a level stands.
const INTRUDERS: [&str; 16] = [
    "", "+", "#", ".", "/", "a/b", "a.b", "A", "ü", " ", "a ", "\0", "\n", "$share", "a+", "%2f",
];

#[test]
fn wildcards_dots_and_other_levels_are_refused() {
    for name in INTRUDERS {
        assert!(name.parse::<DeviceId>().is_err(), "{name:?}");
        for topic in topics("x-1") {
            let text = topic.to_string();
            if text.contains("x-1") {
                let changed = text.replace("x-1", name);
                assert!(changed.parse::<Topic>().is_err(), "{changed:?}");
            }
            for changed in [
                format!("{text}/{name}"),
                format!("{text}{name}/"),
                format!("/{text}"),
                format!("{text}X"),
                text.replace("csim/v1", "csim/v2"),
                text.replace("csim/", "Csim/"),
            ] {
                assert!(changed.parse::<Topic>().is_err(), "{changed:?}");
            }
        }
    }
    let long = format!("csim/v1/d/{}/status", "a".repeat(TOPIC_MAX));
    assert_eq!(long.parse::<Topic>(), Err(TopicError::Length(long.len())));
    assert_eq!(
        "csim/v1/ops/reply".parse::<Topic>(),
        Err(TopicError::Unknown)
    );
}

#[test]
fn ids_have_64_characters_of_38() {
    assert_eq!("a".repeat(65).parse::<DeviceId>(), Err(IdError::Length(65)));
    assert_eq!("".parse::<DeviceId>(), Err(IdError::Length(0)));
    for c in (0..=0x2_ffff).filter_map(char::from_u32) {
        let allowed = c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let parsed = format!("a{c}").parse::<DeviceId>();
        match parsed {
            Ok(parsed) => assert!(allowed && parsed.as_str().ends_with(c), "{c:?}"),
            Err(why) => assert_eq!((why, allowed), (IdError::Character(c), false)),
        }
    }
}

#[test]
fn texts_are_bounded_and_have_no_control_characters() {
    assert_eq!("".parse::<Text>().unwrap().as_str(), "");
    assert!("é".repeat(TEXT_MAX / 2).parse::<Text>().is_ok());
    assert_eq!(
        "é".repeat(65).parse::<Text>(),
        Err(IdError::TextLength(130))
    );
    for control in ['\0', '\n', '\u{1b}', '\u{7f}', '\u{9b}'] {
        let text = format!("a{control}");
        assert_eq!(text.parse::<Text>(), Err(IdError::Control(control)));
        assert_eq!(Text::clipped(&text).as_str(), "a ");
    }
    let clipped = Text::clipped(&"é".repeat(100));
    assert_eq!(clipped.as_str().chars().count(), TEXT_MAX / 2);
    assert_eq!(clipped.as_str().parse::<Text>().unwrap(), clipped);
}

#[test]
fn amounts_are_read_in_every_unit() {
    let units = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    for (unit, factor) in units {
        for count in [0, 1, 7, 999, 18_446] {
            for text in [format!("{count}{unit}"), format!(" {count} {unit} ")] {
                assert_eq!(
                    parse_octets(&text).unwrap(),
                    Octets(count * factor),
                    "{text:?}"
                );
            }
        }
    }
    assert_eq!(
        parse_octets(&u64::MAX.to_string()).unwrap(),
        Octets(u64::MAX)
    );
    let refused = [
        "",
        "MB",
        "1.5MB",
        "-1",
        "+1",
        "1e6",
        "1 MB 2",
        "1mb",
        "1M",
        "１",
        "0x10",
        "18446744073709551616",
        "18446744074GB",
    ];
    for text in refused {
        let why = parse_octets(text).unwrap_err().to_string();
        assert!(why.contains(text), "{why}");
    }
}

#[test]
fn amounts_are_shown_never_too_large() {
    for octets in (0..64)
        .flat_map(|bit| [(1u64 << bit) - 1, 1 << bit])
        .chain([u64::MAX])
    {
        let shown = human(Octets(octets));
        let (number, unit) = shown.split_once(' ').unwrap();
        let factor = parse_octets(&format!("1{unit}")).unwrap().value();
        let (whole, hundredths) = number.split_once('.').unwrap_or((number, "0"));
        let back = whole.parse::<u64>().unwrap() * factor
            + hundredths.parse::<u64>().unwrap() * (factor / 100);
        assert!(
            back <= octets && octets - back <= factor / 100,
            "{octets}: {shown}"
        );
    }
}

#[test]
fn arithmetic_ends_at_the_ends() {
    assert_eq!(Octets(u64::MAX).next(), None);
    assert_eq!(Octets(1).checked_sub(2), None);
    assert_eq!(Octets(5).checked_sub(2), Some(Octets(3)));
    assert_eq!(Octets(5).beyond(Octets(7)), 0);
    assert_eq!(Octets(7).beyond(Octets(5)), 2);
    assert_eq!(UnixMillis(1).plus_s(2), Some(UnixMillis(2001)));
    assert_eq!(UnixMillis(u64::MAX - 999).plus_s(1), None);
    assert_eq!(UnixMillis(1).plus_s(u64::MAX), None);
}

#[test]
fn only_three_codes_are_decisions() {
    let decisions: Vec<u16> = (0..=u16::MAX)
        .filter(|code| Code(*code).is_decision())
        .collect();
    assert_eq!(decisions, [2001, 4010, 4012]);
    assert!(Code(2999).is_success() && !Code(3004).is_success() && !Code(199).is_success());
    assert_eq!(Code::TOO_BUSY.to_string(), "3004 too busy");
}
