//! `top`: a live view of devices, rates and alerts. It asks the service for its statistics every few seconds and
//! listens to events; what devices say to the service it does not listen to.

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::topic::{PREFIX, Topic};
use simquota_shared::units::UnixMillis;

use super::ask::{Asker, Connection};
use super::package::count;
use super::watch::decode::{Reader, Verdict};
use super::{Common, print, show};
use crate::charging::value_map;
use crate::io::clock;
use crate::io::mqtt::{Deadline, MqttEvent};

mod board;
mod draw;

use board::{Board, Wish};

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(100);
/// How far back the detail pane looks.
const DETAIL_MS: u64 = 24 * 3_600_000;
/// Devices that are asked for: those that were heard of last.
const DEVICES_MAX: u64 = 500;
/// How long an acknowledgement may wait for a place.
const ACKNOWLEDGE_MS: u64 = 1000;

pub(super) const EXAMPLES: &str = "\
Keys: s sort, r reverse, / filter, up and down select, Enter the device's recent journal, Esc back, q quit
Examples:
  simquota-cloud top --fleet acme
  simquota-cloud top --once                          one picture, for a script";

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Of which fleet; all whose manager's key is here when not given
    #[arg(long)]
    fleet: Option<FleetId>,
    /// Ask the service every so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Print one picture and end
    #[arg(long)]
    once: bool,
    /// How wide and high it is, with --once
    #[arg(long, value_name = "COLUMNSxROWS", default_value = "120x30", value_parser = size)]
    size: (u16, u16),
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("'{text}' is no size: write 120x30");
    let (columns, rows) = text.split_once('x').ok_or_else(bad)?;
    let (columns, rows) = (
        columns.parse().map_err(|_| bad())?,
        rows.parse().map_err(|_| bad())?,
    );
    match (40..=500).contains(&columns) && (10..=500).contains(&rows) {
        true => Ok((columns, rows)),
        false => Err(bad()),
    }
}

/// What came in.
enum News {
    Devices(UnixMillis, Vec<Value>),
    Alert(String),
    Figures(String),
    Detail(DeviceId, Vec<String>),
    Failed(String),
}

pub(super) fn run(common: &Common, top: &TopArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleets = match &top.fleet {
        Some(fleet) => vec![fleet.clone()],
        None => asker.fleets(),
    };
    if fleets.is_empty() {
        bail!("no fleet's key is in the data folder: name a fleet with --fleet");
    }
    let mut board = Board::new(&fleets);
    if top.once {
        let connection = asker.connect_for(&fleets)?;
        let rows = devices(&mut asker, &connection, &fleets)?;
        board.devices(clock::now(), &rows);
        return Ok(print(&picture(&board, top.size)?)?);
    }
    if !std::io::stdout().is_terminal() {
        bail!("there is no terminal: give --once for one picture");
    }
    let (news_in, news) = channel();
    let (wishes, wished) = channel();
    listen(Asker::open(common)?, &fleets, news_in.clone())?;
    let every = Duration::from_secs(top.every);
    let connection = asker.connect_for(&fleets)?;
    std::thread::spawn(move || feed(&mut asker, &connection, &fleets, every, &wished, &news_in));
    end_with_terminal();
    let mut terminal = ratatui::try_init().context("the terminal can't be used")?;
    let ended = view(&mut board, &mut terminal, &news, &wishes);
    ratatui::restore();
    ended
}

/// One frame as text.
fn picture(board: &Board, (columns, rows): (u16, u16)) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).context("no frame")?;
    let frame = terminal
        .draw(|frame| draw::draw(frame, board))
        .context("no frame")?;
    let lines = frame.buffer.content.chunks(usize::from(columns));
    Ok(lines
        .map(|line| {
            let line: String = line.iter().map(|cell| cell.symbol()).collect();
            format!("{}\n", line.trim_end())
        })
        .collect())
}

fn view(
    board: &mut Board,
    terminal: &mut ratatui::DefaultTerminal,
    news: &Receiver<News>,
    wishes: &Sender<DeviceId>,
) -> anyhow::Result<()> {
    let mut changed = true;
    loop {
        while let Ok(new) = news.try_recv() {
            changed = true;
            match new {
                News::Devices(at, rows) => board.devices(at, &rows),
                News::Alert(words) => board.alert(words),
                News::Figures(words) => board.figures(words),
                News::Detail(device, lines) => board.detail(&device, lines),
                News::Failed(words) => board.failed(words),
            }
        }
        if changed {
            terminal.draw(|frame| draw::draw(frame, board))?;
        }
        changed = event::poll(KEYS)?;
        if !changed {
            continue;
        }
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match board.key(key) {
            Wish::Nothing => {}
            Wish::End => return Ok(()),
            // The feeder ends with the program.
            Wish::Detail(device) => drop(wishes.send(device)),
        }
    }
}

/// Ends the program when its terminal is gone, also where the signal for that is ignored (`nohup`). The library that
/// reads keys reads from a terminal that is gone for ever, and never comes back from that.
fn end_with_terminal() {
    std::thread::spawn(|| {
        let out = std::io::stdout();
        // Nothing is awaited: that it was hung up is said all the same.
        let mut terminal = [PollFd::new(&out, PollFlags::empty())];
        while poll(&mut terminal, None) == Err(Errno::INTR) {}
        std::process::exit(super::FAILED.into());
    });
}

/// Asks the service, again and again, and for the detail pane in between.
fn feed(
    asker: &mut Asker,
    connection: &Connection,
    fleets: &[FleetId],
    every: Duration,
    wished: &Receiver<DeviceId>,
    news: &Sender<News>,
) {
    loop {
        let new = match devices(asker, connection, fleets) {
            Ok(rows) => News::Devices(clock::now(), rows),
            Err(error) => News::Failed(format!("{error:#}")),
        };
        if news.send(new).is_err() {
            return;
        }
        match wished.recv_timeout(every) {
            Ok(device) => {
                let new = match detail(asker, connection, fleets, &device) {
                    Ok(lines) => News::Detail(device, lines),
                    Err(error) => News::Failed(format!("{error:#}")),
                };
                if news.send(new).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn devices(
    asker: &mut Asker,
    connection: &Connection,
    fleets: &[FleetId],
) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for fleet in fleets {
        let args = value_map([("most", count(DEVICES_MAX))]);
        let answer = asker.ask_over(connection, Some(fleet), "device-live", args)?;
        if let Value::Array(more) = answer {
            rows.extend(more);
        }
    }
    Ok(rows)
}

fn detail(
    asker: &mut Asker,
    connection: &Connection,
    fleets: &[FleetId],
    device: &DeviceId,
) -> anyhow::Result<Vec<String>> {
    let since = clock::now().value().saturating_sub(DETAIL_MS);
    let args = value_map([
        ("device", Value::Text(device.to_string())),
        ("since", count(since)),
    ]);
    let mut found = Err(anyhow::anyhow!("no fleet has it"));
    for fleet in fleets {
        found = asker.ask_over(connection, Some(fleet), "explain", args.clone());
        if found.is_ok() {
            break;
        }
    }
    let Value::Array(rows) = found? else {
        return Ok(Vec::new());
    };
    let line = |row: &Value| {
        let (entry, at) = (show::text(row, "entry"), show::time(row, "at"));
        format!("{entry:>8}  {at}  {}", show::text(row, "words"))
    };
    Ok(rows.iter().rev().map(line).collect())
}

/// Hears events and the service's figures.
fn listen(asker: Asker, fleets: &[FleetId], news: Sender<News>) -> anyhow::Result<()> {
    let events = fleets.iter().cloned();
    let mut filters: Vec<String> = events
        .map(|fleet| Topic::FleetEvent(fleet).to_string())
        .collect();
    filters.push(format!("{PREFIX}ops/statistics/+"));
    let connection = asker.subscribe(filters)?;
    let mut reader = Reader::new(asker);
    std::thread::spawn(move || {
        for event in &connection.events {
            let MqttEvent::Message(delivery) = event else {
                continue;
            };
            let deadline = Deadline::within_ms(ACKNOWLEDGE_MS);
            connection.line.acknowledge(&delivery, deadline);
            let seen = reader.read(&delivery);
            let sure = match seen.verdict {
                Verdict::Verified => "",
                Verdict::Unverified(_) => "? ",
                Verdict::Refused(_) => continue,
            };
            let new = if seen.topic.ends_with("/event") {
                News::Alert(format!("{sure}{}", event_words(&seen.payload)))
            } else {
                News::Figures(format!("{sure}{}", figure_words(&seen.payload)))
            };
            if news.send(new).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn event_words(payload: &[u8]) -> String {
    use simquota_shared::message::Event;
    match simquota_shared::codec::decode::<Event>(payload) {
        Ok(event) => {
            let device = event.device.map(|device| format!(" {device}"));
            let at = crate::ledger::explain::utc(event.at);
            let args = show::json(&event.args);
            format!("{at} {}{} {args}", event.kind, device.unwrap_or_default())
        }
        Err(error) => error.to_string(),
    }
}

fn figure_words(payload: &[u8]) -> String {
    use simquota_shared::message::Statistics;
    match simquota_shared::codec::decode::<Statistics>(payload) {
        Ok(figures) => format!(
            "{}: entry {}, {} received, {} refused, {} decided, {} devices",
            figures.node,
            figures.entries,
            figures.received,
            figures.rejected,
            figures.decided,
            figures.devices
        ),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;

    fn row(device: &str, state: &str, charged: u64, remaining: u64) -> Value {
        value_map([
            ("device", Value::Text(device.to_owned())),
            ("fleet", Value::Text("buses".to_owned())),
            ("state", Value::Text(state.to_owned())),
            ("charged", count(charged)),
            ("remaining", count(remaining)),
        ])
    }

    /// Three devices, asked for a second apart: `a` used most, `b` uses fastest, `c` has least.
    fn board() -> Board {
        let mut board = Board::new(&["buses".parse().unwrap()]);
        let rows = |b| {
            [
                row("a", "granted", 9000, 500),
                row("b", "granted", b, 700),
                row("c", "exhausted", 3000, 0),
            ]
        };
        board.devices(UnixMillis(1000), &rows(1000));
        board.devices(UnixMillis(2000), &rows(5000));
        board
    }

    fn press(board: &mut Board, keys: &[KeyCode]) -> Wish {
        let mut wish = Wish::Nothing;
        for key in keys {
            wish = board.key(KeyEvent::new(*key, KeyModifiers::NONE));
        }
        wish
    }

    /// The devices in the order in which the picture has them.
    fn order(board: &Board) -> Vec<String> {
        let picture = picture(board, (120, 24)).unwrap();
        let lines = picture.lines().filter(|line| line.contains(" buses "));
        lines
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn s_goes_through_the_orders_and_r_turns_them_round() {
        let mut board = board();
        assert_eq!(order(&board), ["a", "b", "c"], "by use");
        press(&mut board, &[KeyCode::Char('s')]);
        assert_eq!(order(&board), ["c", "a", "b"], "by what remains");
        press(&mut board, &[KeyCode::Char('r')]);
        assert_eq!(order(&board), ["b", "a", "c"], "reversed");
        press(&mut board, &[KeyCode::Char('r'), KeyCode::Char('s')]);
        assert_eq!(order(&board), ["c", "a", "b"], "by state");
        press(&mut board, &[KeyCode::Char('s'); 4]);
        assert!(picture(&board, (120, 24)).unwrap().contains("by rate"));
        assert_eq!(order(&board), ["b", "a", "c"], "4 kB/s is the fastest");
    }

    #[test]
    fn a_filter_is_typed_kept_and_cleared() {
        let mut board = board();
        let keys = "/exh".chars().map(KeyCode::Char);
        press(&mut board, &keys.collect::<Vec<_>>());
        assert!(picture(&board, (120, 24)).unwrap().contains("filter: exh_"));
        press(&mut board, &[KeyCode::Enter]);
        assert_eq!(order(&board), ["c"]);
        press(&mut board, &[KeyCode::Esc]);
        assert_eq!(order(&board), ["a", "b", "c"]);
    }

    #[test]
    fn enter_shows_the_selected_devices_journal_and_esc_the_alerts_again() {
        let mut board = board();
        board.alert("threshold a".to_owned());
        assert!(picture(&board, (120, 24)).unwrap().contains("threshold a"));
        let wish = press(&mut board, &[KeyCode::Down, KeyCode::Enter]);
        let device: DeviceId = "b".parse().unwrap();
        assert_eq!(wish, Wish::Detail(device.clone()));
        assert!(picture(&board, (120, 24)).unwrap().contains("asking"));
        board.detail(&"c".parse().unwrap(), vec!["another's".to_owned()]);
        board.detail(&device, vec!["17  charged".to_owned()]);
        let shown = picture(&board, (120, 24)).unwrap();
        assert!(
            shown.contains("journal of b") && shown.contains("17  charged"),
            "{shown}"
        );
        assert!(!shown.contains("another's"));
        press(&mut board, &[KeyCode::Esc]);
        assert!(picture(&board, (120, 24)).unwrap().contains("threshold a"));
        assert_eq!(press(&mut board, &[KeyCode::Char('q')]), Wish::End);
    }

    #[test]
    fn a_size_is_columns_and_rows() {
        assert_eq!(size("80x24").unwrap(), (80, 24));
        for bad in ["", "80", "80x", "x24", "1x1", "80x24x2", "9999x24"] {
            assert!(size(bad).unwrap_err().contains("write 120x30"), "{bad}");
        }
    }
}
