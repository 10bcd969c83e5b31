//! One checker for every run: of a model, of a simulation, and on real servers.
//!
//! A run records what it did into a [`History`]: what it committed and rolled back, what was delivered, in the order of
//! delivery, and if wanted what effects that had. At the end [`History::check`] compares both sides.
//!
//! ```
//! use bytes::Bytes;
//! use cqrs_testing::history::History;
//! use uuid::Uuid;
//!
//! let history = History::new();
//! let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
//! history.committed(Bytes::from("room 5"), first, 1);
//! history.committed(Bytes::from("room 5"), second, 2);
//!
//! for event in [first, second, second] {
//!     history.delivered(event, Bytes::from("room 5"));
//! }
//! history.check().assert_clean().assert_duplicates_at_most(1);
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

/// What happened in a run. A clone is the same history; any number of threads may record into it.
///
/// The two sides may be recorded in any order: an event may be delivered before its commit is recorded. What counts is
/// the order of the deliveries of a key among themselves.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    written: BTreeMap<Uuid, Written>,
    deliveries: Vec<Delivered>,
    effects: BTreeMap<Uuid, usize>,
    dead: BTreeSet<Uuid>,
    expects_effects: bool,
}

#[derive(Debug)]
enum Written {
    Committed(Place),
    Perhaps(Place),
    RolledBack,
}

/// An event's key, and its place among the events of the key.
#[derive(Debug)]
struct Place {
    key: Option<Bytes>,
    sequence: u64,
}

#[derive(Debug)]
struct Delivered {
    event: Uuid,
    key: Option<Bytes>,
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The event was committed: it has to be delivered at least once. `sequence` orders the events of the key; an event
    /// without a key (`None::<Bytes>`) has no order.
    pub fn committed(&self, key: impl Into<Option<Bytes>>, event: Uuid, sequence: u64) {
        let place = Place { key: key.into(), sequence };
        self.log().written.insert(event, Written::Committed(place));
    }

    /// It is not known whether the event was committed (the connection broke in the commit, the writer was killed): it
    /// may be delivered or not, but where it is delivered, order holds.
    pub fn perhaps_committed(&self, key: impl Into<Option<Bytes>>, event: Uuid, sequence: u64) {
        let place = Place { key: key.into(), sequence };
        self.log().written.insert(event, Written::Perhaps(place));
    }

    /// The event was rolled back: it must never be delivered.
    pub fn rolled_back(&self, event: Uuid) {
        self.log().written.insert(event, Written::RolledBack);
    }

    /// The event was delivered with this key, after those of its key that were recorded before.
    pub fn delivered(&self, event: Uuid, key: impl Into<Option<Bytes>>) {
        self.log().deliveries.push(Delivered { event, key: key.into() });
    }

    /// The event had its effect: a handler committed what it made of it.
    pub fn handled(&self, event: Uuid) {
        *self.log().effects.entry(event).or_default() += 1;
    }

    /// The event was put among the dead letters: it need not be delivered, and where it is (a replay), it has lost its
    /// place in the order.
    pub fn dead_lettered(&self, event: Uuid) {
        self.log().dead.insert(event);
    }

    /// From now on every committed event that is not a dead letter needs an effect, too. Without it a run may record
    /// no effects, or only some.
    pub fn expect_effects(&self) {
        self.log().expects_effects = true;
    }

    /// Judges what was recorded so far.
    pub fn check(&self) -> Verdict {
        self.log().check()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn check(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut times: HashMap<Uuid, usize> = HashMap::new();
        // The furthest first delivery of each key.
        let mut furthest: HashMap<&Bytes, (u64, Uuid)> = HashMap::new();
        let mut ghosts = BTreeSet::new();

        for Delivered { event, key } in &self.deliveries {
            let times = times.entry(*event).or_default();
            *times += 1;
            let place = match self.written.get(event) {
                Some(Written::Committed(place) | Written::Perhaps(place)) => place,
                Some(Written::RolledBack) | None => {
                    ghosts.insert(*event);
                    continue;
                }
            };
            if place.key != *key {
                verdict.wrong_keys.push(WrongKey {
                    event: *event,
                    committed: place.key.clone(),
                    delivered: key.clone(),
                });
            }
            if *times > 1 {
                verdict.duplicates += 1;
                continue;
            }
            let Some(key) = place.key.as_ref().filter(|_| !self.dead.contains(event)) else { continue };
            let (sequence, after) = furthest.entry(key).or_insert((place.sequence, *event));
            if place.sequence < *sequence {
                verdict.out_of_order.push(OutOfOrder { event: *event, after: *after, key: key.clone() });
            } else {
                (*sequence, *after) = (place.sequence, *event);
            }
        }

        for (event, written) in &self.written {
            if !matches!(written, Written::Committed(_)) || self.dead.contains(event) {
                continue;
            }
            if !times.contains_key(event) {
                verdict.lost.push(*event);
            }
            if self.expects_effects && !self.effects.contains_key(event) {
                verdict.without_effect.push(*event);
            }
        }
        for (event, times) in &self.effects {
            if matches!(self.written.get(event), Some(Written::RolledBack) | None) {
                ghosts.insert(*event);
            }
            if *times > 1 {
                verdict.repeated_effects.push((*event, *times));
            }
        }
        verdict.ghosts = ghosts.into_iter().collect();
        verdict.committed =
            self.written.values().filter(|written| matches!(written, Written::Committed(_))).count();
        verdict.deliveries = self.deliveries.len();
        verdict
    }
}

/// What is wrong with a history.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a verdict that nobody looks at judges nothing"]
pub struct Verdict {
    /// How many events were committed.
    pub committed: usize,
    /// How many deliveries there were.
    pub deliveries: usize,
    /// Committed, and neither delivered nor a dead letter.
    pub lost: Vec<Uuid>,
    /// Delivered or handled, although rolled back or never written.
    pub ghosts: Vec<Uuid>,
    /// First deliveries that came after that of a later event of their key.
    pub out_of_order: Vec<OutOfOrder>,
    /// Deliveries under another key than the one that was committed.
    pub wrong_keys: Vec<WrongKey>,
    /// Events with more than one effect, and with how many.
    pub repeated_effects: Vec<(Uuid, usize)>,
    /// Committed, not a dead letter, and without an effect, where [effects are expected](History::expect_effects).
    pub without_effect: Vec<Uuid>,
    /// Deliveries of an event beyond its first. They are not wrong; see
    /// [`assert_duplicates_at_most`](Self::assert_duplicates_at_most).
    pub duplicates: usize,
}

/// A first delivery that came too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfOrder {
    /// The event that came too late.
    pub event: Uuid,
    /// The later event of its key that had come before it.
    pub after: Uuid,
    /// Their key.
    pub key: Bytes,
}

/// A delivery under a key that is not the event's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongKey {
    /// The event.
    pub event: Uuid,
    /// The key it was committed with.
    pub committed: Option<Bytes>,
    /// The key it was delivered with.
    pub delivered: Option<Bytes>,
}

impl Verdict {
    /// Whether nothing is wrong. Duplicates are not wrong.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.ghosts.is_empty()
            && self.out_of_order.is_empty()
            && self.wrong_keys.is_empty()
            && self.repeated_effects.is_empty()
            && self.without_effect.is_empty()
    }

    /// Asserts that nothing is wrong.
    ///
    /// # Panics
    ///
    /// With the whole verdict, if something is.
    #[track_caller]
    pub fn assert_clean(&self) -> &Self {
        assert!(self.is_clean(), "{self}");
        self
    }

    /// Asserts that no more than `bound` deliveries were duplicates.
    ///
    /// # Panics
    ///
    /// With the whole verdict, if more were.
    #[track_caller]
    pub fn assert_duplicates_at_most(&self, bound: usize) -> &Self {
        assert!(self.duplicates <= bound, "more than {bound} duplicates: {self}");
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} committed, {} deliveries, {} duplicates",
            if self.is_clean() { "clean" } else { "NOT CLEAN" },
            self.committed,
            self.deliveries,
            self.duplicates
        )?;
        list(f, "lost", &self.lost, |event| event.to_string())?;
        list(f, "ghosts", &self.ghosts, |event| event.to_string())?;
        list(f, "out of order", &self.out_of_order, |late| {
            format!("{} after {} (key {})", late.event, late.after, readable(Some(&late.key)))
        })?;
        list(f, "wrong keys", &self.wrong_keys, |wrong| {
            let (committed, delivered) = (wrong.committed.as_ref(), wrong.delivered.as_ref());
            format!("{}: {} instead of {}", wrong.event, readable(delivered), readable(committed))
        })?;
        list(f, "more than one effect", &self.repeated_effects, |(event, times)| {
            format!("{event}: {times} times")
        })?;
        list(f, "without effect", &self.without_effect, |event| event.to_string())
    }
}

/// The first few, so that a run that lost everything stays readable.
fn list<T>(f: &mut fmt::Formatter<'_>, what: &str, all: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
    const SHOWN: usize = 5;
    if all.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {what}: {}", all.len())?;
    for one in all.iter().take(SHOWN) {
        write!(f, "\n    {}", show(one))?;
    }
    if all.len() > SHOWN {
        write!(f, "\n    and {} more", all.len() - SHOWN)?;
    }
    Ok(())
}

fn readable(key: Option<&Bytes>) -> String {
    key.map_or_else(|| "none".to_owned(), |key| format!("\"{}\"", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: Bytes = Bytes::from_static(b"k");
    const L: Bytes = Bytes::from_static(b"l");
    const NO_KEY: Option<Bytes> = None;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// Three events of one key are committed: 1, 2, 3.
    fn three() -> History {
        let history = History::new();
        for n in 1..=3 {
            history.committed(K, id(u128::from(n)), n);
        }
        history
    }

    fn deliver(history: &History, events: &[u128]) {
        for event in events {
            history.delivered(id(*event), K);
        }
    }

    #[test]
    fn clean_with_duplicates_that_start_again() {
        let history = three();
        deliver(&history, &[1, 2, 2, 1, 2, 3]);
        let verdict = history.check();
        assert_eq!(verdict, Verdict { committed: 3, deliveries: 6, duplicates: 3, ..Verdict::default() });
        verdict.assert_clean().assert_duplicates_at_most(3);
        assert_eq!(verdict.to_string(), "clean: 3 committed, 6 deliveries, 3 duplicates");
    }

    #[test]
    fn a_clone_is_the_same_history() {
        let history = History::new();
        std::thread::scope(|scope| {
            for n in 0..4_u128 {
                let history = history.clone();
                scope.spawn(move || history.committed(NO_KEY, id(n), 0));
            }
        });
        assert_eq!(history.check().lost.len(), 4);
    }

    #[test]
    fn lost() {
        let history = three();
        deliver(&history, &[1, 3]);
        let verdict = history.check();
        assert_eq!(verdict.lost, [id(2)]);
        assert!(!verdict.is_clean());
        assert!(
            verdict.to_string().contains("lost: 1\n    00000000-0000-0000-0000-000000000002"),
            "{verdict}"
        );
    }

    #[test]
    fn a_dead_letter_is_not_lost_and_its_replay_has_no_order() {
        let history = three();
        history.dead_lettered(id(1));
        deliver(&history, &[2, 3]);
        history.check().assert_clean();
        deliver(&history, &[1]);
        history.check().assert_clean();
    }

    #[test]
    fn ghosts() {
        let history = three();
        history.rolled_back(id(4));
        deliver(&history, &[1, 2, 4, 3, 5, 4]);
        history.handled(id(6));
        assert_eq!(history.check().ghosts, [id(4), id(5), id(6)]);
        assert!(!history.check().is_clean());
    }

    #[test]
    fn what_was_perhaps_committed_may_come_or_not_but_in_order() {
        let history = three();
        history.perhaps_committed(K, id(4), 4);
        deliver(&history, &[1, 2, 3]);
        history.check().assert_clean();
        deliver(&history, &[4]);
        history.check().assert_clean();

        let history = three();
        history.perhaps_committed(K, id(4), 4);
        deliver(&history, &[1, 4, 2, 3]);
        assert_eq!(history.check().out_of_order.len(), 2);
    }

    #[test]
    fn out_of_order() {
        let history = three();
        deliver(&history, &[2, 1, 3, 1]);
        let verdict = history.check();
        assert_eq!(verdict.out_of_order, [OutOfOrder { event: id(1), after: id(2), key: K }]);
        assert!(!verdict.is_clean());
        assert!(
            verdict.to_string().contains("after 00000000-0000-0000-0000-000000000002 (key \"k\")"),
            "{verdict}"
        );
    }

    #[test]
    fn only_a_key_has_an_order() {
        let history = History::new();
        history.committed(K, id(1), 1);
        history.committed(L, id(2), 2);
        history.committed(NO_KEY, id(3), 3);
        history.committed(NO_KEY, id(4), 4);
        history.delivered(id(4), NO_KEY);
        history.delivered(id(3), NO_KEY);
        history.delivered(id(2), L);
        history.delivered(id(1), K);
        history.check().assert_clean();
    }

    #[test]
    fn wrong_keys() {
        let history = three();
        deliver(&history, &[1, 2]);
        history.delivered(id(3), NO_KEY);
        let verdict = history.check();
        assert_eq!(verdict.wrong_keys, [WrongKey { event: id(3), committed: Some(K), delivered: None }]);
        assert!(!verdict.is_clean());
        assert!(verdict.to_string().contains("none instead of \"k\""), "{verdict}");
    }

    #[test]
    fn repeated_effects() {
        let history = three();
        deliver(&history, &[1, 2, 3]);
        for event in [1, 2, 2, 2] {
            history.handled(id(event));
        }
        let verdict = history.check();
        assert_eq!(verdict.repeated_effects, [(id(2), 3)]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn missing_effects_where_they_are_expected() {
        let history = three();
        deliver(&history, &[1, 2, 3]);
        history.handled(id(1));
        history.check().assert_clean();
        history.expect_effects();
        history.dead_lettered(id(3));
        let verdict = history.check();
        assert_eq!(verdict.without_effect, [id(2)]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn long_lists_are_cut() {
        let history = History::new();
        (0..7).for_each(|n| history.committed(NO_KEY, id(n), 0));
        let text = history.check().to_string();
        assert!(text.starts_with("NOT CLEAN: 7 committed") && text.ends_with("and 2 more"), "{text}");
        assert_eq!(text.lines().count(), 8);
    }

    #[test]
    #[should_panic(expected = "lost: 3")]
    fn assert_clean_panics_with_the_verdict() {
        three().check().assert_clean();
    }

    #[test]
    #[should_panic(expected = "more than 1 duplicates")]
    fn the_bound_on_duplicates_holds() {
        let history = three();
        deliver(&history, &[1, 1, 1, 2, 3]);
        history.check().assert_clean().assert_duplicates_at_most(1);
    }
}
