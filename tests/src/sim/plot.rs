//! One run as a picture: metered, ceiling and charged over time, with the faults marked.

use std::fmt::Write as _;

use super::plan::{DAY, HOUR};

/// Where a device stood at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub(super) at: u64,
    pub(super) device: usize,
    pub(super) epoch: u64,
    pub(super) metered: u64,
    pub(super) ceiling: u64,
    pub(super) charged: u64,
}

/// Something that went wrong.
#[derive(Clone, Debug)]
pub struct Mark {
    pub(super) at: u64,
    pub(super) device: usize,
    pub(super) name: String,
}

/// The course of a run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub(super) points: Vec<Point>,
    pub(super) marks: Vec<Mark>,
}

const WIDTH: u64 = 1200;
const HEIGHT: u64 = 640;
const LEFT: u64 = 90;
const BOTTOM: u64 = 70;
/// Below title and legend: room for the names of the faults, in lanes.
const TOP: u64 = 112;
const LANES: u64 = 4;
const RIGHT: u64 = 30;

impl Trace {
    /// The device with most to see: the one that stood at most different totals.
    #[must_use]
    pub fn busiest(&self) -> usize {
        let devices = self.points.iter().map(|point| point.device).max();
        (0..=devices.unwrap_or(0))
            .max_by_key(|device| {
                let points = self.points.iter().filter(|point| point.device == *device);
                let mut totals: Vec<(u64, u64)> =
                    points.map(|point| (point.epoch, point.metered)).collect();
                totals.dedup();
                (totals.len(), std::cmp::Reverse(*device))
            })
            .unwrap_or(0)
    }

    /// The picture of one device, as SVG.
    #[must_use]
    pub fn svg(&self, device: usize, seed: u64, until_days: u64) -> String {
        let end = until_days.max(1) * DAY;
        let points: Vec<&Point> = self
            .points
            .iter()
            .filter(|point| point.device == device && point.at <= end)
            .collect();
        let top = points
            .iter()
            .map(|point| point.ceiling.max(point.metered))
            .max()
            .unwrap_or(1);
        let step = round_step(top);
        let top = top.div_ceil(step).max(1) * step;
        let x = |at: u64| LEFT + (WIDTH - LEFT - RIGHT) * at.min(end) / end;
        let y = |octets: u64| {
            let room = u128::from(HEIGHT - TOP - BOTTOM);
            HEIGHT - BOTTOM - (room * u128::from(octets.min(top)) / u128::from(top)) as u64
        };
        let mut svg = String::new();
        let _ = write!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui,sans-serif" font-size="14">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fbfaf7"/>
<text x="{LEFT}" y="28" font-size="19" font-weight="600" fill="#1d2733">Device {device}, seed {seed}: used never passes granted, charged follows used</text>
"##
        );
        axes(&mut svg, end, (top, step), &x, &y);
        let marks = self.marks.iter();
        let marks = marks.filter(|mark| mark.device == device && mark.at <= end);
        for (lane, mark) in (0..LANES).cycle().zip(marks) {
            let at = x(mark.at);
            let label = TOP - 6 - 12 * lane;
            // Near the right edge a name stands before its line.
            let (anchor, beside) = match at + 90 > WIDTH {
                true => ("end", at - 3),
                false => ("start", at + 3),
            };
            let _ = writeln!(
                svg,
                r##"<line x1="{at}" x2="{at}" y1="{}" y2="{}" stroke="#c0392b" stroke-width="1" stroke-dasharray="2 4" opacity="0.55"/><text x="{beside}" y="{label}" text-anchor="{anchor}" font-size="11" fill="#c0392b">{}</text>"##,
                label - 8,
                HEIGHT - BOTTOM,
                spaced(&mark.name)
            );
        }
        line(&mut svg, &points, "#b7bfc9", "7 4", |point| {
            (x(point.at), y(point.ceiling))
        });
        line(&mut svg, &points, "#2471a3", "", |point| {
            (x(point.at), y(point.metered))
        });
        line(&mut svg, &points, "#1e8449", "", |point| {
            (x(point.at), y(point.charged))
        });
        for (n, (name, colour)) in [
            ("ceiling (granted)", "#8d98a5"),
            ("metered on the device", "#2471a3"),
            ("charged in the ledger", "#1e8449"),
        ]
        .iter()
        .enumerate()
        {
            let at = LEFT + 230 * n as u64;
            let _ = writeln!(
                svg,
                r##"<line x1="{at}" x2="{}" y1="46" y2="46" stroke="{colour}" stroke-width="3"/><text x="{}" y="51" fill="#1d2733">{name}</text>"##,
                at + 26,
                at + 34
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// A round number of octets between two lines of the grid, of which there are four to eight.
fn round_step(top: u64) -> u64 {
    let mut decade = 1_u64;
    while decade * 100 <= top {
        decade *= 10;
    }
    let steps = [1, 2, 5, 10, 20].map(|factor| decade * factor);
    steps
        .into_iter()
        .find(|step| top.div_ceil(*step) <= 8)
        .unwrap_or(decade * 50)
}

/// `PowerCut` as `power cut`.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn axes(
    svg: &mut String,
    end: u64,
    (top, grid): (u64, u64),
    x: &impl Fn(u64) -> u64,
    y: &impl Fn(u64) -> u64,
) {
    let step = if end <= 2 * DAY { 6 * HOUR } else { 12 * HOUR };
    let mut at = 0;
    while at <= end {
        let _ = writeln!(
            svg,
            r##"<line x1="{0}" x2="{0}" y1="{TOP}" y2="{1}" stroke="#e6e2da"/><text x="{0}" y="{2}" text-anchor="middle" fill="#5d6d7e">d{3} {4:02}h</text>"##,
            x(at),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 22,
            at / DAY,
            at % DAY / HOUR
        );
        at += step;
    }
    for octets in (0..=top).step_by(usize::try_from(grid).unwrap_or(1)) {
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{0}" y1="{1}" y2="{1}" stroke="#e6e2da"/><text x="{2}" y="{3}" text-anchor="end" fill="#5d6d7e">{4}</text>"##,
            WIDTH - RIGHT,
            y(octets),
            LEFT - 8,
            y(octets) + 5,
            simquota_shared::units::human(simquota_shared::units::Octets(octets))
        );
    }
}

/// A step line for each epoch: a new epoch begins at zero.
fn line(
    svg: &mut String,
    points: &[&Point],
    colour: &str,
    dashes: &str,
    place: impl Fn(&Point) -> (u64, u64),
) {
    for course in points.chunk_by(|one, next| one.epoch == next.epoch) {
        let mut path = String::new();
        let mut before: Option<u64> = None;
        for point in course {
            let (x, y) = place(point);
            match before {
                None => {
                    let _ = write!(path, "M{x} {y}");
                }
                Some(_) => {
                    let _ = write!(path, "H{x}V{y}");
                }
            }
            before = Some(y);
        }
        let _ = writeln!(
            svg,
            r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-dasharray="{dashes}" stroke-linejoin="round"/>"##
        );
    }
}
