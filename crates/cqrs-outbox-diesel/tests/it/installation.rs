//! Which outbox this is, and that a relay serves no other one.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::Error;
use cqrs_outbox::{Heartbeat, OutboxRelay, RelayId, StoreError, StoreErrorKind};
use cqrs_outbox_diesel::{MySql, Outbox, Sqlite};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed, quick};
use crate::harness::{OnEach, Test, Trials, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(installation<D> {
            a_relay_serves_its_own_installation_only,
            nothing_is_taken_of_another_installation,
            a_relay_ends_when_its_database_is_exchanged,
            an_installation_keeps_its_id_until_it_is_renewed,
        })
    }
}

pub(crate) fn trials(trials: &mut Trials) {
    // A `uuid` of PostgreSQL's is always one.
    trials.on::<MySql>(tests!(installation<MySql> { an_id_that_is_none_is_named }));
    trials.on::<Sqlite>(tests!(installation<Sqlite> { an_id_that_is_none_is_named }));
}

const SOON: Duration = Duration::from_secs(20);

/// An outbox, and another one of the same database that has to be of that installation.
async fn asked_for<D: Db>(url: &str, id: Uuid) -> Outbox<D> {
    D::of_installation(url.to_owned(), id).await.unwrap()
}

fn is_of_another(error: &Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind() == StoreErrorKind::Installation)
}

async fn a_relay_serves_its_own_installation_only<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.add(&mut *outbox.connection().await.unwrap(), closed("1")).await.unwrap();
    let (own, others) = (outbox.installation_id().await.unwrap(), Uuid::new_v4());
    let sink = Arc::new(Sink::default());

    let stranger = asked_for::<D>(&url, others).await;
    let error = stranger.check_schema().await.unwrap_err();
    assert!(is_of_another(&error), "{error}");
    for part in [&own.to_string(), &others.to_string(), "renew-id"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let relay = OutboxRelay::builder(D::store(&stranger), sink.clone()).settings(quick()).build().unwrap();
    let error = timeout(SOON, relay.run_until_empty()).await.unwrap().unwrap_err();
    assert!(is_of_another(&error), "{error}");
    assert_eq!(sink.messages().len(), 0);

    // To look at it is no harm, nor to be told nothing.
    assert_eq!(stranger.status().await.unwrap().installation_id, own);
    let known = asked_for::<D>(&url, own).await;
    known.check_schema().await.unwrap();
    let relay = OutboxRelay::builder(D::store(&known), sink.clone()).settings(quick()).build().unwrap();
    timeout(SOON, relay.run_until_empty()).await.unwrap().unwrap();
    assert_eq!(sink.messages().len(), 1);
}

async fn nothing_is_taken_of_another_installation<D: Db>(site: &Site) {
    let url = site.empty().await;
    D::connect(url.clone()).await.unwrap().migrate().await.unwrap();
    let stranger = asked_for::<D>(&url, Uuid::new_v4()).await;
    let relay = RelayId { name: "stranger".to_owned(), incarnation: Uuid::new_v4() };
    let beat = Heartbeat { lease: Duration::from_secs(60), take: usize::MAX, release: Vec::new() };
    let error = D::store(&stranger).heartbeat(&relay, &beat).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Installation, "{error}");
    let status = stranger.status().await.unwrap();
    assert_eq!((status.unowned_groups, status.relays.len()), (status.groups, 0));
}

async fn a_relay_ends_when_its_database_is_exchanged<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let known = asked_for::<D>(&url, outbox.installation_id().await.unwrap()).await;
    let sink = Arc::new(Sink::default());
    let mut settings = quick();
    settings.heartbeat_interval = Duration::from_millis(100);
    let relay = OutboxRelay::builder(D::store(&known), sink.clone()).settings(settings).build().unwrap();
    let (_never, shutdown) = oneshot::channel::<()>();
    let exchanged = async {
        relay.started().await;
        // It has renewed its leases by then, and has nothing to take: what most heartbeats are.
        tokio::time::sleep(Duration::from_millis(400)).await;
        outbox.renew_installation_id().await.unwrap();
    };
    let running = relay.run_until(async { drop(shutdown.await) });
    let (ended, ()) = timeout(SOON, async { tokio::join!(running, exchanged) }).await.unwrap();
    let error = ended.unwrap_err();
    assert!(is_of_another(&error), "{error}");
    outbox.add(&mut *outbox.connection().await.unwrap(), closed("1")).await.unwrap();
    assert_eq!((outbox.waiting().await, sink.messages().len()), (1, 0));
}

async fn an_installation_keeps_its_id_until_it_is_renewed<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let first = outbox.installation_id().await.unwrap();
    outbox.migrate().await.unwrap();
    assert_eq!(outbox.installation_id().await.unwrap(), first);
    let second = outbox.renew_installation_id().await.unwrap();
    assert_ne!(second, first);
    assert_eq!(outbox.installation_id().await.unwrap(), second);
    assert_ne!(site.outbox::<D>().await.installation_id().await.unwrap(), first);
    let error = site.bare::<D>().await.renew_installation_id().await.unwrap_err();
    assert!(error.to_string().contains("cqrs outbox migrate"), "{error}");
}

async fn an_id_that_is_none_is_named<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.sql("UPDATE cqrs_outbox_meta SET installation_id = 'production'").await.unwrap();
    let error = outbox.installation_id().await.unwrap_err();
    assert!(error.to_string().contains("`production`, which is no UUID"), "{error}");
    let error = asked_for::<D>(&url, Uuid::nil()).await.check_schema().await.unwrap_err();
    assert!(is_of_another(&error) && error.to_string().contains("`production`"), "{error}");
    outbox.renew_installation_id().await.unwrap();
    outbox.installation_id().await.unwrap();
}
