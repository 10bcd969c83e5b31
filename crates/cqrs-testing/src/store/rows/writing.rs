//! From transactions into the table.

use cqrs_core::{MessageId, Transaction};
use cqrs_outbox::Place;

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, ensure, ensure_eq, event, fail, labels, skip};

pub(super) async fn commit<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let mut tx = owner.table.begin().await?;
    owner.table.write(&mut tx, [event(Some("a"), "1"), event(Some("b"), "2")]).await?;
    ensure_eq("read before the commit", labels(&owner.read().await?), [""; 0])?;
    owner.table.write(&mut tx, [event(Some("a"), "3")]).await?;
    tx.commit().await?;
    owner.commit([]).await?;
    owner.commit([event(None, "4")]).await?;
    let rows = owner.read().await?;
    ensure_eq("read after the commit", labels(&rows), ["1", "2", "3", "4"])?;
    ensure(rows.iter().all(|row| row.place == Place::Hot && row.attempts == 0), || {
        format!("new rows are not as new: {rows:?}")
    })
}

pub(super) async fn rollback<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let mut tx = owner.table.begin().await?;
    owner.table.write(&mut tx, [event(Some("a"), "rolled back")]).await?;
    tx.rollback().await?;
    ensure_eq("read after the rollback", labels(&owner.read().await?), [""; 0])?;

    let mut tx = owner.table.begin().await?;
    owner.table.write(&mut tx, [event(Some("a"), "dropped")]).await?;
    drop(tx);
    // Many times, for a pool may lend the connection again that it had.
    for nth in 0..20 {
        bench.bounded("a commit after a rollback", owner.commit([event(None, &nth.to_string())])).await??;
    }
    let wanted: Vec<String> = (0..20).map(|nth| nth.to_string()).collect();
    ensure_eq("read after the drop", labels(&owner.read().await?), wanted)
}

pub(super) async fn late_commits<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    if !bench.adapter.writes_concurrently() {
        return skip("one transaction writes at a time (`StoreUnderTest::writes_concurrently`)");
    }
    let owner = bench.owned().await?;
    let mut open = Vec::new();
    for name in ["0", "1", "2", "never"] {
        let mut tx = owner.table.begin().await?;
        owner.table.write(&mut tx, [event(Some(name), name)]).await?;
        open.push(tx);
    }
    let mut known = Vec::new();
    let last = open.pop();
    for (tx, name) in open.into_iter().rev().zip(["2", "1", "0"]) {
        tx.commit().await?;
        let new = owner.read_as(&owner.request(&known)).await?;
        ensure_eq("read after a commit", labels(&new), [name])?;
        known.extend(new.iter().map(|row| row.id));
        known.sort();
        // One of them is gone before the last one appears, as it is with a relay that is quick.
        if name == "1" {
            owner.settle(new).await?;
        }
    }
    if let Some(tx) = last {
        tx.rollback().await?;
    }
    let mut left = labels(&owner.read().await?);
    left.sort();
    ensure_eq("read at the end", left, ["0", "2"])
}

pub(super) async fn plain_sql<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
        VALUES ('room_closed', 'rooms', 'room 5', '{\"room\": 5}')";
    if !bench.adapter.execute(&owner.table.store, insert).await? {
        return skip("this store has no SQL (`StoreUnderTest::execute`)");
    }
    owner.commit([event(Some("room 5"), "by Rust")]).await?;
    let rows = owner.read().await?;
    let [sql, rust] = &rows[..] else { return fail(format!("two rows were written, these read: {rows:?}")) };
    let message = &sql.message;
    ensure_eq("the name", &message.name[..], "room_closed")?;
    ensure_eq("the topic", &message.topic[..], "rooms")?;
    ensure_eq("the key", message.key.as_deref(), Some(&b"room 5"[..]))?;
    ensure_eq("the payload", message.payload.as_deref(), Some(&b"{\"room\": 5}"[..]))?;
    ensure_eq("the content type", message.content_type.as_deref(), Some("application/json"))?;
    ensure_eq("the message's id", message.id.as_ref(), Some(&MessageId::from(sql.event_id)))?;
    ensure(!sql.event_id.is_nil(), || "it has no id".to_owned())?;
    ensure(message.timestamp.is_some(), || "it has no time".to_owned())?;
    ensure(!message.headers.is_empty(), || "it has no headers".to_owned())?;
    ensure_eq("the lane, which a row of the same key by Rust shares", &sql.lane, &rust.lane)?;
    ensure_eq("the group", sql.group, rust.group)?;
    ensure_eq("the rows, read again", &owner.read().await?, &rows)?;
    owner.settle(rows).await?;
    ensure_eq("read after the settle", labels(&owner.read().await?), [""; 0])
}
