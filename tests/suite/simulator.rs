//! The simulator over fixed seeds, and the proof that it would find what it is there to find.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;

use simquota_tests::sim::{Mutant, Outcome, Size, Story, many, run};

/// Small worlds: two days, three devices.
const SMALL: Size = Size {
    devices: 3,
    days: 2,
    sample_s: 600,
};

fn play(seed: u64, mutant: Option<Mutant>) -> Outcome {
    run(seed, SMALL, mutant, Story::default(), false)
}

/// Runs so many seeds; one that fails.
fn first_failure(seeds: u64) -> Option<(u64, String)> {
    let done = AtomicU64::new(0);
    let (seed, outcome) = many(0..seeds, SMALL, None, None, &done).failed?;
    Some((seed, outcome.failure?.what))
}

#[test]
fn every_rule_holds_over_150_seeds() {
    if let Some((seed, what)) = first_failure(150) {
        panic!(
            "seed {seed}: {what}\nsee it: cargo simulate -- --seed {seed} --devices 3 --days 2 --events 400"
        );
    }
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for seed in [3, 17, 42] {
        let (one, two) = (play(seed, None), play(seed, None));
        assert!(
            one.figures.events > 1000,
            "seed {seed} is a world in which something happens"
        );
        assert_eq!(one.figures, two.figures, "seed {seed}");
    }
}

#[test]
fn a_seed_tells_the_same_story_on_every_machine() {
    let size = Size {
        devices: 1,
        days: 1,
        sample_s: 600,
    };
    let outcome = run(7, size, None, Story::last(100_000), false);
    let mut told = String::new();
    for line in outcome.story.lines().take(80) {
        let _ = writeln!(told, "{line}");
    }
    let _ = writeln!(told, "…\ndigest {:016x}", outcome.figures.digest);
    insta::assert_snapshot!(told);
}

#[test]
fn every_broken_variant_is_found_in_the_seed_named_for_it() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        let seed = mutant.seed();
        match play(seed, Some(*mutant)).failure {
            Some(failure) => println!("{}: seed {seed}: {}", mutant.name(), failure.what),
            None => missed.push(mutant.name()),
        }
        // The same world without the defect is sound: it is the defect that was found.
        assert_eq!(
            play(seed, None).failure,
            None,
            "seed {seed} without a defect"
        );
    }
    assert!(missed.is_empty(), "not found in their seeds: {missed:?}");
}
