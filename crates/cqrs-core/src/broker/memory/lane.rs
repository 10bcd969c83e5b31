use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::message::Message;

/// What one group has still to handle of one topic.
#[derive(Debug)]
pub(super) struct Lane {
    /// What may be delivered now, by position: the oldest of each key, and everything without a key. What was
    /// released stands here again, and so before what came later.
    ready: BTreeMap<u64, Item>,
    /// For each key that has a ready or an unacknowledged message: those that wait behind it.
    waiting: HashMap<Bytes, VecDeque<Item>>,
    /// Shared by all lanes of the group.
    wake: Arc<Notify>,
}

/// A message on its way through a lane.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) position: u64,
    pub(super) message: Arc<Message>,
    /// How often it was delivered to the group.
    pub(super) attempts: u32,
    /// It was acknowledged, and is delivered once more on request.
    pub(super) duplicate: bool,
}

impl Item {
    pub(super) fn new(position: u64, message: Arc<Message>) -> Self {
        Self { position, message, attempts: 0, duplicate: false }
    }
}

impl Lane {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { ready: BTreeMap::new(), waiting: HashMap::new(), wake }
    }

    /// Takes in a new message, the last of its key.
    pub(super) fn push(&mut self, item: Item) {
        if let Some(key) = &item.message.key {
            match self.waiting.entry(key.clone()) {
                Entry::Occupied(waiting) => return waiting.into_mut().push_back(item),
                Entry::Vacant(waiting) => waiting.insert(VecDeque::new()),
            };
        }
        self.make_ready(item);
    }

    /// The oldest message that may be delivered now.
    pub(super) fn take(&mut self) -> Option<Item> {
        let (_, mut item) = self.ready.pop_first()?;
        item.attempts += 1;
        Some(item)
    }

    /// Takes a message back that was not handled: it goes before the later ones of its key, which still wait.
    pub(super) fn put_back(&mut self, item: Item) {
        self.make_ready(item);
    }

    /// A message was handled: the next of its key may go.
    pub(super) fn finish(&mut self, item: &Item) {
        let Some(key) = &item.message.key else { return };
        match self.waiting.get_mut(key).map(VecDeque::pop_front) {
            Some(Some(next)) => self.make_ready(next),
            Some(None) => drop(self.waiting.remove(key)),
            None => {}
        }
    }

    pub(super) fn wake(&self) {
        self.wake.notify_waiters();
    }

    fn make_ready(&mut self, item: Item) {
        self.ready.insert(item.position, item);
        self.wake();
    }
}
