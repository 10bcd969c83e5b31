//! What the consumer leaves behind of what nobody could handle.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_consumer::{Consumer, RetryPolicy, header};
use cqrs_core::broker::Subscription;
use cqrs_core::codec::{AnyOf, CloudEvents, Compressed, Json, PythonCqrs};
use cqrs_core::{
    Context, Encoder, Error, EventEmitter, EventMap, EventMediator, Handled, Message, MessageHandler,
};

use super::formats::{self, Case, NAME};
use crate::broker::bench::{Bench, Checked, Stop, ensure};

const FORMAT: &str = "format";

struct Fails;

#[async_trait]
impl MessageHandler for Fails {
    fn name(&self) -> &str {
        "fails"
    }

    async fn handle(&self, _: &Message, _: &Context<'_>) -> cqrs_core::Result<Handled> {
        Err(Error::handler("it always fails"))
    }
}

pub(super) async fn tell_their_event(bench: &Bench<'_>) -> Checked {
    let wrong = |error: Error| Stop::Failed(format!("an error that was not expected: {error:#}"));
    let (broker, group) = (bench.open().await?, bench.name("g"));
    let (topic, graveyard) = (bench.topic("t").await?, bench.topic("dead").await?);
    let mut letters = bench.subscribe(&broker, "undertaker", &graveyard).await?;
    // From now on its messages are kept for the group.
    bench.subscribe(&broker, "g", &topic).await?.close().await?;

    let mut cases = formats::cases().map_err(wrong)?;
    cases.retain(|case| case.tells_of_the_event);
    let mut messages = Vec::new();
    for case in &cases {
        let mut message = case.encoded(&topic).map_err(wrong)?;
        message.headers.append(FORMAT, case.format);
        messages.push(message);
    }
    bench.publish(&broker, messages).await?;

    let any = AnyOf::new(CloudEvents::new("/rooms").map_err(wrong)?).or(PythonCqrs::v0()).or(Json);
    let encoder = Encoder::default().with_codec(Compressed::gzip(any));
    let map = EventMap::new().subscribe_messages(&topic, NAME, Arc::new(Fails));
    let events = EventMediator::new(EventEmitter::new(map).with_encoder(encoder.clone())).map_err(wrong)?;
    let consumer = Consumer::builder(Arc::clone(&broker), group)
        .events(events)
        .encoder(encoder)
        .retry(RetryPolicy::default().with_max_attempts(1))
        .dead_letter_topic(&graveyard)
        .build()
        .map_err(wrong)?;
    let mut outcome = Ok(());
    let reading = async { outcome = read(bench, &mut letters, &cases).await };
    consumer.run_until(reading).await.map_err(wrong)?;
    letters.close().await?;
    broker.close().await?;
    outcome
}

/// Reads until there is one of each format.
async fn read(bench: &Bench<'_>, letters: &mut Box<dyn Subscription>, cases: &[Case]) -> Checked {
    let mut read = BTreeMap::new();
    while read.len() < cases.len() {
        let missing = cases.iter().map(|case| case.format).find(|format| !read.contains_key(*format));
        let what = format!("the dead letter of `{}`", missing.unwrap_or_default());
        let letter = bench.next(letters, &what).await?;
        let text = |name: &str| letter.message().headers.get_str(name).map(str::to_owned);
        read.insert(text(FORMAT).unwrap_or_default(), text(header::EVENT));
        bench.ack_done(letter).await?;
    }
    for (format, event) in read {
        ensure(event.as_deref() == Some(NAME), || {
            format!("the dead letter of `{format}` says that its event is {event:?}")
        })?;
    }
    Ok(())
}
