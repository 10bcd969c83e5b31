//! A relay's surroundings, in which it dies at a point of its work.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::{Capabilities, Confirm, MessageBroker, SubscribeOptions, Subscription};
use cqrs_core::{BrokerError, Message};
use cqrs_outbox::{
    Confirmed, Fenced, Heartbeat, Kept, Lane, LaterEvents, Lease, OutboxRow, OutboxStore, Ownership,
    Promoted, ReadRequest, Rejection, RelayId, StoreError, SuspendedTopic,
};
use tokio::sync::watch;

/// Where a relay dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// It owns groups, and has not heard of it.
    AfterClaim,
    /// It has read what waits.
    AfterRead,
    /// The broker has nothing yet.
    BeforePublish,
    /// The broker has the first event, and has not said so.
    BeforeConfirm,
    /// What the broker has confirmed stands in the outbox yet.
    BeforeSettle,
    /// It stands there no more, and the relay has not heard of it.
    AfterSettle,
}

impl Point {
    pub(super) const ALL: [Self; 6] = [
        Self::AfterClaim,
        Self::AfterRead,
        Self::BeforePublish,
        Self::BeforeConfirm,
        Self::BeforeSettle,
        Self::AfterSettle,
    ];

    /// The broker has nothing of that relay.
    pub(super) fn is_before_the_broker(self) -> bool {
        matches!(self, Self::AfterClaim | Self::AfterRead | Self::BeforePublish)
    }
}

/// The store and the broker of a relay that dies.
#[derive(Debug)]
pub(super) struct Mortal {
    store: Arc<dyn OutboxStore>,
    broker: Arc<dyn MessageBroker>,
    point: Point,
    reached: watch::Sender<bool>,
}

impl Mortal {
    pub(super) fn new(
        store: Arc<dyn OutboxStore>,
        broker: Arc<dyn MessageBroker>,
        point: Point,
    ) -> Arc<Self> {
        Arc::new(Self { store, broker, point, reached: watch::Sender::new(false) })
    }

    /// Resolves when its relay is where it dies: whoever drops that then has killed it.
    pub(super) async fn reached(&self) {
        self.reached.subscribe().wait_for(|reached| *reached).await.ok();
    }

    /// Nothing goes on behind it.
    async fn dies_at(&self, point: Point) {
        if self.point == point {
            self.reached.send_replace(true);
            std::future::pending().await
        }
    }
}

#[async_trait]
impl OutboxStore for Mortal {
    fn place(&self) -> Option<&str> {
        self.store.place()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        let ownership = self.store.heartbeat(relay, heartbeat).await?;
        if !ownership.leases.is_empty() {
            self.dies_at(Point::AfterClaim).await;
        }
        Ok(ownership)
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        let rows = self.store.read(request).await?;
        if !rows.is_empty() {
            self.dies_at(Point::AfterRead).await;
        }
        Ok(rows)
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.store.read_parked(request).await
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        self.dies_at(Point::BeforeSettle).await;
        self.store.settle(confirmed).await?;
        self.dies_at(Point::AfterSettle).await;
        Ok(())
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        self.store.reject(rejection).await
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        self.store.set_aside(lease, lane, ids, later).await
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        self.store.open_gate(lease, lane).await
    }

    async fn promote(&self, leases: &[Lease], limit: usize) -> Result<Promoted, StoreError> {
        self.store.promote(leases, limit).await
    }

    async fn record_suspects(&self, relay: &RelayId, ids: &[i64]) -> Result<(), StoreError> {
        self.store.record_suspects(relay, ids).await
    }

    async fn record_suspended(&self, relay: &RelayId, topics: &[SuspendedTopic]) -> Result<bool, StoreError> {
        self.store.record_suspended(relay, topics).await
    }

    async fn purge(&self, kept: Kept, older_than: Duration) -> Result<u64, StoreError> {
        self.store.purge(kept, older_than).await
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.store.leave(relay).await
    }

    fn forget(&self, relay: &RelayId) {
        self.store.forget(relay);
    }

    fn hears_commits(&self) -> bool {
        self.store.hears_commits()
    }

    async fn changed(&self) {
        self.store.changed().await;
    }
}

#[async_trait]
impl MessageBroker for Mortal {
    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        self.dies_at(Point::BeforePublish).await;
        let confirm = self.broker.enqueue(message).await?;
        self.dies_at(Point::BeforeConfirm).await;
        Ok(confirm)
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.broker.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.broker.check().await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}
