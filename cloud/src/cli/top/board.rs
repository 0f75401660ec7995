//! What `top` shows, and what its keys do. Pure.

use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::UnixMillis;

use crate::cli::show;

/// Alerts that are kept.
const ALERTS_MAX: usize = 100;

/// By what devices stand in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Rate,
    Used,
    Remaining,
    State,
    Backlog,
    Seen,
    Name,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Used => "used",
            Self::Remaining => "remaining",
            Self::State => "state",
            Self::Backlog => "backlog",
            Self::Seen => "last seen",
            Self::Name => "name",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Used,
            Self::Used => Self::Remaining,
            Self::Remaining => Self::State,
            Self::State => Self::Backlog,
            Self::Backlog => Self::Seen,
            Self::Seen => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// A device's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) device: String,
    pub(super) fleet: String,
    pub(super) state: String,
    pub(super) charged: u64,
    pub(super) remaining: u64,
    /// Octets a second, between the last two answers.
    pub(super) rate: Option<u64>,
    pub(super) online: Option<bool>,
    pub(super) backlog: Option<u64>,
    pub(super) seen: Option<UnixMillis>,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    End,
    Detail(DeviceId),
}

/// All of it.
pub(super) struct Board {
    pub(super) fleets: String,
    pub(super) at: Option<UnixMillis>,
    lines: Vec<Line>,
    /// What was charged, and when that was asked.
    before: BTreeMap<String, (u64, UnixMillis)>,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) selected: usize,
    pub(super) detail: Option<(String, Vec<String>)>,
    pub(super) alerts: VecDeque<String>,
    pub(super) said: String,
}

impl Board {
    pub(super) fn new(fleets: &[FleetId]) -> Self {
        let names: Vec<&str> = fleets.iter().map(FleetId::as_str).collect();
        Self {
            fleets: names.join(", "),
            at: None,
            lines: Vec::new(),
            before: BTreeMap::new(),
            sort: Sort::Used,
            reversed: false,
            filter: String::new(),
            typing: false,
            selected: 0,
            detail: None,
            alerts: VecDeque::new(),
            said: String::new(),
        }
    }

    /// The service's answer: all devices anew.
    pub(super) fn devices(&mut self, at: UnixMillis, rows: &[Value]) {
        self.lines = rows.iter().map(|row| self.line(at, row)).collect();
        self.before = self
            .lines
            .iter()
            .map(|line| (line.device.clone(), (line.charged, at)))
            .collect();
        self.at = Some(at);
    }

    fn line(&self, at: UnixMillis, row: &Value) -> Line {
        let number = |name| show::number(show::field(row, name));
        let device = show::text(row, "device");
        let charged = number("charged").unwrap_or(0);
        let rate = self.before.get(&device).and_then(|(before, asked)| {
            let ms = at.value().checked_sub(asked.value()).filter(|ms| *ms > 0)?;
            charged
                .checked_sub(*before)?
                .checked_mul(1000)?
                .checked_div(ms)
        });
        Line {
            fleet: show::text(row, "fleet"),
            state: show::text(row, "state"),
            charged,
            remaining: number("remaining").unwrap_or(0),
            rate,
            online: match show::field(row, "online") {
                Value::Bool(online) => Some(*online),
                _ => None,
            },
            backlog: number("backlog"),
            seen: number("seen").map(UnixMillis),
            device,
        }
    }

    /// The lines that the filter lets through, in order.
    pub(super) fn shown(&self) -> Vec<&Line> {
        let fits = |line: &&Line| {
            line.device.contains(&self.filter)
                || line.state.contains(&self.filter)
                || line.fleet.contains(&self.filter)
        };
        let mut shown: Vec<&Line> = self.lines.iter().filter(fits).collect();
        shown.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Rate => b.rate.cmp(&a.rate),
                Sort::Used => b.charged.cmp(&a.charged),
                Sort::Remaining => a.remaining.cmp(&b.remaining),
                Sort::State => a.state.cmp(&b.state),
                Sort::Backlog => b.backlog.cmp(&a.backlog),
                Sort::Seen => b.seen.cmp(&a.seen),
                Sort::Name => a.device.cmp(&b.device),
            };
            let order = if self.reversed {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| a.device.cmp(&b.device))
        });
        shown
    }

    /// Devices, those that are cut off, octets a second of all.
    pub(super) fn totals(&self) -> (usize, usize, u64) {
        let cut = self.lines.iter().filter(|line| line.state == "exhausted");
        let rates = self.lines.iter().filter_map(|line| line.rate);
        (
            self.lines.len(),
            cut.count(),
            rates.fold(0, u64::saturating_add),
        )
    }

    pub(super) fn alert(&mut self, words: String) {
        self.alerts.push_front(words);
        self.alerts.truncate(ALERTS_MAX);
    }

    pub(super) fn figures(&mut self, words: String) {
        self.said = words;
    }

    pub(super) fn failed(&mut self, words: String) {
        self.said = words;
    }

    pub(super) fn detail(&mut self, device: &DeviceId, lines: Vec<String>) {
        if let Some((shown, _)) = &self.detail
            && shown == device.as_str()
        {
            self.detail = Some((device.to_string(), lines));
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Wish::End;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            self.selected = 0;
            return Wish::Nothing;
        }
        let last = self.shown().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Wish::End,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected = self.selected.saturating_add(1).min(last);
            }
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Esc if self.detail.is_some() => self.detail = None,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter => {
                let device = self
                    .shown()
                    .get(self.selected)
                    .map(|line| line.device.clone());
                if let Some(name) = device
                    && let Ok(device) = name.parse()
                {
                    self.detail = Some((name, vec!["asking …".to_owned()]));
                    return Wish::Detail(device);
                }
            }
            _ => {}
        }
        Wish::Nothing
    }
}
