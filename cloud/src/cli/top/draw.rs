//! The picture of `top`.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as TextLine, Text};
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState};
use simquota_shared::units::{Octets, human};

use super::board::{Board, Line};

const ALERTS: u16 = 6;

pub(super) fn draw(frame: &mut Frame<'_>, board: &Board) {
    let below = match &board.detail {
        Some(_) => frame.area().height / 3,
        None => ALERTS,
    };
    let [head, table, pane, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(below.max(3)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, board);
    draw_table(frame, table, board);
    match &board.detail {
        Some((device, lines)) => {
            draw_lines(frame, pane, format!(" journal of {device} "), lines.iter())
        }
        None => draw_lines(frame, pane, " alerts ".to_owned(), board.alerts.iter()),
    }
    let keys = match board.typing {
        true => format!("filter: {}_   Enter keep, Esc clear", board.filter),
        false => "s sort  r reverse  / filter  Enter journal  Esc back  q quit".to_owned(),
    };
    frame.render_widget(Paragraph::new(keys), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let (devices, exhausted, rate) = board.totals();
    let at = board
        .at
        .map_or_else(|| "-".to_owned(), crate::ledger::explain::utc);
    let order = if board.reversed { ", reversed" } else { "" };
    let filter = match board.filter.is_empty() {
        true => String::new(),
        false => format!("   only '{}'", board.filter),
    };
    let first = format!(
        "{}   {at}   {devices} devices, {exhausted} exhausted   {}/s   by {}{order}{filter}",
        board.fleets,
        human(Octets(rate)),
        board.sort.name(),
    );
    let lines = vec![TextLine::from(first), TextLine::from(board.said.as_str())];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let head = [
        ("DEVICE", false),
        ("FLEET", false),
        ("STATE", false),
        ("USED", true),
        ("RATE", true),
        ("REMAINING", true),
        ("BACKLOG", true),
        ("LINK", false),
        ("LAST SEEN", true),
    ];
    let widths = [
        Constraint::Min(12),
        Constraint::Min(8),
        Constraint::Length(14),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(10),
    ];
    let cell = |text: String, right: bool| {
        let alignment = if right {
            Alignment::Right
        } else {
            Alignment::Left
        };
        Text::from(text).alignment(alignment)
    };
    let shown = board.shown();
    let rows = shown.iter().map(|line| {
        let cells = cells(line, board);
        let cells = cells
            .into_iter()
            .zip(head)
            .map(|(text, (_, right))| cell(text, right));
        Row::new(cells).style(Style::new().fg(colour(line)))
    });
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let names = head.map(|(name, right)| cell(name.to_owned(), right));
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(bold))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(match shown.is_empty() {
        true => None,
        false => Some(board.selected.min(shown.len().saturating_sub(1))),
    });
    frame.render_stateful_widget(table, area, &mut state);
}

fn colour(line: &Line) -> Color {
    match line.state.as_str() {
        "exhausted" | "shut-out" => Color::Red,
        "suspended" | "decommissioned" => Color::Yellow,
        _ => Color::Reset,
    }
}

fn cells(line: &Line, board: &Board) -> [String; 9] {
    let none = || "-".to_owned();
    let ago = match (line.seen, board.at) {
        (Some(seen), Some(at)) => ago(at.value().saturating_sub(seen.value()) / 1000),
        _ => none(),
    };
    [
        line.device.clone(),
        line.fleet.clone(),
        line.state.clone(),
        human(Octets(line.charged)),
        line.rate
            .map_or_else(none, |rate| format!("{}/s", human(Octets(rate)))),
        human(Octets(line.remaining)),
        line.backlog
            .map_or_else(none, |backlog| backlog.to_string()),
        match line.online {
            Some(true) => "online".to_owned(),
            Some(false) => "offline".to_owned(),
            None => none(),
        },
        ago,
    ]
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn draw_lines<'a>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: String,
    lines: impl Iterator<Item = &'a String>,
) {
    let most = usize::from(area.height);
    let lines: Vec<TextLine<'_>> = lines
        .take(most)
        .map(|line| TextLine::from(line.as_str()))
        .collect();
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(title)),
        area,
    );
}
