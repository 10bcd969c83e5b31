use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::faults::Plan;
use super::lane::{Item, Lane};
use super::{Settings, Shared};
use crate::broker::delivery::{Acknowledged, DeliveryTag};
use crate::broker::error::{BrokerError, ErrorClass};
use crate::broker::publish::{Confirm, Receipt};
use crate::broker::{StartFrom, SubscribeOptions};
use crate::message::Message;

type Outcome = Result<Receipt, BrokerError>;

/// Everything the broker knows, and what it does, without waiting for anything.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) plan: Plan,
    topics: HashMap<String, Topic>,
    lanes: Vec<Lane>,
    /// What wakes the members of a group.
    groups: HashMap<String, Arc<Notify>>,
    members: HashMap<u64, Member>,
    /// What was delivered and not yet acknowledged, by the number of its delivery.
    in_flight: HashMap<u64, InFlight>,
    /// How many messages the topics keep.
    kept: usize,
    connections: HashSet<u64>,
    held_confirms: Vec<(Waiting, Outcome)>,
    last_id: u64,
    last_delivery: u64,
}

#[derive(Debug, Default)]
struct Topic {
    log: BTreeMap<u64, Kept>,
    next_position: u64,
    /// The lane of each group.
    lanes: HashMap<String, usize>,
}

/// A message that a group has still to handle, or that waits for the first group.
#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    /// How many groups have still to acknowledge it.
    outstanding: usize,
    confirm: Option<Waiting>,
}

/// Someone who may wait for a confirm.
#[derive(Debug)]
struct Waiting {
    connection: u64,
    sender: oneshot::Sender<Outcome>,
}

/// A subscription, as the broker sees it.
#[derive(Debug)]
struct Member {
    connection: u64,
    lanes: Vec<usize>,
    /// Which of its lanes is asked first: they take turns.
    turn: usize,
    prefetch: usize,
    in_flight: usize,
    epoch: u64,
    lost: CancellationToken,
}

#[derive(Debug)]
struct InFlight {
    member: u64,
    lane: usize,
    item: Item,
}

/// What a publisher is told at once.
pub(super) enum Enqueued {
    Taken(Confirm),
    Full,
}

/// What a member gets when it asks for the next message.
pub(super) enum Next {
    Message { message: Arc<Message>, attempt: u32, tag: DeliveryTag, lost: CancellationToken },
    NothingYet,
    Ended,
}

impl State {
    pub(super) fn connect(&mut self) -> u64 {
        let id = self.new_id();
        self.connections.insert(id);
        id
    }

    pub(super) fn check_open(&self, connection: u64) -> Result<(), BrokerError> {
        if !self.connections.contains(&connection) {
            return Err(BrokerError::new(
                ErrorClass::Outage,
                "this connection to the in-memory broker was closed: open another with `MemoryBroker::connect`",
            ));
        }
        Ok(())
    }

    pub(super) fn check(&self, connection: u64) -> Result<(), BrokerError> {
        self.check_open(connection)?;
        if self.plan.down {
            return Err(BrokerError::new(
                ErrorClass::Outage,
                "the in-memory broker is down: `go_down` asked for it, and `come_back` ends it",
            ));
        }
        Ok(())
    }

    /// Stores a message, unless there is a reason not to. What the broker answers is the confirm's; what the client
    /// itself knows is the error.
    pub(super) fn enqueue(
        &mut self,
        shared: &Shared,
        connection: u64,
        message: &Arc<Message>,
    ) -> Result<Enqueued, BrokerError> {
        self.check(connection)?;
        if message.topic.is_empty() {
            return Err(BrokerError::new(
                ErrorClass::Destination,
                "the message has no topic: give it the name of one",
            ));
        }
        shared.settings.check_size(message)?;
        if shared.settings.capacity.is_some_and(|capacity| self.kept >= capacity) {
            return Ok(Enqueued::Full);
        }
        let refused = self
            .plan
            .refusal(&message.topic)
            .map_or_else(|| shared.settings.check_topic(&message.topic), Err);
        if let Err(error) = refused {
            return Ok(Enqueued::Taken(Confirm::ready(Err(error))));
        }
        Ok(Enqueued::Taken(self.store(&shared.settings, connection, message)))
    }

    fn store(&mut self, settings: &Settings, connection: u64, message: &Arc<Message>) -> Confirm {
        let topic = self.topics.entry(message.topic.clone()).or_default();
        let position = topic.next_position;
        topic.next_position += 1;
        for lane in topic.lanes.values() {
            self.lanes[*lane].push(Item::new(position, Arc::clone(message)));
        }
        let mut kept = Kept { message: Arc::clone(message), outstanding: topic.lanes.len(), confirm: None };
        let receipt = receipt(position);
        let confirm = if self.plan.loses_confirm() {
            Confirm::ready(Err(BrokerError::new(
                ErrorClass::Unknown,
                "the in-memory broker has the message but lost the confirm: `lose_confirms` asked for it",
            )))
        } else if settings.confirm_after_handling {
            let (waiting, confirm) = waiting(connection);
            kept.confirm = Some(waiting);
            confirm
        } else if self.plan.hold_confirms {
            let (waiting, confirm) = waiting(connection);
            self.held_confirms.push((waiting, Ok(receipt)));
            confirm
        } else {
            Confirm::ready(Ok(receipt))
        };
        topic.log.insert(position, kept);
        self.kept += 1;
        confirm
    }

    pub(super) fn subscribe(
        &mut self,
        shared: &Shared,
        connection: u64,
        options: SubscribeOptions,
    ) -> Result<(u64, Arc<Notify>), BrokerError> {
        self.check(connection)?;
        options.check()?;
        options.topics.iter().try_for_each(|topic| shared.settings.check_topic(topic))?;

        let wake = Arc::clone(self.groups.entry(options.group.clone()).or_default());
        let mut lanes = Vec::with_capacity(options.topics.len());
        for topic in options.topics {
            let lane = self.join(topic, &options.group, &wake, options.start_from);
            if !lanes.contains(&lane) {
                lanes.push(lane);
            }
        }
        let id = self.new_id();
        let member = Member {
            connection,
            lanes,
            turn: 0,
            prefetch: options.prefetch,
            in_flight: 0,
            epoch: self.new_id(),
            lost: CancellationToken::new(),
        };
        self.members.insert(id, member);
        Ok((id, wake))
    }

    /// The lane of a group and a topic; a new one begins where the group asks it to.
    fn join(&mut self, topic: String, group: &str, wake: &Arc<Notify>, start: StartFrom) -> usize {
        let topic = self.topics.entry(topic).or_default();
        if let Some(lane) = topic.lanes.get(group) {
            return *lane;
        }
        let mut lane = Lane::new(Arc::clone(wake));
        if start == StartFrom::Earliest {
            for (position, kept) in &mut topic.log {
                kept.outstanding += 1;
                lane.push(Item::new(*position, Arc::clone(&kept.message)));
            }
        }
        let index = self.lanes.len();
        self.lanes.push(lane);
        topic.lanes.insert(group.to_owned(), index);
        index
    }

    pub(super) fn next(&mut self, member_id: u64) -> Next {
        let Some(member) = self.members.get_mut(&member_id) else { return Next::Ended };
        if self.plan.down || member.in_flight >= member.prefetch {
            return Next::NothingYet;
        }
        let count = member.lanes.len();
        let taken = (0..count).map(|step| (member.turn + step) % count).find_map(|turn| {
            let lane = member.lanes[turn];
            Some((turn, lane, self.lanes[lane].take()?))
        });
        let Some((turn, lane, item)) = taken else { return Next::NothingYet };

        member.turn = (turn + 1) % count;
        member.in_flight += 1;
        self.last_delivery += 1;
        let position = self.last_delivery;
        let next = Next::Message {
            message: Arc::clone(&item.message),
            attempt: item.attempts,
            tag: DeliveryTag { epoch: member.epoch, lane: lane as u64, position },
            lost: member.lost.clone(),
        };
        self.in_flight.insert(position, InFlight { member: member_id, lane, item });
        next
    }

    pub(super) fn ack(&mut self, shared: &Shared, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        let Some(InFlight { lane, mut item, .. }) = self.land(tag) else {
            return Ok(Acknowledged::Stale);
        };
        if self.plan.down {
            self.lanes[lane].put_back(item);
            return Err(BrokerError::new(
                ErrorClass::Outage,
                "the in-memory broker is down and was not told: the message will be delivered again",
            ));
        }
        if self.plan.duplicates(&item) {
            item.duplicate = true;
            self.lanes[lane].put_back(item);
            return Ok(Acknowledged::Done);
        }
        self.lanes[lane].finish(&item);
        // The member has room again.
        self.lanes[lane].wake();
        self.settle(shared, &item);
        Ok(Acknowledged::Done)
    }

    pub(super) fn release(&mut self, tag: DeliveryTag) {
        if let Some(InFlight { lane, item, .. }) = self.land(tag) {
            self.lanes[lane].put_back(item);
        }
    }

    /// Ends a subscription.
    pub(super) fn leave(&mut self, member_id: u64) {
        if let Some(member) = self.members.remove(&member_id) {
            member.lost.cancel();
            self.put_back_if(|in_flight| in_flight.member == member_id);
        }
    }

    pub(super) fn disconnect(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            let epoch = self.new_id();
            if let Some(member) = self.members.get_mut(&id) {
                member.epoch = epoch;
                member.in_flight = 0;
                mem::take(&mut member.lost).cancel();
            }
        }
        self.put_back_if(|_| true);
    }

    /// Closes a connection, and says how many confirms someone waited for in vain.
    pub(super) fn close(&mut self, connection: u64) -> usize {
        self.connections.remove(&connection);
        let members: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, member)| member.connection == connection)
            .map(|(id, _)| *id)
            .collect();
        for member in members {
            self.leave(member);
        }
        self.wake_everyone();

        let kept = self.topics.values_mut().flat_map(|topic| topic.log.values_mut());
        let unconfirmed =
            kept.filter_map(|kept| kept.confirm.take_if(|waiting| waiting.connection == connection)).chain(
                self.held_confirms
                    .extract_if(.., |(waiting, _)| waiting.connection == connection)
                    .map(|(waiting, _)| waiting),
            );
        unconfirmed.filter_map(|waiting| waiting.sender.send(Err(closed_too_early())).ok()).count()
    }

    pub(super) fn release_confirms(&mut self) {
        self.plan.hold_confirms = false;
        for (waiting, outcome) in mem::take(&mut self.held_confirms) {
            // Whoever no longer listens has given up.
            let _ = waiting.sender.send(outcome);
        }
    }

    pub(super) fn wake_everyone(&self) {
        for group in self.groups.values() {
            group.notify_waiters();
        }
    }

    /// Takes a delivery out of the air, unless its tag is stale.
    fn land(&mut self, tag: DeliveryTag) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(&tag.position)?;
        if let Some(member) = self.members.get_mut(&in_flight.member) {
            member.in_flight -= 1;
        }
        Some(in_flight)
    }

    fn put_back_if(&mut self, mut which: impl FnMut(&InFlight) -> bool) {
        for (_, in_flight) in self.in_flight.extract_if(|_, in_flight| which(in_flight)) {
            self.lanes[in_flight.lane].put_back(in_flight.item);
        }
    }

    /// A group has acknowledged a message: it goes when it was the last that had to.
    fn settle(&mut self, shared: &Shared, item: &Item) {
        let Some(topic) = self.topics.get_mut(&item.message.topic) else { return };
        let Some(kept) = topic.log.get_mut(&item.position) else { return };
        kept.outstanding -= 1;
        if kept.outstanding > 0 {
            return;
        }
        let confirm = kept.confirm.take();
        topic.log.remove(&item.position);
        self.kept -= 1;
        shared.room.notify_waiters();
        if let Some(waiting) = confirm {
            let outcome = Ok(receipt(item.position));
            if self.plan.hold_confirms {
                self.held_confirms.push((waiting, outcome));
            } else {
                let _ = waiting.sender.send(outcome);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn waiting(connection: u64) -> (Waiting, Confirm) {
    let (sender, receiver) = oneshot::channel();
    let confirm = Confirm::new(async move { receiver.await.unwrap_or_else(|_| Err(closed_too_early())) });
    (Waiting { connection, sender }, confirm)
}

fn closed_too_early() -> BrokerError {
    BrokerError::new(
        ErrorClass::Unknown,
        "the connection to the in-memory broker was closed before the message was confirmed",
    )
}

/// A topic has one partition.
fn receipt(position: u64) -> Receipt {
    Receipt::at(0, i64::try_from(position).unwrap_or(i64::MAX))
}
