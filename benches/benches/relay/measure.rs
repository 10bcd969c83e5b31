//! Time and processor time of this process.

use std::time::{Duration, Instant};

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) events: u64,
    pub(crate) runs: u64,
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

    /// How much of a core this process has used since: 1.0 is one.
    pub(crate) fn busy(self) -> f64 {
        // A hundred a second, on every Linux that matters: `getconf CLK_TCK`.
        (ticks() - self.ticks) as f64 / 100.0 / self.began.elapsed().as_secs_f64()
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

/// What this process has in memory, in MiB.
pub(crate) fn resident() -> u64 {
    status("VmRSS:")
}

/// The most that it had since [`reset_peak`], in MiB.
pub(crate) fn peak() -> u64 {
    status("VmHWM:")
}

/// See proc(5), `clear_refs`.
pub(crate) fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of proc(5)");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1_024
}

#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[(sorted.len() - 1) * percent / 100]
    }
}
