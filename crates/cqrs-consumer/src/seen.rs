use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Names that were seen before, so that each is logged once. Beyond a thousand all count as seen: the names come from
/// outside, and must not fill the memory.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashSet<String>>);

impl Seen {
    const MAX: usize = 1_000;

    /// Whether the name is new.
    pub(crate) fn is_new(&self, name: &str) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < Self::MAX && !seen.contains(name) && seen.insert(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_new_once_and_there_is_an_end_to_it() {
        let seen = Seen::default();
        assert!(seen.is_new("a"));
        assert!(!seen.is_new("a"));
        assert!(seen.is_new("b"));
        let new = (0..10_000).filter(|n: &u32| seen.is_new(&n.to_string())).count();
        assert_eq!(new + 2, Seen::MAX);
    }
}
