//! What it costs to reach a handler, here and with the peers, in ratios to the reference; see the README of the
//! benchmarks.
//!
//! As in the `ratios` there, all take turns in short rounds, and the tenth percentile of each counts.

use std::error::Error;
use std::process::Command;

use cqrs_dispatch_peers::cases;

const ROUNDS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let counted = Command::new(env!("CARGO_BIN_EXE_allocations")).output()?;
    if !counted.status.success() {
        return Err(String::from_utf8_lossy(&counted.stderr).into());
    }
    let counted = String::from_utf8(counted.stdout)?;

    let mut cases = cases()?;
    let mut rounds = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for (case, rounds) in cases.iter_mut().zip(&mut rounds) {
            rounds.push((case.time)(case.times));
        }
    }
    let nanos: Vec<f64> = rounds
        .iter_mut()
        .zip(&cases)
        .map(|(rounds, case)| {
            rounds.sort_unstable();
            rounds[ROUNDS / 10].as_secs_f64() * 1e9 / case.times as f64
        })
        .collect();

    println!("| name | version | ns | ratio to the reference | allocations |");
    println!("|---|---|---:|---:|---:|");
    for ((case, nanos_of_case), allocations) in cases.iter().zip(&nanos).zip(counted.lines()) {
        let reference = cases.iter().position(|other| other.name == case.reference);
        let nanos_of_reference = nanos[reference.ok_or("each is compared to one of them")?];
        println!(
            "| {} | {} | {:.1} | {:.2} | {} |",
            case.name,
            case.package.and_then(version).unwrap_or_default(),
            nanos_of_case,
            nanos_of_case / nanos_of_reference,
            allocations.trim_end_matches(".0"),
        );
    }
    Ok(())
}

/// The one that was compiled.
fn version(package: &str) -> Option<&'static str> {
    let (_, found) =
        include_str!("../Cargo.lock").split_once(&format!("name = \"{package}\"\nversion = \""))?;
    found.split('"').next()
}
