//! What cannot be sent is an error, and one that says what to do.

use cqrs_core::broker::SubscribeOptions;
use cqrs_core::{BrokerError, ErrorClass, Message};

use crate::broker::bench::{Bench, Checked, ensure, fail, skip};
use crate::broker::stream::{Sent, id_of};

pub(super) async fn oversize(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let Some(limit) = broker.capabilities().max_message_bytes else {
        return skip("this broker knows no limit (`Capabilities::max_message_bytes`)");
    };
    let topic = bench.topic("t").await?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let large = Message::new(&topic, vec![b'x'; limit + 1]);
    match bench.bounded("publishing what is too large", broker.publish(large)).await? {
        Ok(_) => return fail(format!("a message of {} bytes was Ok, with a limit of {limit}", limit + 1)),
        Err(error) => {
            ensure(error.class() == ErrorClass::Event, || {
                format!("the error has the class {} instead of event: {error}", error.class())
            })?;
            ensure(error.to_string().contains(&limit.to_string()), || {
                format!("the error does not name the limit of {limit} bytes: {error}")
            })?;
        }
    }
    // The connection goes on, and nothing of what was refused arrives.
    let sent = Sent::new();
    bench.publish(&broker, vec![sent.message(&topic)]).await?;
    let delivery = bench.next(&mut subscription, "a message after one that was too large").await?;
    ensure(id_of(&delivery)? == sent.id, || "another message arrived".to_owned())?;
    bench.ack_done(delivery).await?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

pub(super) async fn missing_destination(bench: &Bench<'_>) -> Checked {
    let topic = bench.name("missing");
    let Some(broker) = bench.adapter.open_without(&topic).await? else {
        return skip("the adapter cannot bring about a missing topic (`BrokerUnderTest::open_without`)");
    };
    let published =
        bench.bounded("publishing to a missing topic", broker.publish(Sent::new().message(&topic))).await?;
    match published {
        Ok(_) => fail(format!("publishing to the missing topic `{topic}` said Ok")),
        Err(error) if error.class() != ErrorClass::Destination => {
            fail(format!("the error has the class {} instead of destination: {error}", error.class()))
        }
        Err(_) => Ok(broker.close().await?),
    }
}

pub(super) async fn no_destination(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let (topic, group) = (bench.topic("t").await?, bench.name("g"));
    let published =
        bench.bounded("publishing without a topic", broker.publish(Message::new("", "x"))).await?;
    of_the_destination("a message without a topic", published)?;
    let none: [&str; 0] = [];
    for (what, options) in [
        ("a subscription without a group", SubscribeOptions::new("", [&topic])),
        ("a subscription without topics", SubscribeOptions::new(&group, none)),
        ("a subscription to a topic without a name", SubscribeOptions::new(&group, ["", &topic])),
    ] {
        of_the_destination(what, bench.bounded(what, broker.subscribe(options)).await?)?;
    }
    let what = "a subscription without a prefetch";
    let options = SubscribeOptions::new(&group, [&topic]).with_prefetch(0);
    of_class(ErrorClass::Fatal, what, bench.bounded(what, broker.subscribe(options)).await?)?;
    let mut subscription = bench.subscribe(&broker, "g", &topic).await?;
    let sent = Sent::new();
    bench.publish(&broker, vec![sent.message(&topic)]).await?;
    let delivery = bench.next(&mut subscription, "a message after one without a topic").await?;
    ensure(id_of(&delivery)? == sent.id, || "another message arrived".to_owned())?;
    bench.ack_done(delivery).await?;
    subscription.close().await?;
    broker.close().await?;
    Ok(())
}

fn of_the_destination<T>(what: &str, outcome: Result<T, BrokerError>) -> Checked {
    of_class(ErrorClass::Destination, what, outcome)
}

fn of_class<T>(class: ErrorClass, what: &str, outcome: Result<T, BrokerError>) -> Checked {
    match outcome {
        Ok(_) => fail(format!("{what} was Ok")),
        Err(error) => ensure(error.class() == class, || {
            format!("{what}: the error has the class {} instead of {class}: {error}", error.class())
        }),
    }
}
