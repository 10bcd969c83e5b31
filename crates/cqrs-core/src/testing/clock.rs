use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// A clock that stands still until it is told otherwise. All clones are one clock. It begins at 2000-01-01, midnight, unless
/// another time is given.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::testing::FixedClock;
///
/// let clock = FixedClock::default();
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now().to_rfc3339(), "2000-01-01T00:01:30+00:00");
/// ```
#[derive(Clone)]
pub struct FixedClock(Arc<Mutex<DateTime<Utc>>>);

impl FixedClock {
    /// A clock that shows this time.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// What it shows.
    pub fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows this time from now on.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Goes forward by that much. It stops at the last time that can be shown.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let later = TimeDelta::from_std(by).ok().and_then(|by| now.checked_add_signed(by));
        *now = later.unwrap_or(DateTime::<Utc>::MAX_UTC);
    }

    /// For [`Encoder::with_clock`](crate::Encoder::with_clock), and for whatever else asks a function for the time.
    pub fn source(&self) -> impl Fn() -> DateTime<Utc> + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now()
    }
}

impl Default for FixedClock {
    fn default() -> Self {
        /// Seconds from 1970 to 2000.
        const YEAR_2000: i64 = 946_684_800;
        Self::new(DateTime::from_timestamp(YEAR_2000, 0).unwrap_or_default())
    }
}

impl fmt::Debug for FixedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FixedClock").field(&self.now()).finish()
    }
}

/// Ids that are known beforehand: `00000000-0000-0000-0000-000000000001`, then 2, 3 and so on. All clones give them out together.
///
/// ```
/// use cqrs_core::testing::FixedIds;
///
/// let ids = FixedIds::default();
/// assert_eq!(ids.give(), FixedIds::nth(1));
/// assert_eq!(ids.give().to_string(), "00000000-0000-0000-0000-000000000002");
/// ```
#[derive(Clone, Debug, Default)]
pub struct FixedIds(Arc<AtomicU64>);

impl FixedIds {
    /// The id that is given as the `n`th, counted from 1.
    pub fn nth(n: u64) -> Uuid {
        Uuid::from_u128(n.into())
    }

    /// Gives the next one.
    pub fn give(&self) -> Uuid {
        Self::nth(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// For [`Encoder::with_ids`](crate::Encoder::with_ids), and for whatever else asks a function for ids.
    pub fn source(&self) -> impl Fn() -> Uuid + Send + Sync + 'static {
        let ids = self.clone();
        move || ids.give()
    }
}
