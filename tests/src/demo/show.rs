//! What is on the screen: a table that is drawn again and again, with the story running by above it. Where there is
//! no terminal: the story, and a line of figures every few seconds.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use simquota_shared::units::{Octets, human};

use super::agent::Agent;
use super::plan::METER;
use super::story::Event;

const DRAW_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(3);
/// Where the terminal does not say.
const SIZE: (usize, usize) = (100, 40);
/// Lines of the drawing that are no device: headline, heading, sum, and room for the story.
const OTHER_LINES: usize = 8;
const BAR: usize = 12;

/// The screen.
pub(super) struct Show {
    terminal: bool,
    colour: bool,
    began: Option<Instant>,
    seconds: u64,
    headline: String,
    drawn: usize,
    last: Option<Instant>,
}

impl Show {
    pub(super) fn new(seconds: u64) -> Show {
        let terminal = std::io::stdout().is_terminal();
        Show {
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            began: None,
            seconds,
            headline: String::new(),
            drawn: 0,
            last: None,
        }
    }

    /// The story's clock starts.
    pub(super) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    pub(super) const fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Since the story's clock started.
    pub(super) fn passed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn clock(&self) -> String {
        match self.began {
            Some(began) => format!("{:5.1} s", began.elapsed().as_secs_f64()),
            None => "      -".to_owned(),
        }
    }

    /// What happens now.
    pub(super) fn headline(&mut self, what: &str) {
        what.clone_into(&mut self.headline);
        let line = format!("{}  == {what}", self.clock());
        self.stay(&[line]);
    }

    /// Tells events. They stay on the screen.
    pub(super) fn tell(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let lines: Vec<String> = events
            .iter()
            .map(|Event { steps, who, words }| {
                format!("{}  {steps:<11} {who:<11} {words}", self.clock())
            })
            .collect();
        self.stay(&lines);
    }

    fn stay(&mut self, lines: &[String]) {
        let mut text = self.erased();
        let width = self.size().0;
        for line in lines {
            // A line that wraps would be counted wrongly when the table is taken away.
            match self.terminal {
                true => text.push_str(&clipped(line, width)),
                false => text.push_str(line),
            }
            text.push('\n');
        }
        say(&text);
        if self.terminal {
            self.last = None;
        }
    }

    /// Lines that stay.
    pub(super) fn print(&mut self, lines: &str) {
        let erased = self.erased();
        say(&format!("{erased}{lines}"));
    }

    /// Draws, if it is time.
    pub(super) fn draw(&mut self, agents: &[Agent]) {
        let every = if self.terminal {
            DRAW_EVERY
        } else {
            LINE_EVERY
        };
        if self.last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        self.last = Some(Instant::now());
        if self.terminal {
            let mut text = self.erased();
            let table = self.table(agents);
            self.drawn = table.lines().count();
            text.push_str(&table);
            say(&text);
        } else if self.began.is_some() {
            say(&format!("{}     {}\n", self.clock(), figures(agents)));
        }
    }

    /// Takes the table away.
    fn erased(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn size(&self) -> (usize, usize) {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        size.filter(|(columns, rows)| *columns > 0 && *rows > 0)
            .unwrap_or(SIZE)
    }

    fn table(&self, agents: &[Agent]) -> String {
        let (columns, rows) = self.size();
        let fits = rows.saturating_sub(OTHER_LINES).max(3);
        let mut text = String::from("\n");
        let clock = match self.began {
            Some(_) => format!("{:>5.1} of {} s", self.passed().as_secs_f64(), self.seconds),
            None => "getting ready".to_owned(),
        };
        let mut line = |line: &str, colour: &str| {
            let line = clipped(line, columns);
            // Writing to a string does not fail.
            let _ = match self.colour && !colour.is_empty() {
                true => writeln!(text, "\x1b[{colour}m{line}\x1b[0m"),
                false => writeln!(text, "{line}"),
            };
        };
        line(&format!("{clock}   {}", self.headline), "1");
        line(
            &format!(
                "{:<12} {:<12} {:>11} {:>11} {:>11} {:<BAR$} {:>7}  {}",
                "DEVICE", "KIND", "GRANTED TO", "USED", "REMAINING", "", "BACKLOG", "STATE"
            ),
            "2",
        );
        // The first ones and the one on the real interface.
        let hidden = agents.len().saturating_sub(fits);
        for agent in agents.iter().take(agents.len().saturating_sub(hidden + 1)) {
            line(&row(agent), colour(agent.state()));
        }
        if hidden > 0 {
            line(&format!("… {hidden} more, a higher window shows them"), "2");
        }
        for agent in agents.iter().skip(agents.len().saturating_sub(1)) {
            line(&row(agent), colour(agent.state()));
        }
        line(&figures(agents), "2");
        text
    }
}

fn row(agent: &Agent) -> String {
    let status = &agent.status;
    let octets = |octets| human(Octets(octets));
    format!(
        "{:<12} {:<12} {:>11} {:>11} {:>11} {:<BAR$} {:>7}  {}",
        agent.planned.id,
        agent.planned.kind.name(),
        octets(status.ceiling),
        octets(status.used),
        octets(status.remaining),
        bar(status.remaining, agent.planned.want),
        status.backlog,
        agent.state(),
    )
}

/// How much of a usual grant is left.
fn bar(remaining: u64, want: u64) -> String {
    let eighths = (remaining.min(want) * 8 * BAR as u64)
        .checked_div(want)
        .unwrap_or(0);
    let eighths = usize::try_from(eighths).unwrap_or(0);
    let part = match eighths % 8 {
        0 => "",
        1..=3 => "▎",
        4..=5 => "▌",
        _ => "▊",
    };
    "█".repeat(eighths / 8) + part
}

fn colour(state: &str) -> &'static str {
    match state {
        "open" => "32",
        "exhausted" | "suspended" => "33",
        "killed" => "31",
        "off-sim" => "36",
        "stopped" | "idle" => "2",
        _ => "",
    }
}

/// All devices in one line.
fn figures(agents: &[Agent]) -> String {
    let mut states: Vec<(&str, usize)> = Vec::new();
    for agent in agents {
        let state = agent.state();
        match states.iter_mut().find(|(name, _)| *name == state) {
            Some((_, count)) => *count += 1,
            None => states.push((state, 1)),
        }
    }
    let states: Vec<String> = states
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let sum = |of: fn(&Agent) -> u64| -> u64 { agents.iter().map(of).sum() };
    let on_lo = agents.iter().find(|agent| agent.planned.id == METER);
    format!(
        "{}; {} used, {} of it on lo; {} rows not acknowledged",
        states.join(", "),
        human(Octets(sum(|agent| agent.status.used))),
        human(Octets(on_lo.map_or(0, |agent| agent.status.used))),
        sum(|agent| agent.status.backlog),
    )
}

fn clipped(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

/// To stdout, if somebody still reads it.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
