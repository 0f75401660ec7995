#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tempfile::TempDir;

use super::*;

const CSV: &str =
    "seconds,up,down\n0.000,0,0\n1.000,10,100\n2.500,0,1000\n2.500,7,0\n10.000,333,667\n";
const SUM: (u64, u64) = (350, 1767);

struct Bench {
    dir: TempDir,
    speed: u32,
    repeat: bool,
}

impl Bench {
    fn new(csv: &str, speed: u32, repeat: bool) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.csv"), csv).unwrap();
        Bench { dir, speed, repeat }
    }

    fn try_open(&self) -> Result<TraceSource, TraceError> {
        TraceSource::open(&TraceOptions {
            trace: self.dir.path().join("t.csv"),
            state: self.dir.path().join("trace.state"),
            speed: self.speed,
            repeat: self.repeat,
        })
    }

    fn open(&self) -> TraceSource {
        self.try_open().unwrap()
    }
}

fn at(source: &mut TraceSource, now_ms: u64) -> (u64, u64) {
    let reading = source.read(now_ms).unwrap();
    (reading.up, reading.down)
}

#[test]
fn lines_arrive_at_their_time_and_the_end_is_known() {
    let mut source = Bench::new(CSV, 1, false).open();
    // Time counts from the first reading, whatever the clock shows then.
    let start = 5_000_000;
    assert_eq!(at(&mut source, start), (0, 0));
    assert_eq!(at(&mut source, start + 999), (0, 0));
    assert_eq!(at(&mut source, start + 1000), (10, 100));
    assert_eq!(at(&mut source, start + 2499), (10, 100));
    assert_eq!(at(&mut source, start + 2500), (17, 1100));
    assert!(!source.finished());
    assert_eq!(at(&mut source, start + 60_000), SUM);
    assert!(source.finished());
    assert_eq!(at(&mut source, start + 120_000), SUM);
}

#[test]
fn speed_multiplies_time() {
    let mut source = Bench::new(CSV, 60, false).open();
    at(&mut source, 0);
    assert_eq!(at(&mut source, 16), (0, 0)); // 0.96 s
    assert_eq!(at(&mut source, 17), (10, 100)); // 1.02 s
    assert_eq!(at(&mut source, 167), SUM); // 10.02 s
}

#[test]
fn totals_do_not_depend_on_how_often_it_is_read() {
    let mut often = Bench::new(CSV, 3, true).open();
    let mut seldom = Bench::new(CSV, 3, true).open();
    at(&mut often, 0);
    at(&mut seldom, 0);
    for now in 1..=40_000 {
        let fine = at(&mut often, now);
        if now % 7919 == 0 {
            assert_eq!(at(&mut seldom, now), fine, "at {now} ms");
        }
    }
}

#[test]
fn a_repeated_trace_begins_again_and_is_never_finished() {
    let mut source = Bench::new(CSV, 1, true).open();
    at(&mut source, 0);
    assert_eq!(at(&mut source, 10_000), SUM);
    assert_eq!(at(&mut source, 11_000), (SUM.0 + 10, SUM.1 + 100));
    assert_eq!(at(&mut source, 50_000), (SUM.0 * 5, SUM.1 * 5));
    assert!(!source.finished());
}

#[test]
fn at_the_limit_traffic_waits_and_nothing_is_lost() {
    let mut source = Bench::new(CSV, 1, false).open();
    source.limit(Some(0));
    at(&mut source, 0);
    assert!(!source.blocked(), "nothing is due yet");
    // Shut: time stops at the first line that has octets, at 1 s.
    assert_eq!(at(&mut source, 100_000), (0, 0));
    assert!(source.blocked());
    source.limit(Some(50));
    // 50 of the line's 110 octets: 50 * 10 / 110 = 4 up, the rest down.
    assert_eq!(at(&mut source, 100_000), (4, 46));
    assert_eq!(at(&mut source, 200_000), (4, 46));
    source.limit(None);
    assert_eq!(at(&mut source, 200_000), (10, 100));
    assert!(!source.blocked());
    // The waiting did not count: the next line is 1.5 s after the first.
    assert_eq!(at(&mut source, 201_499), (10, 100));
    assert_eq!(at(&mut source, 201_500), (17, 1100));
    assert_eq!(at(&mut source, 300_000), SUM);
    assert!(source.finished());
}

#[test]
fn a_limit_below_the_counter_shuts_and_takes_nothing_back() {
    let mut source = Bench::new(CSV, 1, false).open();
    at(&mut source, 0);
    assert_eq!(at(&mut source, 1000), (10, 100));
    source.limit(Some(5));
    assert_eq!(at(&mut source, 60_000), (10, 100));
    assert!(!source.finished());
}

#[test]
fn raised_octet_by_octet_the_limit_is_met_exactly_and_the_sum_is_exact() {
    let mut source = Bench::new(CSV, 1000, false).open();
    source.limit(Some(0));
    let mut now = 0;
    at(&mut source, now);
    for limit in 1..=SUM.0 + SUM.1 {
        source.limit(Some(limit));
        now += 20;
        let (up, down) = at(&mut source, now);
        assert_eq!(up + down, limit);
    }
    assert_eq!(at(&mut source, now), SUM);
    assert!(source.finished());
}

#[test]
fn the_counter_survives_a_kill_at_every_reading() {
    // The witness is never killed.
    let mut witness = Bench::new(CSV, 1, true).open();
    at(&mut witness, 0);
    let bench = Bench::new(CSV, 1, true);
    let identity = bench.open().read(0).unwrap().identity;
    assert!(identity.boot_id.starts_with("trace:"), "{identity:?}");
    for round in 0..300 {
        // A new process on a machine whose clock is anywhere; nothing was closed before.
        let mut source = bench.open();
        let start = 1_000_000 * (300 - round);
        let resumed = at(&mut source, start);
        assert_eq!(
            resumed,
            at(&mut witness, round * 137),
            "lost or doubled at start"
        );
        assert_eq!(source.read(start + 137).unwrap().identity, identity);
        assert_eq!(
            at(&mut source, start + 137),
            at(&mut witness, (round + 1) * 137)
        );
    }
}

#[test]
fn a_kill_in_the_middle_of_a_line_keeps_its_delivered_part() {
    let bench = Bench::new(CSV, 1, false);
    let mut source = bench.open();
    source.limit(Some(600));
    at(&mut source, 0);
    let (up, down) = at(&mut source, 60_000);
    assert_eq!(up + down, 600);
    drop(source);
    let mut source = bench.open();
    source.limit(Some(600));
    assert_eq!(at(&mut source, 9), (up, down));
    source.limit(None);
    assert_eq!(at(&mut source, 60_009), SUM);
}

#[test]
fn another_state_file_is_another_identity() {
    let one = Bench::new(CSV, 1, false).open().read(0).unwrap().identity;
    let two = Bench::new(CSV, 1, false).open().read(0).unwrap().identity;
    assert_ne!(one, two);
}

#[test]
fn closed_it_repeats_its_last_reading() {
    let mut source = Bench::new(CSV, 1, true).open();
    at(&mut source, 0);
    let last = at(&mut source, 1000);
    source.close();
    assert_eq!(at(&mut source, 100_000), last);
    assert!(source.finished());
}

#[test]
fn a_clock_that_goes_back_or_leaps_does_no_harm() {
    let mut source = Bench::new(CSV, 1, true).open();
    at(&mut source, 10_000);
    assert_eq!(at(&mut source, 5000), (0, 0));
    assert_eq!(at(&mut source, 6000), (10, 100));
    // A leap counts as an hour, 360 rounds.
    let (up, down) = at(&mut source, u64::MAX);
    assert_eq!((up, down), (SUM.0 * 360 + 10, SUM.1 * 360 + 100));
}

#[test]
fn a_counter_near_64_bits_waits_instead_of_wrapping() {
    let mut source = Bench::new("1,18446744073709551000,0\n2,0,600\n", 1, true).open();
    at(&mut source, 0);
    let (up, down) = at(&mut source, 100_000);
    assert_eq!(u128::from(up) + u128::from(down), u128::from(u64::MAX));
    assert_eq!(at(&mut source, 200_000), (up, down));
}

#[test]
fn what_cannot_be_played_is_refused_with_the_reason() {
    let missing = Bench::new(CSV, 1, false);
    std::fs::remove_file(missing.dir.path().join("t.csv")).unwrap();
    for (bench, expected) in [
        (missing, "t.csv"),
        (Bench::new(CSV, 0, false), "speed 0"),
        (Bench::new(CSV, 100_001, false), "speed 100001"),
        (Bench::new("0.5,1,1\n", 1, true), "shorter than a second"),
        (Bench::new("1,1,1\nx,1,1\n", 1, false), "t.csv:2:"),
        (Bench::new("\n", 1, false), "no lines"),
    ] {
        let error = bench.try_open().err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_round_sum_is_what_is_delivered() {
    let source = Bench::new(CSV, 1, false).open();
    assert_eq!(source.round_octets(), SUM.0 + SUM.1);
}
