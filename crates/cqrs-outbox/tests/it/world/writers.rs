//! The writers, whose transactions overlap and are rolled back now and then.

use bytes::Bytes;
use cqrs_core::Message;
use cqrs_outbox::engine::Input;
use rand::Rng;
use uuid::Uuid;

use super::{TOPICS, WRITING, World, Written};

impl World {
    pub(super) fn write(&mut self) {
        if self.now > WRITING {
            return;
        }
        let mut events = Vec::new();
        let mut held = Vec::new();
        // What is to go together has to wait together.
        let most = if self.goes_together() { 8 } else { 4 };
        for _ in 0..self.rng.random_range(1..most) {
            let (key, ordered) = match self.rng.random_range(0..10) {
                0 => (None, false),
                // Of these two keys several writers write at the same time: they have no order.
                1 => (Some(Bytes::from(format!("any {}", self.rng.random_range(0..2)))), false),
                _ => (Some(Bytes::from(format!("key {}", self.rng.random_range(0..self.keys)))), true),
            };
            if let Some(key) = key.as_ref().filter(|key| ordered && !held.contains(*key)) {
                // The key's own row is locked: whoever is next begins after this commit.
                if !self.locked.insert(key.clone()) {
                    continue;
                }
                held.push(key.clone());
            }
            let sequence = key.clone().map_or(0, |key| {
                let sequence = self.sequences.entry(key).or_default();
                *sequence += 1;
                *sequence
            });
            let message = self.message(key);
            let ordered = ordered && !self.settings.unordered.includes(&message.topic);
            events.push((self.tables.reserve_id(), message, sequence, ordered));
        }
        let commits = self.rng.random_bool(0.85);
        let length = if self.rng.random_bool(0.1) { 1_500 } else { 60 };
        let length = self.up_to(length);
        self.after(length, move |world| {
            for key in &held {
                world.locked.remove(key);
            }
            for (id, message, sequence, ordered) in events {
                let event = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap();
                if commits {
                    world.commit(id, event, message, sequence, ordered);
                } else {
                    world.history.rolled_back(event);
                }
            }
            for slot in 0..world.slots.len() {
                if let Some(life) = world.slots[slot].filter(|_| world.rng.random_bool(0.7)) {
                    world.input(life, Input::Woken);
                }
            }
        });
        let pause = self.up_to(80);
        self.after(pause, Self::write);
    }

    fn goes_together(&self) -> bool {
        self.settings.max_in_flight_per_key > 1
    }

    pub(super) fn message(&mut self, key: Option<Bytes>) -> Message {
        let event = Uuid::from_u128(self.next_event);
        self.next_event += 1;
        // And to go well, for a while.
        match self.rng.random_range(0..if self.goes_together() { 400 } else { 40 }) {
            0 => self.poison.insert(event, u32::MAX),
            1 | 2 => self.poison.insert(event, self.rng.random_range(1..4)),
            _ => None,
        };
        let payload = vec![b'.'; self.rng.random_range(1..150)];
        let same = self.goes_together() && self.rng.random_bool(0.8);
        let topic = if same { 0 } else { self.rng.random_range(0..TOPICS.len()) };
        let mut message = Message::new(TOPICS[topic], payload);
        message.id = Some(event.into());
        message.key = key;
        message
    }

    pub(super) fn commit(&mut self, id: i64, event: Uuid, message: Message, sequence: u64, ordered: bool) {
        let key = self.in_order_with(&message);
        let by_key = key.is_some() && !self.settings.unordered.includes(&message.topic);
        self.log(|| format!("commit row {id}, event {}, key {key:?}", event.as_u128()));
        // Where nothing is said of order: their place in it is when they are moved.
        if !ordered && self.rng.random_bool(0.3) {
            let due = self.database_now() + self.up_to(2_000);
            self.tables.schedule(due, id, message);
            self.counts.add("scheduled");
        } else {
            self.tables.insert(id, message);
        }
        self.history.committed(key.clone().filter(|_| ordered), event, sequence);
        self.by_id.insert(id, event);
        let written = Written {
            key,
            sequence,
            by_key,
            ordered,
            delivered: 0,
            dead: false,
            discarded: false,
            rights: 1,
        };
        self.events.insert(event, written);
    }
}
