//! Which delivery may start now: one at a time of each key, in the order of arrival.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// One lane for each key that has something running, with what waits behind it.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    busy: HashMap<Bytes, VecDeque<T>>,
    waiting: usize,
}

impl<T> Lanes<T> {
    pub(crate) fn new() -> Self {
        Self { busy: HashMap::new(), waiting: 0 }
    }

    /// Gives the item back if it may start now, and keeps it if its key is busy. Without a key it may always start.
    pub(crate) fn arrive(&mut self, key: Option<&Bytes>, item: T) -> Option<T> {
        let Some(key) = key else { return Some(item) };
        match self.busy.entry(key.clone()) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                Some(item)
            }
            Entry::Occupied(mut lane) => {
                lane.get_mut().push_back(item);
                self.waiting += 1;
                None
            }
        }
    }

    /// What was running of this key has ended: gives the next one to start, or frees the key.
    pub(crate) fn leave(&mut self, key: &Bytes) -> Option<T> {
        match self.busy.get_mut(key)?.pop_front() {
            Some(next) => {
                self.waiting -= 1;
                Some(next)
            }
            None => {
                self.busy.remove(key);
                None
            }
        }
    }

    /// How many items it keeps.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Bytes = Bytes::from_static(b"a");
    const B: Bytes = Bytes::from_static(b"b");

    #[test]
    fn one_key_goes_one_at_a_time_in_order() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.arrive(Some(&A), 1), Some(1));
        assert_eq!(lanes.arrive(Some(&A), 2), None);
        assert_eq!(lanes.arrive(Some(&A), 3), None);
        assert_eq!(lanes.waiting(), 2);
        assert_eq!(lanes.leave(&A), Some(2));
        assert_eq!(lanes.arrive(Some(&A), 4), None);
        assert_eq!(lanes.leave(&A), Some(3));
        assert_eq!(lanes.leave(&A), Some(4));
        assert_eq!(lanes.waiting(), 0);
        assert_eq!(lanes.leave(&A), None);
        assert_eq!(lanes.arrive(Some(&A), 5), Some(5));
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.arrive(Some(&A), 1), Some(1));
        assert_eq!(lanes.arrive(Some(&B), 2), Some(2));
        assert_eq!(lanes.arrive(Some(&A), 3), None);
        assert_eq!(lanes.leave(&B), None);
        assert_eq!(lanes.leave(&A), Some(3));
    }

    #[test]
    fn no_key_is_no_order_but_an_empty_key_is_a_key() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.arrive(None, 1), Some(1));
        assert_eq!(lanes.arrive(None, 2), Some(2));
        assert_eq!(lanes.arrive(Some(&Bytes::new()), 3), Some(3));
        assert_eq!(lanes.arrive(Some(&Bytes::new()), 4), None);
    }

    #[test]
    fn idle_keys_take_no_room() {
        let mut lanes = Lanes::new();
        for key in 0..1000_u32 {
            let key = Bytes::copy_from_slice(&key.to_be_bytes());
            assert!(lanes.arrive(Some(&key), ()).is_some());
            assert!(lanes.leave(&key).is_none());
        }
        assert!(lanes.busy.is_empty());
    }
}
