//! The engine in a simulated world, where everything goes wrong that can.
//!
//! Each seed is one world: one to three relays, a database, a broker, and writers. For a while relays crash, pause for
//! longer than a lease, stop and start again; calls of the database fail before or after their effect, or take effect
//! long after they were given up; clocks run fast, slow, and jump; the broker is away, loses confirms, delivers late,
//! and refuses topics and events. Then nothing goes wrong any more, everything has to drain, someone replays or discards
//! the dead letters, and the history is judged.
//!
//! - `CQRS_SIM_SEED=17` runs this one seed and traces it (with `--nocapture`).
//! - `CQRS_SIM_SEEDS=500000` runs so many seeds. Default 3,000.

use std::collections::BTreeMap;
use std::thread;

use crate::calls::Mutant;
use crate::world::{Counts, Fault, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

type Found = Vec<(u64, Vec<(Fault, String)>)>;

fn run_all(seeds: impl Iterator<Item = u64>) -> (Counts, Found) {
    let (mut counts, mut broken) = (Counts::default(), Vec::new());
    for seed in seeds {
        let report = run(seed, None, false);
        counts.merge(&report.counts);
        if !report.faults.is_empty() {
            broken.push((seed, report.faults));
        }
    }
    (counts, broken)
}

#[test]
fn promises_hold_whatever_goes_wrong() {
    if let Some(seed) = number("CQRS_SIM_SEED") {
        let report = run(seed, None, true);
        assert!(report.faults.is_empty(), "seed {seed}: {:#?}", report.faults);
        return;
    }
    let seeds = number("CQRS_SIM_SEEDS").unwrap_or(3_000);
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let mut counts = Counts::default();
    let mut broken = Vec::new();
    thread::scope(|scope| {
        let halves: Vec<_> = (0..threads)
            .map(|nth| scope.spawn(move || run_all((nth..seeds).step_by(threads as usize))))
            .collect();
        for half in halves {
            let (counted, found) = half.join().unwrap();
            counts.merge(&counted);
            broken.extend(found);
        }
    });
    broken.sort_by_key(|(seed, _)| *seed);
    println!("{seeds} seeds: {:?}", counts.0);
    let mut kinds = BTreeMap::<Fault, Vec<u64>>::new();
    for (seed, faults) in &broken {
        kinds.entry(faults[0].0).or_default().push(*seed);
    }
    assert!(
        broken.is_empty(),
        "{} of {seeds} seeds broke a promise; CQRS_SIM_SEED={} traces the first: {:#?}\nthe first fault of each: {kinds:?}",
        broken.len(),
        broken[0].0,
        &broken[..broken.len().min(3)]
    );
    let of = |what: &str| counts.0.get(what).copied().unwrap_or(0);
    assert!(of("convicted in error") < of("convicted"), "{:?}", counts.0);
    // A simulation in which nothing happens proves nothing.
    for what in [
        "clock jumps",
        "convicted",
        "crashes",
        "database down",
        "dead letters",
        "delivered",
        "destination errors",
        "discarded",
        "duplicates",
        "event errors",
        "fenced",
        "followed",
        "gates kept",
        "gates opened",
        "given up",
        "in a session",
        "killed by an event",
        "lost confirms",
        "outage errors",
        "pauses",
        "put off",
        "replayed",
        "sessions that ended",
        "set aside",
        "stops",
        "taken over",
        "taken over in flight",
        "together",
        "unknown",
    ] {
        assert!(counts.0.contains_key(what), "nothing of this happened: {what}; {:?}", counts.0);
    }
}

#[test]
fn a_seed_is_one_world() {
    let (first, second) = (run(4, None, false), run(4, None, false));
    assert_eq!(first.counts.0, second.counts.0);
    // What was delivered, and in which order.
    assert_eq!(format!("{:?}", first.history), format!("{:?}", second.history));
}

/// Runs seeds until the world finds one of these faults.
#[track_caller]
fn is_caught(mutant: Mutant, within: u64, expected: &[Fault]) {
    let mut seen = BTreeMap::<Fault, u64>::new();
    for seed in 0..within {
        for (fault, _) in run(seed, Some(mutant), false).faults {
            seen.entry(fault).or_insert(seed);
        }
        if expected.iter().any(|fault| seen.contains_key(fault)) {
            println!("{mutant:?}: {seen:?} (fault: first seed)");
            return;
        }
    }
    panic!("{mutant:?} was not caught as {expected:?} within {within} seeds: {seen:?}");
}

#[test]
fn hidden_rows_are_caught() {
    is_caught(Mutant::HiddenRows, 20, &[Fault::OutOfOrder]);
}

#[test]
fn going_on_after_an_unknown_outcome_is_caught() {
    is_caught(Mutant::OnAfterUnknown, 20, &[Fault::Lost]);
}

#[test]
fn settling_a_batch_is_caught() {
    is_caught(Mutant::BatchSettled, 20, &[Fault::Lost]);
}

#[test]
fn negative_outcomes_without_a_fence_are_caught() {
    is_caught(Mutant::Unfenced, 60, &[Fault::ChangedByFormerOwner]);
}

#[test]
fn a_cursor_is_caught() {
    is_caught(Mutant::Cursor, 20, &[Fault::NotDrained]);
}

#[test]
fn an_ignored_gate_is_caught() {
    is_caught(Mutant::GateIgnored, 40, &[Fault::OutOfOrder]);
}

#[test]
fn a_session_that_goes_on_after_a_loss_is_caught() {
    is_caught(Mutant::SessionGoesOn, 400, &[Fault::OutOfOrder]);
}

#[test]
fn a_session_with_gaps_is_caught() {
    is_caught(Mutant::SessionHasGaps, 60, &[Fault::OutOfOrder]);
}
