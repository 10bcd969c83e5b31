//! The relays: engines with clocks of their own.

use std::time::Duration;

use cqrs_outbox::engine::{Action, Input};
use rand::Rng;

use super::{Fault, Life, World};

impl World {
    pub(super) fn input(&mut self, life: Life, input: Input) {
        let relay = &mut self.lives[life];
        if !relay.alive {
            return;
        }
        if relay.paused {
            relay.late.push(input);
            return;
        }
        let now = relay.clock.read(self.now);
        if let Input::Heartbeat(Ok(ownership)) = &input {
            let until = relay.heartbeat_sent + self.settings.lease - self.settings.lease_margin;
            relay.leases = ownership.leases.iter().map(|lease| (lease.group, until)).collect();
        }
        if self.trace && !matches!(input, Input::Woken) {
            println!("{:>10.4?} {life} hears {}", self.now, brief(&format!("{input:?}")));
        }
        self.lives[life].engine.step(now, input);
        // Now and then several things are heard before anything is done.
        if self.rng.random_bool(0.2) {
            let pause = self.up_to(5);
            self.after(pause, move |world| world.pump(life));
        } else {
            self.pump(life);
        }
    }

    pub(super) fn pump(&mut self, life: Life) {
        let relay = &self.lives[life];
        if !relay.alive || relay.paused {
            return;
        }
        let now = relay.clock.read(self.now);
        let mut actions = 0;
        while let Some(action) = self.lives[life].engine.poll(now) {
            actions += 1;
            if actions > 1_000 {
                return self.found(Fault::Spin, format!("{life} has always more to do: {action:?}"));
            }
            if self.trace {
                println!("{:>10.4?} {life} does {}", self.now, brief(&format!("{action:?}")));
            }
            match action {
                Action::Publish(row) => self.publish(life, row),
                Action::PublishInSession { row, session, after } => {
                    self.publish_in_session(life, row, session, after.is_none());
                }
                action => self.call(life, action),
            }
        }
        let relay = &mut self.lives[life];
        if relay.engine.is_finished() {
            self.log(|| format!("{life} has left"));
            return self.end(life);
        }
        let deadline = relay.engine.deadline();
        if let Some(deadline) = deadline {
            if deadline <= now {
                return self.found(
                    Fault::Spin,
                    format!("{life} has nothing to do at {now:?}, but its deadline was {deadline:?}"),
                );
            }
            let at = relay.clock.shows(deadline);
            if relay.wake != Some(at) {
                relay.wake = Some(at);
                let late = if self.rng.random_bool(0.3) { self.up_to(10) } else { Duration::ZERO };
                self.after(at - self.now + late, move |world| {
                    if world.lives[life].wake == Some(at) {
                        world.lives[life].wake = None;
                        world.pump(life);
                    }
                });
            }
        }
    }
}

/// Rows are long; what matters stands in front.
fn brief(text: &str) -> String {
    let mut brief = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("message: Message {") {
        brief.push_str(&rest[..at]);
        rest = rest[at..].find("timestamp: None }").map_or("", |end| &rest[at + end + 17..]);
    }
    brief.push_str(rest);
    brief
}
