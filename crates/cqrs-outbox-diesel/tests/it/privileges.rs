//! That what `docs/privileges.md` grants is enough, and that what it grants on a whole schema is not too much.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_consumer::Inbox;
use cqrs_core::broker::{
    BrokerError, Capabilities, Confirm, ErrorClass, MessageBroker, Receipt, SubscribeOptions, Subscription,
};
use cqrs_core::{BeginTransaction, Envelope, Message, MessageId, ScheduleChange, Transaction};
use cqrs_outbox::{Kept, OutboxRelay};
use cqrs_outbox_diesel::{
    DeadLetterFilter, Edit, Edited, MySql, OrderUnit, Outbox, OutboxStatus, Page, ParkedFilter, Pg,
    RequestFilter, ScheduleFilter,
};
use diesel_async::SimpleAsyncConnection;
use tokio::task::JoinError;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, quick};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(
        tests!(privileges<Pg> { what_the_page_grants_is_enough, what_it_grants_on_a_schema_is_needed }),
    );
    trials.on::<MySql>(
        tests!(privileges<MySql> { what_the_page_grants_is_enough, what_it_grants_on_a_schema_is_needed }),
    );
}

const SOON: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);
const LOGINS: [&str; 4] = ["migrator", "writer", "relay", "operator"];

async fn what_the_page_grants_is_enough<D: Db>(site: &Site) {
    everything::<D>(site, &grants::<D>()).await.unwrap();
}

/// Each of them is left out in turn, and then something fails.
async fn what_it_grants_on_a_schema_is_needed<D: Db>(site: &Site) {
    let grants: Vec<_> = grants::<D>().iter().flat_map(|grant| one_by_one(grant)).collect();
    let mut unneeded = Vec::new();
    for left_out in grants.iter().filter(|grant| is_on_a_schema(grant)) {
        let others: Vec<_> = grants.iter().filter(|grant| *grant != left_out).cloned().collect();
        match everything::<D>(site, &others).await {
            Ok(()) => unneeded.push(left_out.as_str()),
            Err(failed) => {
                let said = panic_message(failed);
                let refused: &[_] = match left_out {
                    // The schema is then as if it were not there, to whoever does not name it.
                    _ if left_out.starts_with("GRANT USAGE") => {
                        &["no schema has been selected", "does not exist", "denied"]
                    }
                    // Who may not make triggers is not told of those that are there.
                    _ if left_out.starts_with("GRANT TRIGGER") => &["TRIGGER"],
                    _ => &["denied"],
                };
                assert!(refused.iter().any(|known| said.contains(known)), "without {left_out}: {said}");
            }
        }
    }
    // Of that the page says so: reads are slow without it, and go on.
    let known: &[_] = match D::NAME {
        "postgres" => &["GRANT SELECT ON ALL SEQUENCES IN SCHEMA events TO relay"],
        _ => &[],
    };
    assert_eq!(unneeded, known);
}

fn panic_message(failed: JoinError) -> String {
    let panic = failed.into_panic();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    panic.downcast_ref::<String>().cloned().or(text).unwrap_or_default()
}

fn is_on_a_schema(grant: &str) -> bool {
    grant.contains("SCHEMA events") || grant.contains("events.*")
}

/// A grant on a schema, for each privilege and login by itself.
fn one_by_one(grant: &str) -> Vec<String> {
    if !is_on_a_schema(grant) {
        return vec![grant.to_owned()];
    }
    let (what, to) = grant.rsplit_once(" TO ").unwrap();
    let (privileges, on) = what.strip_prefix("GRANT ").unwrap().split_once(" ON ").unwrap();
    let each = |privilege| to.split(", ").map(move |to| format!("GRANT {privilege} ON {on} TO {to}"));
    privileges.split(", ").flat_map(each).collect()
}

/// All that the logins do with these privileges.
async fn everything<D: Db>(site: &Site, grants: &[String]) -> Result<(), JoinError> {
    let owner = site.outbox::<D>().await;
    let where_am_i = match D::NAME {
        "postgres" => "SELECT current_schema()::text AS value",
        _ => "SELECT database() AS value",
    };
    let events = owner.values(where_am_i).await.remove(0);
    // For who is to make the tables.
    let empty = site.bare::<D>().await.values(where_am_i).await.remove(0);
    // Names of users are short on MariaDB.
    let login = |name: &str| format!("{name}{}", &events[events.len() - 14..]);
    for name in LOGINS {
        let create = match D::NAME {
            "postgres" => format!("CREATE ROLE {} LOGIN PASSWORD 'secret'", login(name)),
            _ => format!("CREATE USER {} IDENTIFIED BY 'secret'", login(name)),
        };
        owner.sql(&create).await.unwrap();
    }
    for grant in grants {
        let (what, to) = grant.rsplit_once(" TO ").unwrap();
        let events = if to == "migrator" { &empty } else { &events };
        let to: Vec<_> = to.split(", ").map(login).collect();
        let what = what.replace("SCHEMA events", &format!("SCHEMA {events}"));
        let what = what.replace("events.", &format!("{events}."));
        let grant = format!("{what} TO {}", to.join(", "));
        owner.sql(&grant).await.unwrap_or_else(|error| panic!("{grant}: {error}"));
    }
    let url_of = |name: &str, events: &str| {
        let mut url = url::Url::parse(site.server_url()).unwrap();
        url.set_username(&login(name)).unwrap();
        url.set_password(Some("secret")).unwrap();
        match D::NAME {
            "postgres" => url.set_query(Some(&format!("options=-csearch_path%3D{events}"))),
            _ => url.set_path(events),
        }
        url.to_string()
    };
    // A snapshot of another user, of whom an operator is not told much.
    let mut open = owner.connection().await.unwrap();
    if D::NAME == "postgres" {
        open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM cqrs_outbox").await.unwrap();
    }
    let urls = ["writer", "relay", "operator"].map(|name| url_of(name, &events));
    let url_of_migrator = url_of("migrator", &empty);
    let done = tokio::spawn(async move {
        let connect = async |url: String| D::keeping(url).await.unwrap();
        let migrator = connect(url_of_migrator).await;
        migrator.migrate().await.unwrap();
        assert_eq!(migrator.drift().await.unwrap(), []);
        let [writer, relay, operator] = urls;
        write(&connect(writer).await).await;
        operate(&connect(operator).await, &connect(relay).await).await;
    })
    .await;
    if D::NAME == "postgres" {
        open.batch_execute("ROLLBACK").await.unwrap();
    }
    for name in LOGINS {
        let drop = match D::NAME {
            "postgres" => format!("DROP OWNED BY {0}; DROP ROLE {0}", login(name)),
            _ => format!("DROP USER {}", login(name)),
        };
        owner.sql(&drop).await.unwrap();
    }
    done
}

/// The statements of the page for this server.
fn grants<D: Db>() -> Vec<String> {
    let of_server = if D::NAME == "postgres" { "PostgreSQL" } else { "MariaDB" };
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/privileges.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, part) = page.split_once(&format!("\n## {of_server}")).unwrap();
    let sql = part.split_once("```sql\n").unwrap().1.split_once("```").unwrap().0;
    sql.split(';').map(|grant| grant.trim().replace('\n', " ")).filter(|grant| !grant.is_empty()).collect()
}

async fn write<D: Db>(outbox: &Outbox<D>) {
    let event = |room: &str| Envelope::new(closed(room));
    let mut tx = outbox.begin().await.unwrap();
    tx.publish_all([event("1"), event("2").with_key_version(1)]).await.unwrap();
    tx.publish(event("3").with_dedup_key("once", HOUR)).await.unwrap();
    tx.publish(event("3").with_dedup_key("once", HOUR)).await.unwrap();
    tx.lock_key("4").await.unwrap();
    let later = tx.publish(event("5").deliver_after(HOUR).with_dedup_key("later", HOUR)).await.unwrap();
    let later = later.events[0].id.to_uuid().unwrap();
    let moved = tx.reschedule(later, chrono::Utc::now() + 2 * HOUR).await.unwrap();
    assert_eq!((moved, tx.cancel(later).await.unwrap()), (ScheduleChange::Done, ScheduleChange::Done));
    let refused = ["6", "7"].map(|room| event(room).with_header("refused", "yes").with_dedup_key(room, HOUR));
    tx.publish_all(refused).await.unwrap();
    tx.publish(event("8").deliver_after(HOUR).with_dedup_key("8", HOUR)).await.unwrap();
    tx.publish(event("9").deliver_after(Duration::from_millis(1))).await.unwrap();
    for _ in 0..2 {
        outbox.admit(&mut tx, "consumer", &MessageId::from(Uuid::nil())).await.unwrap();
    }
    tx.commit().await.unwrap();
    // A version that is behind gives back what was claimed.
    let stale = event("2").with_key_version(1).with_dedup_key("stale", HOUR);
    outbox.transaction(async |tx| tx.publish(stale).await).await.unwrap_err();
}

/// Refuses what nobody has mended.
#[derive(Debug)]
struct Picky;

#[async_trait]
impl MessageBroker for Picky {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("picky")
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        if message.headers.get("refused").is_some() && message.headers.get("mended").is_none() {
            return Err(BrokerError::new(ErrorClass::Event, "not like this"));
        }
        Ok(Confirm::ready(Ok(Receipt::new())))
    }

    async fn subscribe(&self, _options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        Err(BrokerError::new(ErrorClass::Destination, "nothing to read"))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// Relays until an operator sees that.
async fn until<D: Db>(outbox: &Outbox<D>, relay: OutboxRelay, is_so: fn(&OutboxStatus) -> bool) {
    let seen = async {
        loop {
            if is_so(&outbox.status().await.unwrap()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, relay.run_until(seen)).await.expect("it does not come to that").unwrap();
}

async fn operate<D: Db>(outbox: &Outbox<D>, relayed: &Outbox<D>) {
    let relay = |max_attempts: u32| {
        let mut settings = quick();
        settings.max_attempts = max_attempts;
        settings.heartbeat_interval = Duration::from_millis(100);
        OutboxRelay::builder(D::store(relayed), Arc::new(Picky)).settings(settings).build().unwrap()
    };
    relayed.check_schema().await.unwrap();
    until(outbox, relay(1_000), |status| (status.parked, status.waiting) == (2, 2)).await;
    assert_eq!(outbox.parked(&ParkedFilter::default(), Page::oldest_first()).await.unwrap().len(), 2);
    outbox.unpark(&ParkedFilter::default()).await.unwrap();
    until(outbox, relay(1), |status| status.dead_letters == 2).await;

    outbox.hold().await.unwrap();
    outbox.resume().await.unwrap();
    let letters = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap();
    let [first, second] = [letters[0].event_id, letters[1].event_id];
    outbox.dead_letter(first).await.unwrap().unwrap();
    let edit = Edit::new().header("mended", "yes");
    assert_eq!(outbox.edit(first, &edit).await.unwrap(), Edited::DeadLetter);
    outbox.discard(first).await.unwrap();
    assert_eq!(outbox.cancel_requests(&RequestFilter::new()).await.unwrap(), 1);
    outbox.replay(first).await.unwrap();
    outbox.discard(second).await.unwrap();
    until(outbox, relay(1), |status| status.dead_letters == 0).await;
    assert_eq!(outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().len(), 4);

    let scheduled = outbox.scheduled(&ScheduleFilter::default()).await.unwrap().remove(0);
    let id = scheduled.event_id;
    assert_eq!(outbox.edit(id, &edit).await.unwrap(), Edited::Scheduled);
    let moved = outbox.reschedule(id, chrono::Utc::now() + 2 * HOUR).await.unwrap();
    assert_eq!((moved, outbox.cancel(id).await.unwrap()), (ScheduleChange::Done, ScheduleChange::Done));
    timeout(SOON, relay(1).run_until_empty()).await.unwrap().unwrap();
    let unit = outbox.order_unit().await.unwrap();
    assert_eq!(unit, OrderUnit::Key);
    outbox.set_order_unit(OrderUnit::TopicAndKey).await.unwrap();
    outbox.renew_installation_id().await.unwrap();
    for kept in [Kept::Inbox, Kept::Requests, Kept::Sent, Kept::DedupKeys] {
        cqrs_outbox::OutboxStore::purge(&*D::store(outbox), kept, Duration::ZERO).await.unwrap();
    }
    assert_eq!(outbox.count("cqrs_outbox_sent").await, 0);
}
