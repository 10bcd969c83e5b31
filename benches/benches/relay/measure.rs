//! Time and processor time of this process.

use std::time::Instant;

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Events a second.
    pub(crate) rate: f64,
    /// Clock ticks of the processor for an event, of this process: clients, not servers.
    pub(crate) cpu: f64,
}

pub(crate) struct Cost {
    began: Instant,
    ticks: u64,
}

impl Cost {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), ticks: ticks() }
    }

    pub(crate) fn stop(self, events: u64) -> Measured {
        let seconds = self.began.elapsed().as_secs_f64();
        Measured { rate: events as f64 / seconds, cpu: (ticks() - self.ticks) as f64 / events as f64 }
    }
}

/// User and system time, all threads: fields 14 and 15 of proc(5).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, after_name) = stat.rsplit_once(')').expect("a name");
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

pub(crate) fn median(mut all: Vec<Measured>) -> Measured {
    all.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    all[all.len() / 2]
}
