//! A broker that keeps nothing but the order in which it got events, and refuses those that it is told to.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cqrs_core::broker::{
    Capabilities, Confirm, ErrorClass, MessageBroker, Receipt, SubscribeOptions, Subscription,
};
use cqrs_core::{BrokerError, Message};
use cqrs_outbox::OrderUnit;
use tokio::sync::watch;
use uuid::Uuid;

use super::bench::{Checked, bounded, ensure};
use crate::history::History;

#[derive(Debug)]
pub(super) struct Recorder {
    history: History,
    unit: OrderUnit,
    /// How often these events are to be refused yet.
    refusals: Mutex<HashMap<Uuid, u32>>,
    accepted: watch::Sender<usize>,
    /// Each event as it came first, and those that came again as something else.
    first: Mutex<HashMap<Uuid, Message>>,
    changed: Mutex<BTreeSet<Uuid>>,
    /// Nobody is there, and how often that was met.
    away: Mutex<bool>,
    met_nobody: watch::Sender<usize>,
    /// How long a confirmation takes.
    round_trip: Mutex<Duration>,
    /// The process of a relay that sends this event ends.
    killer: Mutex<Option<Uuid>>,
    killed: watch::Sender<usize>,
}

impl Recorder {
    pub(super) fn new(history: &History, unit: OrderUnit) -> Arc<Self> {
        Arc::new(Self {
            history: history.clone(),
            unit,
            refusals: Mutex::default(),
            accepted: watch::Sender::new(0),
            first: Mutex::default(),
            changed: Mutex::default(),
            away: Mutex::default(),
            met_nobody: watch::Sender::new(0),
            round_trip: Mutex::default(),
            killer: Mutex::default(),
            killed: watch::Sender::new(0),
        })
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// The message was committed, as the so manieth of what it is in order with.
    pub(super) fn committed(&self, message: &Message, nth: u64) {
        let event = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap_or_default();
        self.history.committed(self.in_order_with(message), event, nth);
    }

    /// As the history has it.
    fn in_order_with(&self, message: &Message) -> Option<Bytes> {
        let key = message.key.as_ref()?;
        let lane = self.unit.lane(&message.topic, Some(key), Uuid::nil());
        Some(Bytes::copy_from_slice(lane.as_bytes()))
    }

    /// The event is at fault, so many times.
    pub(super) fn refuse(&self, event: Uuid, times: u32) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(event, times);
    }

    /// From now on it is away, or back.
    pub(super) fn is_away(&self, away: bool) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = away;
    }

    /// Waits until so many messages were refused because it was away.
    pub(super) async fn met_nobody(&self, times: usize, patience: Duration) -> Checked {
        let mut met = self.met_nobody.subscribe();
        let what = format!("trying {times} times to reach a broker that is away");
        bounded(&what, patience, met.wait_for(|met| *met >= times)).await?.ok();
        Ok(())
    }

    /// From now on a confirmation takes so long.
    pub(super) fn takes(&self, round_trip: Duration) {
        *self.round_trip.lock().unwrap_or_else(PoisonError::into_inner) = round_trip;
    }

    /// The process of a relay that sends this event ends: what comes of it is up to who waits for [`kills`](Self::kills).
    pub(super) fn ends_processes(&self, event: Uuid) {
        self.killer.lock().unwrap_or_else(PoisonError::into_inner).replace(event);
    }

    /// Waits for the event that ends processes to be sent for the so manieth time.
    pub(super) async fn kills(&self, times: usize) {
        self.killed.subscribe().wait_for(|killed| *killed >= times).await.ok();
    }

    /// Waits until it has so many messages, duplicates included.
    pub(super) async fn until(&self, wanted: usize, patience: Duration) -> Checked {
        let mut accepted = self.accepted.subscribe();
        let what = format!("sending {wanted} events");
        bounded(&what, patience, accepted.wait_for(|accepted| *accepted >= wanted)).await?.ok();
        Ok(())
    }

    /// Fails if an event came again that was not the same: id, key, bytes, headers and time.
    pub(super) fn all_the_same(&self) -> Checked {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        ensure(changed.is_empty(), || format!("events came again as something else: {changed:?}"))
    }

    fn compare(&self, event: Uuid, message: &Message) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.entry(event).or_insert_with(|| message.clone()) != message {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(event);
        }
    }

    fn answers(&self) -> Result<(), BrokerError> {
        if *self.away.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(BrokerError::new(ErrorClass::Outage, "away, as asked for"));
        }
        Ok(())
    }

    fn refuses(&self, event: Uuid) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let left = refusals.get_mut(&event).filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

#[async_trait]
impl MessageBroker for Recorder {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("recorder")
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let event = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap_or_default();
        if *self.killer.lock().unwrap_or_else(PoisonError::into_inner) == Some(event) {
            self.killed.send_modify(|killed| *killed += 1);
            std::future::pending::<()>().await;
        }
        self.answers().inspect_err(|_| self.met_nobody.send_modify(|met| *met += 1))?;
        let is_refused = self.refuses(event);
        if !is_refused {
            self.compare(event, message);
            self.history.delivered(event, self.in_order_with(message));
            self.accepted.send_modify(|accepted| *accepted += 1);
        }
        // Not at once, so that others come in between: who does not wait for the answer passes what is refused.
        let round_trip = *self.round_trip.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Confirm::new(async move {
            if round_trip.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(round_trip).await;
            }
            if is_refused {
                return Err(BrokerError::new(ErrorClass::Event, "refused, as asked for"));
            }
            Ok(Receipt::new())
        }))
    }

    async fn subscribe(&self, _options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        Err(BrokerError::new(ErrorClass::Destination, "this broker only records"))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.answers()
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}
