use std::sync::Arc;
use std::time::Duration;

use cqrs::broker::memory::MemoryBroker;
use cqrs::sql::{Outbox, Sqlite, Tx};
use cqrs::{
    Context, Encoder, ErrorKind, NotificationEvent, Request, RequestHandler, Result, TransactionalHandler,
    bootstrap,
};
use serde::Serialize;

#[derive(Request)]
struct Say {
    bytes: usize,
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "said")]
struct Said {
    text: String,
}

struct SayHandler;

impl TransactionalHandler<Say, Sqlite> for SayHandler {
    async fn handle(&self, command: Say, _tx: &mut Tx<Sqlite>, cx: &Context<'_>) -> Result<()> {
        cx.emit(Said { text: "x".into() });
        cx.emit(Said { text: "x".repeat(command.bytes) });
        Ok(())
    }
}

impl RequestHandler<Say> for SayHandler {
    async fn handle(&self, command: Say, cx: &Context<'_>) -> Result<()> {
        cx.emit(Said { text: "x".repeat(command.bytes) });
        Ok(())
    }
}

async fn outbox(folder: &tempfile::TempDir) -> Result<Outbox<Sqlite>> {
    let outbox = Outbox::<Sqlite>::connect(format!("sqlite://{}/it.sqlite", folder.path().display())).await?;
    Ok(outbox.with_encoder(Encoder::default().with_max_message_bytes(10_000)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tables_is_told_when_the_application_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let app = bootstrap().outbox(outbox(&folder).await.unwrap()).broker(Arc::new(MemoryBroker::new()));
    let error = app.build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("`Outbox::migrate`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_the_limit_takes_the_others_of_its_request_back() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = outbox(&folder).await.unwrap();
    outbox.migrate().await.unwrap();
    let broker = Arc::new(MemoryBroker::new());
    let app = bootstrap()
        .outbox(outbox)
        .transactional::<Say>(SayHandler)
        .broker(broker.clone())
        .build()
        .await
        .unwrap();
    app.requests().send(Say { bytes: 1 }).await.unwrap();
    let error = app.requests().send(Say { bytes: 20_000 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    let text = error.to_string();
    assert!(text.contains("`said`") && text.contains("the limit is 10000"), "{text}");

    // Two of the request that succeeded, and none of the other.
    let settled = async {
        while app.relay_stats().settled < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    app.run_until(settled).await.unwrap();
    assert_eq!(app.relay_stats().settled, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integration_event_without_transaction_and_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = outbox(&folder).await.unwrap();
    outbox.migrate().await.unwrap();
    let app = bootstrap()
        .outbox(outbox)
        .request::<Say>(SayHandler)
        .broker(Arc::new(MemoryBroker::new()))
        .build()
        .await
        .unwrap();
    let error = app.requests().send(Say { bytes: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTarget);
    for way_out in ["`TransactionalHandler`", "`outbox.transaction(..)`", "`EventEmitter::direct(broker)`"] {
        assert!(error.to_string().contains(way_out), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_not_of_this_database_are_refused() {
    for url in ["postgres://localhost/rooms", "rooms.sqlite", "sqlite://", "sqlite::memory:"] {
        let error = Outbox::<Sqlite>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{url}: {error}");
    }
    let error = Outbox::<Sqlite>::connect("sqlite:///no/such/folder/rooms.sqlite").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("does the folder exist"), "{error}");
}
