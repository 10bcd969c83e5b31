//! How long it takes from the commit in one service to the commit of what the other made of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cqrs::{Context, EventHandler, Result};

use crate::domain::Projected;

/// Knows the events by the line of the command that said them: the number travels as the correlation id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopwatch(Arc<Mutex<Times>>);

#[derive(Debug, Default)]
struct Times {
    /// The instant of the first of the two commits that is known. Of what an earlier process committed the other one never
    /// will be.
    open: HashMap<u64, Instant>,
    micros: Vec<u32>,
}

impl Stopwatch {
    /// The command of this line is committed.
    pub(crate) fn committed(&self, line: u64) {
        let now = Instant::now();
        let mut times = self.lock();
        match times.open.remove(&line) {
            // The other service was quicker than the answer to the command.
            Some(_) => times.micros.push(0),
            None => drop(times.open.insert(line, now)),
        }
    }

    fn handled(&self, line: u64) {
        let now = Instant::now();
        let mut times = self.lock();
        match times.open.remove(&line) {
            Some(committed) => times.micros.push(micros(now - committed)),
            None => drop(times.open.insert(line, now)),
        }
    }

    /// The median and the 99th percentile, of how many; `None` if nothing was measured.
    pub(crate) fn percentiles(&self) -> Option<(Duration, Duration, usize)> {
        let mut times = self.lock();
        times.micros.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.micros.len() * percent).div_ceil(100).max(1) - 1;
            times.micros.get(rank).map(|micros| Duration::from_micros(u64::from(*micros)))
        };
        Some((at(50)?, at(99)?, times.micros.len()))
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventHandler<Projected> for Stopwatch {
    async fn handle(&self, _event: &Projected, cx: &Context<'_>) -> Result<()> {
        let line = cx.correlation().correlation_id.and_then(|id| id.parse().ok());
        if let Some(line) = line {
            self.handled(line);
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
