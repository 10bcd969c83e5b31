//! How many instructions it takes to reach a handler, counted by Valgrind: exact, whatever else the machine does.
//!
//! Each case runs in a process of its own, twice: what the second, longer run has more is that many calls.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::env;
use std::process::Command;

use cqrs_benches::cases;

const TIMES: u64 = 10_000;

fn main() {
    let cases = cases().expect("the maps are right");
    if let Ok(number) = env::var("CQRS_BENCH_CASE") {
        let times = env::var("CQRS_BENCH_TIMES").expect("it is given with the case");
        let number: usize = number.parse().expect("a number");
        (cases[number].time)(times.parse().expect("a number"));
        return;
    }
    for (number, case) in cases.iter().enumerate() {
        match (count(number, TIMES), count(number, 2 * TIMES)) {
            (Some(once), Some(twice)) => println!("{:32} {:7}", case.name, (twice - once) / TIMES),
            _ => {
                println!("Valgrind is not there, or does not run: install it (`apt-get install valgrind`)");
                return;
            }
        }
    }
}

/// The instructions of a run.
fn count(case: usize, times: u64) -> Option<u64> {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().ok()?)
        .env("CQRS_BENCH_CASE", case.to_string())
        .env("CQRS_BENCH_TIMES", times.to_string())
        .output()
        .ok()?;
    let said = String::from_utf8(ran.stderr).ok()?;
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}
