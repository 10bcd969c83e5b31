//! How often each of them allocates for one send, a line each. `ratios` asks this program: an allocator that counts
//! takes its time, and must not be there while others are timed.

use std::error::Error;

use allocation_counter::measure;
use cqrs_dispatch_peers::{Case, cases};

const SENDS: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    for mut case in cases()? {
        if !case.counted {
            println!("not counted");
            continue;
        }
        // Whatever grows with the first sends has grown then.
        (case.time)(SENDS);
        // Both have what is made once for a round.
        let counted = count(&mut case, 1 + SENDS) - count(&mut case, 1);
        println!("{:.1}", counted as f64 / SENDS as f64);
    }
    Ok(())
}

/// On this thread alone.
fn count(case: &mut Case, times: u64) -> u64 {
    measure(|| {
        (case.time)(times);
    })
    .count_total
}
