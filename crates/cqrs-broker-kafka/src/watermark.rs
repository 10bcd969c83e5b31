//! What a member of a consumer group holds: its partitions, the messages in flight on each, and up to where each
//! partition is done. No client and no clock in here.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound::{Excluded, Unbounded};

use cqrs_core::Message;
use cqrs_core::broker::DeliveryTag;
use tokio_util::sync::CancellationToken;

/// The partitions of this member, and what was received from them and not yet acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    epoch: u64,
    lanes: Vec<Lane>,
    /// Received and not in anybody's hands: fresh, or released. (lane, offset)
    waiting: BTreeSet<(usize, i64)>,
    /// The lane that was served last, so that none waits for ever behind another.
    served: usize,
    held: usize,
}

/// A partition. It keeps its place when the partition goes and comes back.
#[derive(Debug)]
struct Lane {
    topic: String,
    partition: i32,
    assigned: Option<Assigned>,
}

/// A partition that is this member's.
#[derive(Debug)]
struct Assigned {
    epoch: u64,
    lost: CancellationToken,
    flights: BTreeMap<i64, Flight>,
    /// The position behind the last message that was received.
    end: i64,
}

#[derive(Debug)]
struct Flight {
    message: Message,
    attempt: u32,
}

/// A message to hand out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) message: Message,
    pub(crate) attempt: u32,
    pub(crate) tag: DeliveryTag,
    pub(crate) lost: CancellationToken,
}

/// Up to where a partition is done: the position of the first message that is not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Watermark<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) position: i64,
}

impl Lanes {
    /// These partitions were given to this member: a new epoch.
    pub(crate) fn assign<'a>(&mut self, partitions: impl IntoIterator<Item = (&'a str, i32)>) {
        self.epoch += 1;
        for (topic, partition) in partitions {
            self.revoke([(topic, partition)]);
            let assigned = Assigned {
                epoch: self.epoch,
                lost: CancellationToken::new(),
                flights: BTreeMap::new(),
                end: 0,
            };
            match self.find(topic, partition) {
                Some(lane) => self.lanes[lane].assigned = Some(assigned),
                None => self.lanes.push(Lane { topic: topic.into(), partition, assigned: Some(assigned) }),
            }
        }
    }

    /// These partitions were taken from this member: what is in flight on them can no longer be acknowledged.
    pub(crate) fn revoke<'a>(&mut self, partitions: impl IntoIterator<Item = (&'a str, i32)>) {
        for (topic, partition) in partitions {
            if let Some(lane) = self.find(topic, partition) {
                self.end(lane);
            }
        }
    }

    /// All partitions are gone.
    pub(crate) fn revoke_all(&mut self) {
        for lane in 0..self.lanes.len() {
            self.end(lane);
        }
    }

    fn end(&mut self, lane: usize) {
        if let Some(assigned) = self.lanes[lane].assigned.take() {
            assigned.lost.cancel();
            self.held -= assigned.flights.len();
            self.waiting.retain(|(of, _)| *of != lane);
        }
    }

    /// A message came from the broker. One that is held already, or of a partition that is not this member's, is
    /// dropped.
    pub(crate) fn receive(&mut self, message: Message, partition: i32, offset: i64) {
        let Some(lane) = self.find(&message.topic, partition) else { return };
        let Some(assigned) = &mut self.lanes[lane].assigned else { return };
        if assigned.flights.contains_key(&offset) {
            return;
        }
        assigned.flights.insert(offset, Flight { message, attempt: 0 });
        // From the last in flight, not the highest ever seen: a topic that was made anew begins at 0 again.
        assigned.end = assigned.flights.last_key_value().map_or(offset, |(last, _)| *last) + 1;
        self.held += 1;
        self.waiting.insert((lane, offset));
    }

    /// The next message to hand out: the partitions take turns, within one the lowest offset comes first.
    pub(crate) fn take(&mut self) -> Option<Handed> {
        let next = self.waiting.range((Excluded((self.served, i64::MAX)), Unbounded)).next();
        let (lane, offset) = *next.or_else(|| self.waiting.first())?;
        self.waiting.remove(&(lane, offset));
        self.served = lane;
        let assigned = self.lanes[lane].assigned.as_mut()?;
        let flight = assigned.flights.get_mut(&offset)?;
        flight.attempt += 1;
        Some(Handed {
            message: flight.message.clone(),
            attempt: flight.attempt,
            tag: DeliveryTag { epoch: assigned.epoch, lane: lane as u64, position: offset as u64 },
            lost: assigned.lost.clone(),
        })
    }

    /// The message was handled; answers up to where its partition is done. `None` for a stale tag.
    pub(crate) fn ack(&mut self, tag: DeliveryTag) -> Option<Watermark<'_>> {
        let (lane, offset) = self.in_hand(tag)?;
        let lane = &mut self.lanes[lane];
        let assigned = lane.assigned.as_mut()?;
        assigned.flights.remove(&offset);
        self.held -= 1;
        let position = assigned.flights.first_key_value().map_or(assigned.end, |(first, _)| *first);
        Some(Watermark { topic: &lane.topic, partition: lane.partition, position })
    }

    /// The message was not handled and waits to be handed out again. A stale tag is ignored.
    pub(crate) fn release(&mut self, tag: DeliveryTag) {
        if let Some(place) = self.in_hand(tag) {
            self.waiting.insert(place);
        }
    }

    /// How many messages are held: in somebody's hands, or waiting.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn in_hand(&self, tag: DeliveryTag) -> Option<(usize, i64)> {
        let (lane, offset) = (usize::try_from(tag.lane).ok()?, i64::try_from(tag.position).ok()?);
        let assigned = self.lanes.get(lane)?.assigned.as_ref()?;
        let known = assigned.epoch == tag.epoch && assigned.flights.contains_key(&offset);
        (known && !self.waiting.contains(&(lane, offset))).then_some((lane, offset))
    }

    fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.partition == partition && lane.topic == topic)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in mem::take(&mut self.lanes) {
            if let Some(assigned) = lane.assigned {
                assigned.lost.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offsets: &[i64]) -> Lanes {
        let mut lanes = Lanes::default();
        lanes.assign([("rooms", 0)]);
        for offset in offsets {
            lanes.receive(message(*offset), 0, *offset);
        }
        lanes
    }

    fn message(offset: i64) -> Message {
        Message::new("rooms", offset.to_string())
    }

    fn position(watermark: Option<Watermark<'_>>) -> Option<i64> {
        watermark.map(|watermark| watermark.position)
    }

    #[test]
    fn the_watermark_stays_before_the_first_message_that_is_not_done() {
        let mut lanes = with(&[5, 6, 7]);
        let tags: Vec<_> = std::iter::from_fn(|| lanes.take()).map(|handed| handed.tag).collect();
        assert_eq!(position(lanes.ack(tags[2])), Some(5));
        assert_eq!(position(lanes.ack(tags[0])), Some(6));
        assert_eq!(position(lanes.ack(tags[1])), Some(8));
        assert_eq!(lanes.held(), 0);
    }

    #[test]
    fn gaps_between_offsets_are_no_obstacle() {
        let mut lanes = with(&[5, 9, 30]);
        let tags: Vec<_> = std::iter::from_fn(|| lanes.take()).map(|handed| handed.tag).collect();
        assert_eq!(position(lanes.ack(tags[0])), Some(9));
        assert_eq!(position(lanes.ack(tags[1])), Some(30));
        assert_eq!(position(lanes.ack(tags[2])), Some(31));
    }

    #[test]
    fn what_is_received_and_not_handed_out_holds_the_watermark() {
        let mut lanes = with(&[0, 1]);
        let first = lanes.take().unwrap();
        assert_eq!(position(lanes.ack(first.tag)), Some(1));
    }

    #[test]
    fn a_released_message_comes_again_first_and_counts_its_attempts() {
        let mut lanes = with(&[0, 1, 2]);
        let first = lanes.take().unwrap();
        let second = lanes.take().unwrap();
        lanes.release(second.tag);
        lanes.release(first.tag);
        let again: Vec<_> = std::iter::from_fn(|| lanes.take())
            .map(|handed| (handed.tag.position, handed.attempt, handed.message.payload.unwrap()))
            .collect();
        assert_eq!(again, [(0, 2, "0".into()), (1, 2, "1".into()), (2, 1, "2".into())]);
        assert_eq!(lanes.held(), 3);
    }

    #[test]
    fn a_tag_counts_once() {
        let mut lanes = with(&[0]);
        let handed = lanes.take().unwrap();
        assert!(lanes.ack(handed.tag).is_some());
        assert!(lanes.ack(handed.tag).is_none());
        lanes.release(handed.tag);
        assert!(lanes.take().is_none());
    }

    #[test]
    fn a_released_message_cannot_be_acknowledged() {
        let mut lanes = with(&[0]);
        let handed = lanes.take().unwrap();
        lanes.release(handed.tag);
        assert!(lanes.ack(handed.tag).is_none());
        assert!(lanes.take().is_some());
    }

    #[test]
    fn a_revoked_partition_makes_its_tags_stale_and_says_so() {
        let mut lanes = with(&[0, 1]);
        let handed = lanes.take().unwrap();
        lanes.revoke([("rooms", 0)]);
        assert!(handed.lost.is_cancelled());
        assert!(lanes.ack(handed.tag).is_none());
        assert!(lanes.take().is_none());
        assert_eq!(lanes.held(), 0);

        lanes.assign([("rooms", 0)]);
        lanes.receive(message(0), 0, 0);
        let again = lanes.take().unwrap();
        assert!(lanes.ack(handed.tag).is_none(), "a tag of an earlier epoch, at the same place");
        lanes.release(handed.tag);
        assert!(lanes.take().is_none());
        assert_eq!(position(lanes.ack(again.tag)), Some(1));
    }

    #[test]
    fn an_incremental_assignment_leaves_the_others_alone() {
        let mut lanes = with(&[0]);
        let handed = lanes.take().unwrap();
        lanes.assign([("rooms", 1)]);
        lanes.revoke([("rooms", 1)]);
        assert!(!handed.lost.is_cancelled());
        assert_eq!(position(lanes.ack(handed.tag)), Some(1));
    }

    #[test]
    fn partitions_take_turns() {
        let mut lanes = Lanes::default();
        lanes.assign([("rooms", 0), ("rooms", 1)]);
        for offset in 0..2 {
            lanes.receive(message(offset), 0, offset);
            lanes.receive(message(offset), 1, offset);
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.take())
            .map(|handed| (handed.tag.lane, handed.tag.position))
            .collect();
        assert_eq!(order, [(1, 0), (0, 0), (1, 1), (0, 1)]);
    }

    #[test]
    fn a_topic_made_anew_begins_below() {
        let mut lanes = with(&[90]);
        let old = lanes.take().unwrap();
        assert_eq!(position(lanes.ack(old.tag)), Some(91));
        lanes.receive(message(0), 0, 0);
        let new = lanes.take().unwrap();
        assert_eq!(position(lanes.ack(new.tag)), Some(1));
    }

    #[test]
    fn strangers_and_repeats_are_dropped() {
        let mut lanes = with(&[0]);
        lanes.receive(message(0), 0, 0);
        lanes.receive(message(0), 7, 0);
        assert_eq!(lanes.held(), 1);
    }
}
