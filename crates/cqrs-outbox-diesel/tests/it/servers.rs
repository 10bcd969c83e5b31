//! Servers of a test's own, that are killed and paused.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{Encoder, Envelope, ErrorKind};
use cqrs_outbox::{Heartbeat, OutboxRelay, RelayId};
use cqrs_outbox_diesel::{Asking, DeadLetterFilter, Edit, MySql, Outbox, Page, Pg, RequestKind};
use cqrs_testing::history::History;
use cqrs_testing::services::Server;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use url::Url;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::Owner;
use crate::events::{Sink, closed, own_all, quick};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on_own::<Pg>(tests!(servers {
        a_wrong_password_is_a_clear_error,
        a_crash_ends_what_reads_remember
    }));
    trials.on_own::<Pg>(tests!(servers<Pg> { a_server_that_is_away_loses_nothing }));
    trials.on_own::<MySql>(tests!(servers<MySql> { a_server_that_is_away_loses_nothing }));
    trials.on_own::<MySql>(tests!(servers {
        an_idle_relay_runs_little,
        a_server_of_small_packets_takes_many_events
    }));
}

pub(crate) async fn start<D: Db>() -> Arc<Server> {
    let service = D::SERVICE.unwrap();
    Arc::new(spawn_blocking(move || Server::start(service)).await.unwrap().unwrap())
}

/// Tells a server to do something, which blocks.
pub(crate) async fn tell(server: &Arc<Server>, call: fn(&Server) -> Result<(), String>) {
    let server = server.clone();
    spawn_blocking(move || call(&server)).await.unwrap().unwrap();
}

async fn a_wrong_password_is_a_clear_error(_: &Site) {
    let server = start::<Pg>().await;
    let mut url = Url::parse(server.url()).unwrap();
    url.set_password(Some("wrong-secret")).unwrap();
    let error = Outbox::<Pg>::connect(url.as_str()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false), "{error}");
    for part in ["password authentication failed", url.username(), "check the URL"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let all = format!("{error} {error:#} {error:?}");
    assert!(!all.contains("wrong-secret"), "{all}");
}

/// An orderly restart loses nothing, so the run goes on.
async fn a_crash_ends_what_reads_remember(_: &Site) {
    let server = start::<Pg>().await;
    let connect = async || Pg::connect(server.url().to_owned()).await.unwrap();
    let outbox = connect().await;
    outbox.migrate().await.unwrap();
    outbox.sql("INSERT INTO cqrs_outbox_run DEFAULT VALUES").await.unwrap();
    let run = "SELECT run::text AS value FROM cqrs_outbox_run";
    let before = outbox.values(run).await;
    drop(outbox);
    tell(&server, Server::restart).await;
    assert_eq!(connect().await.values(run).await, before);
    tell(&server, Server::kill).await;
    tell(&server, Server::start_again).await;
    assert!(connect().await.values(run).await.is_empty());
}

/// Killed and started again; then stopped in its tracks, as a network that swallows everything.
async fn a_server_that_is_away_loses_nothing<D: Db>(_: &Site) {
    let server = start::<D>().await;
    let outbox = D::connect(server.url().to_owned()).await.unwrap();
    outbox.migrate().await.unwrap();
    let (history, sink) = (History::new(), Arc::new(Sink::default()));
    let mut settings = quick();
    settings.store_timeout = Duration::from_millis(500);
    let relay = OutboxRelay::builder(D::store(&outbox), sink.clone()).settings(settings).build().unwrap();
    let write = async |from: u64| {
        for nth in from..from + 50 {
            let (key, id) = (format!("{}", nth % 5), Uuid::from_u128(u128::from(nth) + 1));
            // A connection of the pool may have died with the server.
            let written = async {
                loop {
                    let event = Envelope::new(closed(&key)).with_id(id);
                    match outbox.transaction(async move |tx| tx.publish(event).await).await {
                        Ok(_) => break,
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            };
            timeout(Duration::from_secs(30), written).await.expect("nothing can be written");
            history.committed(bytes::Bytes::from(key), id, nth);
        }
    };
    let sent = async |count: usize| {
        let all = async {
            while outbox.waiting().await > 0 || sink.messages().len() < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), all).await.expect("the relay did not come back");
    };
    let work = async {
        write(0).await;
        tell(&server, Server::kill).await;
        tell(&server, Server::start_again).await;
        write(50).await;
        sent(100).await;
        tell(&server, Server::pause).await;
        let silent = timeout(Duration::from_secs(2), D::connect(server.url().to_owned()));
        assert!(silent.await.is_err(), "it answers");
        tell(&server, Server::resume).await;
        write(100).await;
        sent(150).await;
    };
    relay.run_until(work).await.unwrap();
    for message in sink.messages() {
        history.delivered(message.id.unwrap().to_uuid().unwrap(), message.key);
    }
    history.check().assert_clean();
}

/// As the server counts them.
async fn an_idle_relay_runs_little(_: &Site) {
    let server = start::<MySql>().await;
    let outbox = MySql::connect(server.url().to_owned()).await.unwrap();
    outbox.migrate().await.unwrap();
    let store = MySql::store(&outbox);
    let relay = RelayId { name: "one".to_owned(), incarnation: Uuid::new_v4() };
    own_all(&store, &relay).await;
    let beat = Heartbeat { lease: Duration::from_secs(600), take: 0, release: Vec::new() };
    // Not what asks for it, which is a statement, too.
    let count = async |what: &str| -> u64 {
        let count = format!(
            "SELECT CAST(variable_value AS text) AS value FROM information_schema.global_status \
             WHERE variable_name = '{what}'"
        );
        outbox.values(&count).await[0].parse().unwrap()
    };
    store.heartbeat(&relay, &beat).await.unwrap();
    for (what, each) in [("Com_stmt_execute", 4), ("Com_stmt_prepare", 0), ("Com_set_option", 0)] {
        let (first, second) = (count(what).await, count(what).await);
        for _ in 0..3 {
            let ownership = store.heartbeat(&relay, &beat).await.unwrap();
            assert_eq!((ownership.leases.len(), ownership.groups, ownership.relays), (64, 64, 1));
        }
        assert_eq!(count(what).await - second, 3 * each + (second - first), "{what}");
    }
}

/// All that one call writes may be more than the server takes at once.
async fn a_server_of_small_packets_takes_many_events(_: &Site) {
    let server = start::<MySql>().await;
    let connect = async || MySql::connect(server.url().to_owned()).await.unwrap();
    connect().await.sql("SET GLOBAL max_allowed_packet = 1048576").await.unwrap();
    let outbox = connect().await;
    outbox.migrate().await.unwrap();
    let event = |nth: usize| Envelope::new(closed("x".repeat(3_500))).with_key(format!("{nth:01900}"));
    outbox.transaction(async |tx| tx.publish_all((0..5).map(event).collect::<Vec<_>>()).await).await.unwrap();
    Owner::new(&outbox).await.bury_all(false, "not readable").await;

    let plain = || (0..600).map(event).collect::<Vec<_>>();
    let wishes = (0..600).map(|nth| {
        event(nth).with_key_version(1).with_dedup_key(format!("{nth:01900}"), Duration::from_secs(60))
    });
    let later = (0..600).map(|nth| event(nth).deliver_after(Duration::from_secs(600)));
    let wishes: Vec<_> = wishes.chain(later).collect();
    // Through each of the doors, and on a connection that the outbox knows nothing of.
    outbox.transaction(async |tx| tx.publish_all(plain()).await).await.unwrap();
    let mut conn = outbox.connection().await.unwrap();
    outbox.add_all(&mut conn, plain()).await.unwrap();
    outbox.transaction(async |tx| tx.publish_all(wishes).await).await.unwrap();
    assert_eq!((outbox.waiting().await, outbox.count("cqrs_outbox_scheduled").await), (1_800, 600));
    assert_eq!(outbox.count("cqrs_outbox_version").await, 600);
    let keys = "SELECT CAST(message_key AS char) AS value FROM cqrs_outbox ORDER BY id LIMIT 600";
    assert!(outbox.values(keys).await.is_sorted(), "they are in their order");

    // What operators ask for, too.
    let letters = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap();
    let many: Vec<_> = letters.iter().cycle().take(1_000).cloned().collect();
    let asking = Asking::new().rate(1.0).requested_by("a".repeat(1_000));
    outbox.ask_for(RequestKind::Replay, &many, &asking).await.unwrap();
    let seconds = "SELECT CAST(count(DISTINCT timestampdiff(SECOND, '2026-01-01', not_before)) AS char) AS value \
                   FROM cqrs_outbox_request";
    let seconds: usize = outbox.values(seconds).await[0].parse().unwrap();
    assert!(seconds > 990, "each waits a second longer: {seconds}");
    assert_eq!(outbox.count("cqrs_outbox_request").await, 1_000);

    // What is larger by itself is told.
    let outbox = outbox.with_encoder(Encoder::default().with_max_message_bytes(usize::MAX));
    let large = || "x".repeat(1 << 20);
    let events = ["x".to_owned(), large()].map(|room| Envelope::new(closed(room)).with_key("room"));
    let error = outbox.transaction(async |tx| tx.publish_all(events).await).await;
    let edit = Edit::new().payload(format!("\"{}\"", large()));
    let of_edit = outbox.edit(letters[0].event_id, &edit).await;
    for error in [error.unwrap_err(), of_edit.unwrap_err()] {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidEvent, false), "{error}");
        assert!(error.to_string().contains("`max_allowed_packet` of 1048576"), "{error}");
    }
}
