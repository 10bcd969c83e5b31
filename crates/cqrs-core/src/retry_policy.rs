//! How often something is tried again.

use std::time::Duration;

/// How often something is tried, and how long it waits in between: a request by [`Retry`](crate::Retry), a message by a consumer.
///
/// Behind the n-th failure it waits `first_delay * factor^(n - 1)`, at most `max_delay`; of that, a random
/// part of up to `jitter` is left out, so that what failed together does not come back together.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::RetryPolicy;
///
/// let patient = RetryPolicy::default().with_max_attempts(30).with_max_delay(Duration::from_secs(120));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    first_delay: Duration,
    factor: f64,
    max_delay: Duration,
    jitter: f64,
    max_attempts: u32,
}

impl Default for RetryPolicy {
    /// 10 attempts; 100 ms behind the first failure, twice as much behind each further one, at most 30 s; a jitter of
    /// one half. The waits take between 26 s and 51 s together.
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(100),
            factor: 2.0,
            max_delay: Duration::from_secs(30),
            jitter: 0.5,
            max_attempts: 10,
        }
    }
}

impl RetryPolicy {
    /// Sets the wait behind the first failure; more than zero. Default 100 ms.
    #[must_use]
    pub fn with_first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Sets by how much the wait grows with each failure; at least 1, which is no growth. Default 2.
    #[must_use]
    pub fn with_factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// Sets the longest wait; more than zero. Default 30 s.
    #[must_use]
    pub fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets the part of each wait that chance may take away: 0 for none, 1 for all of it. Default 0.5.
    #[must_use]
    pub fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets how often it is tried in this process, the first time included; at least 1. Default 10.
    ///
    /// For a message the count begins again when it is delivered again, after a restart for one.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How often it is tried, the first time included.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The wait behind the n-th failure, where `random` is in `0.0..1.0`.
    pub(crate) fn delay(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let full = self.first_delay.as_secs_f64() * self.factor.powi(exponent);
        let full = full.min(self.max_delay.as_secs_f64());
        Duration::try_from_secs_f64(full * (1.0 - self.jitter * random)).unwrap_or(self.max_delay)
    }

    /// The wait behind the n-th failure, by chance.
    pub fn random_delay(&self, failures: u32) -> Duration {
        self.delay(failures, rand::random())
    }

    /// What is wrong with it: one text for each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let zero = |which: &str, delay: Duration| {
            delay.is_zero().then(|| {
                format!("the {which} delay between retries is zero, and they would come without a pause: raise `with_{which}_delay`")
            })
        };
        [
            zero("first", self.first_delay),
            zero("max", self.max_delay),
            (!self.factor.is_finite() || self.factor < 1.0)
                .then(|| format!("the retry factor is {}: set `with_factor` to a number of at least 1", self.factor)),
            (!(0.0..=1.0).contains(&self.jitter))
                .then(|| format!("the retry jitter is {}: set `with_jitter` to one between 0 and 1", self.jitter)),
            (self.max_attempts == 0).then(|| {
                "the number of attempts is 0, and the first one counts: raise `with_max_attempts` to 1 at least".to_owned()
            }),
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
            .with_first_delay(Duration::from_millis(100))
            .with_factor(3.0)
            .with_max_delay(Duration::from_secs(2))
            .with_jitter(0.5)
    }

    #[test]
    fn grows_by_the_factor_up_to_the_maximum() {
        let delays: Vec<_> = (1..=5).map(|failures| policy().delay(failures, 0.0).as_millis()).collect();
        assert_eq!(delays, [100, 300, 900, 2000, 2000]);
    }

    #[test]
    fn jitter_takes_its_part_away_and_never_adds() {
        assert_eq!(policy().delay(1, 0.5), Duration::from_millis(75));
        assert_eq!(policy().delay(9, 0.5), Duration::from_millis(1500));
        assert_eq!(policy().with_jitter(0.0).delay(2, 0.9), Duration::from_millis(300));
    }

    #[test]
    fn random_delays_lie_between_their_bounds_and_differ() {
        let delays: Vec<_> = (0..200).map(|_| policy().random_delay(2)).collect();
        assert!(delays.iter().all(|d| (Duration::from_millis(150)..=Duration::from_millis(300)).contains(d)));
        assert!(delays.iter().any(|delay| delay != &delays[0]));
    }

    #[test]
    fn failures_without_end_stay_at_the_maximum() {
        assert_eq!(policy().with_jitter(0.0).delay(u32::MAX, 0.3), Duration::from_secs(2));
        assert_eq!(
            RetryPolicy::default().with_max_delay(Duration::MAX).with_jitter(0.0).delay(u32::MAX, 0.0),
            Duration::MAX
        );
    }

    #[test]
    fn says_everything_that_is_wrong() {
        assert_eq!(RetryPolicy::default().problems().count(), 0);
        let wrong = RetryPolicy::default()
            .with_first_delay(Duration::ZERO)
            .with_factor(f64::NAN)
            .with_jitter(1.5)
            .with_max_attempts(0);
        let text = |policy: RetryPolicy| policy.problems().collect::<Vec<_>>().join("\n");
        let problems = text(wrong);
        assert_eq!(problems.lines().count(), 4, "{problems}");
        for setting in ["with_first_delay", "with_factor", "with_jitter", "with_max_attempts"] {
            assert!(problems.contains(setting), "{setting}: {problems}");
        }
        assert_eq!(
            text(RetryPolicy::default().with_max_delay(Duration::ZERO)),
            "the max delay between retries is zero, and they would come without a pause: raise `with_max_delay`"
        );
    }
}
