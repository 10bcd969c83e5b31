use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// How long to wait before connecting again: twice as long each time, until something succeeds.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(LONGEST);
        delay
    }

    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_limit_and_begins_again() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(), FIRST);
        assert_eq!(backoff.next(), FIRST * 2);
        assert_eq!((0..20).map(|_| backoff.next()).last(), Some(LONGEST));
        backoff.reset();
        assert_eq!(backoff.next(), FIRST);
    }
}
