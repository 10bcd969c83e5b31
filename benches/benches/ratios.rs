//! What it costs to reach a handler, in ratios to the reference; see the README of this package.
//!
//! All take turns, in short rounds, and the tenth percentile of each counts: what else the machine does falls on all
//! of them, and mostly out of the result.
#![allow(clippy::print_stdout, clippy::expect_used)]

use cqrs_benches::{Case, at_once, cases, received};

const ROUNDS: usize = 500;
const TIMES: u64 = 20_000;

fn main() {
    compare(&cases().expect("the maps are right"));
    println!("\nan event of 300 bytes of JSON that was received");
    compare(&received().expect("the map is right"));
    println!("\neight tasks on two threads; the time is that of all of them, for each call");
    compare(&at_once(8).expect("the maps are right"));
}

/// The second is the reference.
fn compare(cases: &[Case]) {
    let mut rounds = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for (case, rounds) in cases.iter().zip(&mut rounds) {
            rounds.push((case.time)(TIMES));
        }
    }
    let nanos: Vec<f64> = rounds
        .iter_mut()
        .map(|rounds| {
            rounds.sort_unstable();
            rounds[ROUNDS / 10].as_secs_f64() * 1e9 / TIMES as f64
        })
        .collect();
    for (case, nanos_of_case) in cases.iter().zip(&nanos) {
        println!("{:32} {:7.1} ns {:6.2} x", case.name, nanos_of_case, nanos_of_case / nanos[1]);
    }
}
