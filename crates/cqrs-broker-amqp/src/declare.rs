//! What the topology says, said to the server. A refusal closes the channel.

use cqrs_core::broker::BrokerError;
use lapin::Channel;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};

use crate::error::undeclared;
use crate::topology::{Arguments, Declare, Exchange, Queue, Topology, table};

/// Declares an exchange under this name.
pub(crate) async fn exchange(
    channel: &Channel,
    exchange: &Exchange,
    name: &ShortString,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions {
        passive: match exchange.declare {
            Declare::Actively => false,
            Declare::Passively => true,
            Declare::Never => return Ok(()),
        },
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.clone(), exchange.kind(), options, arguments(&exchange.arguments))
        .await
        .map_err(|error| undeclared(format!("the exchange `{name}`"), error))
}

/// Declares a queue under this name.
pub(crate) async fn queue(channel: &Channel, queue: &Queue, name: &ShortString) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions {
        passive: match queue.declare {
            Declare::Actively => false,
            Declare::Passively => true,
            Declare::Never => return Ok(()),
        },
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.clone(), options, arguments(&queue.arguments))
        .await
        .map(drop)
        .map_err(|error| undeclared(format!("the queue `{name}`"), error))
}

/// Binds a queue to an exchange.
pub(crate) async fn binding(
    channel: &Channel,
    queue: &ShortString,
    exchange: &ShortString,
    routing_key: ShortString,
    with: &Arguments,
) -> Result<(), BrokerError> {
    channel
        .queue_bind(
            queue.clone(),
            exchange.clone(),
            routing_key,
            QueueBindOptions::default(),
            arguments(with),
        )
        .await
        .map_err(|error| {
            undeclared(format!("the binding of the queue `{queue}` to the exchange `{exchange}`"), error)
        })
}

/// Declares what is declared whatever the topic.
pub(crate) async fn besides(channel: &Channel, topology: &Topology) -> Result<(), BrokerError> {
    for more in &topology.more_exchanges {
        exchange(channel, more, &more.name.as_str().into()).await?;
    }
    for more in &topology.more_queues {
        queue(channel, more, &more.name.as_str().into()).await?;
    }
    for more in &topology.more_bindings {
        let (queue, exchange) = (more.queue.as_str().into(), more.exchange.as_str().into());
        binding(channel, &queue, &exchange, more.routing_key.as_str().into(), &more.arguments).await?;
    }
    Ok(())
}

/// What cannot be said was told when the broker was built.
fn arguments(arguments: &Arguments) -> FieldTable {
    table(arguments).unwrap_or_default()
}
