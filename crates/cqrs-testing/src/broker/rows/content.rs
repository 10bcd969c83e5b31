//! What arrives is what was sent.

use bytes::Bytes;
use cqrs_core::codec::Json;
use cqrs_core::{Codec, Correlation, Encoder, EventKind, Headers, Message};

use crate::broker::bench::{Bench, Checked, Stop, ensure, skip};

/// Sends the messages one after the other, and gives back what arrived for each.
pub(super) async fn round_trips(
    bench: &Bench<'_>,
    make: impl FnOnce(&str) -> Checked<Vec<Message>>,
) -> Checked<Vec<(Message, Message)>> {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let mut pairs = Vec::new();
    for sent in make(&topic)? {
        bench.publish(&broker, vec![sent.clone()]).await?;
        let delivery = bench.next(&mut subscription, "a message").await?;
        let arrived = delivery.message().clone();
        ensure(arrived.topic == topic, || {
            format!("it arrived with the topic `{}` instead of `{topic}`", arrived.topic)
        })?;
        bench.ack_done(delivery).await?;
        pairs.push((sent, arrived));
    }
    subscription.close().await?;
    broker.close().await?;
    Ok(pairs)
}

pub(super) async fn envelope(bench: &Bench<'_>) -> Checked {
    let pairs = round_trips(bench, |topic| {
        let mut message = Message::new(topic, "{}");
        message.id = Some("Straße 1 ".into());
        message.name = "room_closed".to_owned();
        message.kind = Some(EventKind::Ecst);
        message.version = Some(7);
        message.content_type = Some("application/json".to_owned());
        let message = Encoder::default()
            .finish(message, &Correlation::new("conversation"))
            .map_err(|error| Stop::Failed(format!("the codec refused the message: {error}")))?;
        Ok(vec![message])
    })
    .await?;
    for (sent, arrived) in pairs {
        let decoded = Json
            .decode(arrived)
            .map_err(|error| Stop::Failed(format!("what arrived cannot be decoded: {error}")))?;
        let fields = |message: &Message| {
            let Message { id, name, kind, version, content_type, timestamp, .. } = message.clone();
            (id, name, kind, version, content_type, timestamp)
        };
        ensure(fields(&decoded) == fields(&sent), || {
            format!("{:?}\narrived instead of {:?}", fields(&decoded), fields(&sent))
        })?;
    }
    Ok(())
}

pub(super) async fn headers(bench: &Bench<'_>) -> Checked {
    let cases: [&[(&'static str, &'static [u8])]; 5] = [
        &[],
        &[("plain", b"value")],
        &[("unicode", "Grüße, 世界 🦀".as_bytes()), ("empty", b""), ("binary", b"\0\x01\xfe\xff")],
        &[("Mixed-Case_and.dots", b" padded "), ("special", b"a=b;c,d\"e'f\\g\r\n\t%&")],
        &[("number", b"1"), ("boolean", b"true"), ("null", b"null"), ("json", b"{\"a\":[1]}")],
    ];
    let pairs = round_trips(bench, |topic| {
        let messages = cases.map(|headers| {
            let mut message = Message::new(topic, "{}");
            message.headers =
                Headers::from_iter(headers.iter().map(|(name, value)| (*name, Bytes::from_static(value))));
            message
        });
        Ok(messages.into())
    })
    .await?;
    for (sent, arrived) in pairs {
        // Not every protocol keeps the order of headers with different names.
        ensure(sorted(&arrived.headers) == sorted(&sent.headers), || {
            format!("the headers {:?}\narrived as {:?}", sorted(&sent.headers), sorted(&arrived.headers))
        })?;
    }
    Ok(())
}

fn sorted(headers: &Headers) -> Vec<(&str, &Bytes)> {
    let mut headers: Vec<_> = headers.iter().collect();
    headers.sort();
    headers
}

pub(super) async fn keys(bench: &Bench<'_>) -> Checked {
    let cases = [
        None,
        Some(Bytes::new()),
        Some(Bytes::from_static(b"room 5")),
        Some(Bytes::from_static(b"room 5 ")),
        Some(Bytes::from_static("Zimmer fünf, 五号室 🦀".as_bytes())),
        Some(Bytes::from_static(b"\0\x01\xfe\xff")),
        Some(Bytes::from(vec![b'k'; 200])),
    ];
    let pairs = round_trips(bench, |topic| {
        let messages = cases.map(|key| {
            let mut message = Message::new(topic, "{}");
            message.key = key;
            message
        });
        Ok(messages.into())
    })
    .await?;
    for (sent, arrived) in pairs {
        ensure(arrived.key == sent.key, || format!("the key {:?} arrived as {:?}", sent.key, arrived.key))?;
    }
    Ok(())
}

pub(super) async fn payloads(bench: &Bench<'_>) -> Checked {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let cases = [
        Bytes::new(),
        Bytes::from_static(b"null"),
        Bytes::from_static("{\"room\": \"Größe 🦀\"}\n".as_bytes()),
        Bytes::from(every_byte.clone()),
        Bytes::from(every_byte.repeat(400)),
    ];
    let pairs =
        round_trips(bench, |topic| Ok(cases.map(|payload| Message::new(topic, payload)).into())).await?;
    for (sent, arrived) in pairs {
        ensure(arrived.payload == sent.payload, || match (&sent.payload, &arrived.payload) {
            (Some(sent), Some(arrived)) if sent.len() <= 300 => format!("{sent:?} arrived as {arrived:?}"),
            (Some(sent), Some(arrived)) => {
                format!("{} bytes arrived as {} bytes, or as other ones", sent.len(), arrived.len())
            }
            _ => format!("{} bytes arrived as no payload", sent.payload.as_ref().map_or(0, Bytes::len)),
        })?;
    }
    Ok(())
}

pub(super) async fn tombstones(bench: &Bench<'_>) -> Checked {
    if !bench.capabilities().await?.tombstones {
        return skip("this broker has no tombstones (`Capabilities::tombstones`)");
    }
    let pairs = round_trips(bench, |topic| {
        let mut message = Message::tombstone(topic);
        message.key = Some("room 5".into());
        Ok(vec![message])
    })
    .await?;
    for (_, arrived) in pairs {
        ensure(arrived.payload.is_none(), || {
            format!("a message without a payload arrived with the payload {:?}", arrived.payload)
        })?;
    }
    Ok(())
}
