//! What comes out is what went in.

use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use cqrs_core::{EventKind, Headers, Message};
use cqrs_outbox::{OrderUnit, OutboxRow, Place};
use uuid::Uuid;

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, LONG, Owner, ensure, ensure_eq, event, fail, keyed, labels_at};

/// Writes the messages, reads them twice, and compares.
async fn round_trips<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    messages: Vec<Message>,
) -> Checked<(Owner<S>, Vec<Message>)> {
    let owner = bench.owned().await?;
    // One by one, so that a row that fails is known, and all together, as one statement.
    for message in messages.clone() {
        let shown = format!("{message:?}");
        let written = owner.commit([message]).await?;
        let rows = owner.read().await?;
        same(bench.adapter.order_unit(), &rows, &written)
            .or_else(|_| fail(format!("{shown}\ncame back as {rows:?}")))?;
        owner.settle(rows).await?;
    }
    let written = owner.commit(messages).await?;
    let rows = owner.read().await?;
    same(bench.adapter.order_unit(), &rows, &written)?;
    ensure(owner.read().await? == rows, || "a second read brought other rows".to_owned())?;
    Ok((owner, written))
}

fn same(unit: OrderUnit, rows: &[OutboxRow], written: &[Message]) -> Checked {
    ensure_eq("rows read", rows.len(), written.len())?;
    for (row, message) in rows.iter().zip(written) {
        ensure(row.message == *message, || format!("{:?}\ncame back instead of {message:?}", row.message))?;
        let id = message.id.as_ref().and_then(|id| id.to_uuid());
        ensure_eq("the row's event id", Some(row.event_id), id)?;
        let lane = unit.lane(&message.topic, message.key.as_deref(), row.event_id);
        ensure_eq("the row's lane", &row.lane, &lane)?;
    }
    Ok(())
}

pub(super) async fn message<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let messages = ["2026-01-02T03:04:05.000001Z", "2026-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.5Z"]
        .into_iter()
        .enumerate()
        .map(|(nth, time)| {
            let mut message = event(Some("k"), "{}");
            message.id =
                Some(Uuid::from_u128(nth as u128 + 0x00ff_0000_0000_0000_8000_0000_0000_0000).into());
            message.name = "raum_geschlossen_ü'\"".to_owned();
            message.topic = "räume.5-six_7 ".to_owned();
            message.kind = Some([EventKind::Notification, EventKind::Ecst][nth % 2]);
            message.version = Some([1, 7, i32::MAX as u32][nth]);
            message.content_type = Some("application/vnd.rooms+json; charset=utf-8".to_owned());
            message.timestamp = DateTime::parse_from_rfc3339(time).ok().map(|time| time.to_utc());
            message
        })
        .collect();
    round_trips(bench, messages).await?;
    Ok(())
}

pub(super) async fn headers<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let cases: [&[(&'static str, &'static [u8])]; 6] = [
        &[],
        &[("plain", b"value"), ("Plain", b"Value"), ("empty", b"")],
        &[("ünïcode", "Grüße, 世界 🦀".as_bytes()), ("binary", b"\0\x01\xfe\xff"), ("nul", b"a\0b")],
        &[("again", b"2"), ("again", b"1"), ("between", b""), ("again", b"2")],
        &[("Mixed-Case_and.dots", b" padded "), ("special", b"a=b;c,d\"e'f\\g\r\n\t%&\\u0000\x7f")],
        &[("number", b"1"), ("boolean", b"true"), ("null", b"null"), ("json", b"{\"hex\":\"00\"}")],
    ];
    let messages = cases.map(|headers| {
        let mut message = event(Some("k"), "{}");
        message.headers =
            Headers::from_iter(headers.iter().map(|(name, value)| (*name, Bytes::from_static(value))));
        message
    });
    round_trips(bench, messages.into()).await?;
    Ok(())
}

pub(super) async fn keys<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let cases = [
        None,
        Some(Bytes::new()),
        Some(Bytes::from_static(b"room 5")),
        Some(Bytes::from_static(b" room 5 ")),
        Some(Bytes::from_static("Zimmer fünf, 五号室 🦀".as_bytes())),
        Some(Bytes::from_static(b"\0\x01\xfe\xff\\000\0")),
        Some(every_byte().repeat(4).into()),
    ];
    round_trips(bench, cases.map(|key| keyed(key, "{}")).into()).await?;
    Ok(())
}

pub(super) async fn payloads<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let cases = [
        None,
        Some(Bytes::new()),
        Some(Bytes::from_static(b"null")),
        Some(Bytes::from_static("{\"room\": \"Größe 🦀\\n\\\\x\"}\r\n".as_bytes())),
        Some(Bytes::from_static(b"\\x00ff")),
        Some(every_byte().into()),
        Some(every_byte().repeat(1_000).into()),
    ];
    let messages = cases.map(|payload| {
        let mut message = event(Some("k"), "");
        message.payload = payload;
        message
    });
    round_trips(bench, messages.into()).await?;
    Ok(())
}

fn every_byte() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

pub(super) async fn parked_message<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut full = keyed(Some(Bytes::from_static(b"\0\xff")), "");
    full.payload = Some(every_byte().into());
    full.headers.append("again", "1");
    full.headers.append("again", Bytes::from_static(b"\xff"));
    full.kind = Some(EventKind::Ecst);
    full.version = Some(3);
    let mut tombstone = event(Some(""), "");
    tombstone.payload = None;
    let (owner, written) = round_trips(bench, vec![full, tombstone, event(None, "")]).await?;
    let hot = owner.read().await?;
    for row in &hot {
        owner.park(row, Duration::ZERO).await?;
    }
    let parked = owner.parked().await?;
    same(bench.adapter.order_unit(), &parked, &written)?;
    for (hot, parked) in hot.iter().zip(&parked) {
        let expected = OutboxRow { attempts: 1, place: Place::Parked, ..hot.clone() };
        ensure_eq("the row after it was parked", parked, &expected)?;
    }
    ensure(owner.parked().await? == parked, || "a second read brought other rows".to_owned())
}

pub(super) async fn lanes<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let keyless = owner.commit([event(None, "first of e 0"), event(None, "first of e 1")]).await?;
    // As the bytes of an event's id, which is what tells rows without a key apart.
    let id = keyless[0].id.as_ref().and_then(|id| id.to_uuid()).unwrap_or_default();
    let keys: Vec<Bytes> = [
        &b""[..],
        b"\0",
        b"\0\0",
        b"room",
        b"Room",
        b"room ",
        b"room\0",
        b" room",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"\xff",
        b"\xfe",
        b"\xff\0",
        id.as_bytes(),
        &every_byte().repeat(6)[..1_500],
    ]
    .map(Bytes::copy_from_slice)
    .into();
    for half in ["first", "second"] {
        let some = keys.iter().enumerate();
        owner.commit(some.map(|(nth, key)| keyed(Some(key.clone()), &format!("{half} of {nth}")))).await?;
    }
    for keyless in ["first of e 0", "first of e 1"] {
        owner.park(&owner.find(keyless).await?, LONG).await?;
        let gated = labels_at(&owner.read().await?, Place::Gated);
        ensure_eq("gated by a row without a key", gated, [""; 0])?;
    }
    let mut wanted = Vec::new();
    for (nth, key) in keys.iter().enumerate() {
        owner.park(&owner.find(&format!("first of {nth}")).await?, LONG).await?;
        wanted.push(format!("second of {nth}"));
        let gated = labels_at(&owner.read().await?, Place::Gated);
        ensure_eq(&format!("gated after {key:?}"), &gated, &wanted)?;
    }
    Ok(())
}
