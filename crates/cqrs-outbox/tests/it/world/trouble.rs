//! What goes wrong: crashes, pauses, stops, outages, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cqrs_outbox::RelayId;
use cqrs_outbox::engine::{Engine, Input};
use rand::Rng;
use uuid::Uuid;

use super::{Clock, Life, Relay, TOPICS, World, ms};

impl World {
    pub(super) fn go_wrong(&mut self) {
        if !self.faulty {
            return;
        }
        let slot = self.rng.random_range(0..self.slots.len());
        let life = self.slots[slot];
        match self.rng.random_range(0..9) {
            0 => {
                if let Some(life) = life {
                    self.crash(life);
                }
            }
            1 | 2 => {
                if let Some(life) = life {
                    let length = if self.rng.random_bool(0.7) { 3_000 } else { 600 };
                    let length = self.up_to(length);
                    self.pause(life, length);
                }
            }
            3 => {
                if let Some(life) = life {
                    self.stop(life);
                }
            }
            4 => {
                self.log(|| "the broker is down".to_owned());
                self.counts.add("outages");
                self.broker_down = true;
                let length = self.up_to(1_500);
                self.after(length, |world| world.broker_down = false);
            }
            5 | 6 => {
                let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
                self.log(|| format!("{topic} is suspended"));
                self.counts.add("suspended topics");
                self.suspended.insert(topic);
                let length = self.up_to(2_000);
                self.after(length, move |world| {
                    world.suspended.remove(topic);
                });
            }
            7 => {
                self.log(|| "the database is down".to_owned());
                self.counts.add("database down");
                self.database_down = true;
                let length = self.up_to(1_500);
                self.after(length, |world| world.database_down = false);
            }
            _ => {
                let jump = self.up_to(3_000);
                let forward = self.rng.random_bool(0.5);
                self.log(|| format!("the database's clock jumps by {jump:?}, forward: {forward}"));
                self.counts.add("clock jumps");
                self.leases_end_early = true;
                self.database_ahead =
                    if forward { self.database_ahead + jump } else { self.database_ahead - jump };
            }
        }
        let pause = self.up_to(1_500);
        self.after(pause, Self::go_wrong);
    }

    pub(super) fn mend(&mut self) {
        self.log(|| "all is well from now on".to_owned());
        self.faulty = false;
        self.broker_down = false;
        self.database_down = false;
        self.suspended.clear();
        for life in 0..self.lives.len() {
            self.resume(life);
        }
        for slot in 0..self.slots.len() {
            self.start(slot);
        }
    }

    pub(super) fn start(&mut self, slot: usize) {
        if self.slots[slot].is_some() {
            return;
        }
        let life = self.lives.len();
        let offset = self.up_to(1_000_000);
        let clock = Clock { born: self.now, offset, permille: self.rng.random_range(990..=1010) };
        self.log(|| format!("relay {slot} starts as {life}"));
        self.lives.push(Relay {
            slot,
            id: RelayId { name: format!("relay {slot}"), incarnation: Uuid::from_u128(life as u128 + 1) },
            engine: Engine::new(self.settings.clone()),
            clock,
            alive: true,
            paused: false,
            stopping: false,
            late: Vec::new(),
            wake: None,
            calls: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            heartbeat_sent: Duration::ZERO,
            leases: BTreeMap::new(),
            cursor: 0,
        });
        self.slots[slot] = Some(life);
        self.knock(life);
        self.pump(life);
    }

    /// The relay asks whether the broker is there until it is.
    pub(super) fn knock(&mut self, life: Life) {
        if self.broker_down {
            return self.after(ms(100), move |world| world.knock(life));
        }
        self.input(life, Input::BrokerAnswers);
    }

    /// It is gone, with everything that it knew.
    pub(super) fn end(&mut self, life: Life) {
        let relay = &mut self.lives[life];
        relay.alive = false;
        let slot = relay.slot;
        self.slots[slot] = None;
        if !self.closing {
            let pause = self.up_to(2_000);
            self.after(pause, move |world| world.start(slot));
        }
    }

    pub(super) fn crash(&mut self, life: Life) {
        self.log(|| format!("{life} crashes"));
        self.counts.add("crashes");
        self.end(life);
    }

    pub(super) fn pause(&mut self, life: Life, length: Duration) {
        self.log(|| format!("{life} pauses for {length:?}"));
        self.counts.add("pauses");
        self.lives[life].paused = true;
        self.after(length, move |world| world.resume(life));
    }

    pub(super) fn resume(&mut self, life: Life) {
        if !self.lives[life].alive || !self.lives[life].paused {
            return;
        }
        self.log(|| format!("{life} goes on"));
        self.lives[life].paused = false;
        for input in std::mem::take(&mut self.lives[life].late) {
            self.input(life, input);
        }
        if self.lives[life].alive {
            self.pump(life);
        }
    }

    pub(super) fn stop(&mut self, life: Life) {
        if self.lives[life].stopping {
            return;
        }
        self.log(|| format!("{life} is told to stop"));
        self.counts.add("stops");
        self.lives[life].stopping = true;
        self.input(life, Input::Stop);
        self.after(self.settings.stop_grace, move |world| world.input(life, Input::GiveUp));
    }
}
