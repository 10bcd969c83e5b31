//! What topics and groups are on the server, as data.

use std::collections::BTreeMap;
use std::fmt;

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which exchanges, queues and bindings there are for topics and groups, and how they are declared.
///
/// It is plain data, to be written in Rust or read from a configuration file. Names are templates: `{topic}`, `{group}` and
/// `{event}` (the event's name) stand for what their names say. The default is what the crate's page describes:
///
/// ```
/// use cqrs_broker_amqp::Topology;
///
/// let default = Topology::default();
/// assert_eq!(default.exchange.name, "{topic}");
/// assert_eq!(default.queue.name, "{group}.{topic}");
/// ```
///
/// To meet a service that has declared things in its own way, say exactly what it says, or declare nothing:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cqrs_broker_amqp::{AmqpBroker, Topology};
///
/// // One direct exchange for all; each topic has a queue of its name, and all groups share it.
/// let topology: Topology = serde_json::from_str(r#"{
///     "exchange": { "name": "events", "kind": "direct", "durable": false, "auto_delete": true },
///     "routing_key": "{topic}",
///     "queue": { "name": "{topic}", "durable": false },
///     "binding": { "routing_key": "{topic}" }
/// }"#)?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let broker = AmqpBroker::builder("amqp://localhost").topology(topology).build()?;
/// # Ok(()) })}
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Where the messages of a topic are published. Its name may have `{topic}` in it.
    pub exchange: Exchange,
    /// With which routing key; `{topic}` and `{event}` may be in it. Default: the event's name.
    pub routing_key: String,
    /// What a group receives the messages of a topic from. Its name may have `{group}` and `{topic}` in it.
    pub queue: Queue,
    /// How that queue is bound to that exchange, where the queue is declared by us.
    pub binding: Binding,
    /// Exchanges that are declared besides, before anything else: one for dead letters, say. No templates.
    pub more_exchanges: Vec<Exchange>,
    /// Queues that are declared besides. No templates.
    pub more_queues: Vec<Queue>,
    /// Bindings that are declared besides. No templates.
    pub more_bindings: Vec<NamedBinding>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            exchange: Exchange::default(),
            routing_key: "{event}".to_owned(),
            queue: Queue::default(),
            binding: Binding::default(),
            more_exchanges: Vec::new(),
            more_queues: Vec::new(),
            more_bindings: Vec::new(),
        }
    }
}

/// An argument of a queue: its kind.
pub(crate) const QUEUE_TYPE: &str = "x-queue-type";

/// An argument of a queue: whether one consumer at a time receives from it.
pub(crate) const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";

impl Topology {
    /// Sets an argument of the queue, or takes it away.
    pub(crate) fn set_argument(&mut self, name: &str, value: Option<Value>) {
        match value {
            Some(value) => drop(self.queue.arguments.insert(name.to_owned(), value)),
            None => drop(self.queue.arguments.remove(name)),
        }
    }
}

/// Who makes sure that an exchange or a queue is there.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declare {
    /// We do: it is made, or has to be there with the same properties.
    #[default]
    Actively,
    /// Someone else does: it has to be there, with whatever properties.
    Passively,
    /// Nobody asks.
    Never,
}

/// An exchange.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exchange {
    /// Default `{topic}`. Empty: the server's own, which takes a routing key for the name of a queue.
    pub name: String,
    /// `fanout` (the default), `direct`, `topic`, `headers`, or what a plug-in of the server provides.
    pub kind: String,
    /// Whether it outlives a restart of the server. Default `true`.
    pub durable: bool,
    /// Whether it goes with its last binding. Default `false`.
    pub auto_delete: bool,
    /// Arguments, such as `alternate-exchange`.
    pub arguments: Arguments,
    /// How it is declared.
    pub declare: Declare,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            name: "{topic}".to_owned(),
            kind: "fanout".to_owned(),
            durable: true,
            auto_delete: false,
            arguments: Arguments::new(),
            declare: Declare::Actively,
        }
    }
}

/// A queue.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Default `{group}.{topic}`.
    pub name: String,
    /// Whether it outlives a restart of the server. Default `true`.
    pub durable: bool,
    /// Whether it is for one connection only, and goes with it. Default `false`.
    pub exclusive: bool,
    /// Whether it goes with its last consumer. Default `false`.
    pub auto_delete: bool,
    /// Arguments, such as `x-queue-type` or `x-dead-letter-exchange`.
    pub arguments: Arguments,
    /// How it is declared, and with it its binding.
    pub declare: Declare,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            name: "{group}.{topic}".to_owned(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Arguments::new(),
            declare: Declare::Actively,
        }
    }
}

/// How a queue is bound to its exchange.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Binding {
    /// The routing key; `{group}` and `{topic}` may be in it. Default: empty.
    pub routing_key: String,
    /// Arguments, such as `x-match`.
    pub arguments: Arguments,
}

/// A binding that says what it binds.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamedBinding {
    /// The queue.
    pub queue: String,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Arguments.
    pub arguments: Arguments,
}

/// Arguments of a declaration, as JSON.
pub type Arguments = BTreeMap<String, Value>;

impl Topology {
    /// Everything that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut template = |what: &str, text: &str, known: &[&str]| {
            if let Err(problem) = filled(text, |name| known.contains(&name).then_some("")) {
                let known: Vec<_> = known.iter().map(|name| format!("`{{{name}}}`")).collect();
                problems.push(format!("{what} `{text}`: {problem}; known are {}", known.join(", ")));
            }
        };
        template("the exchange's name", &self.exchange.name, &["topic"]);
        template("the routing key", &self.routing_key, &["topic", "event"]);
        template("the queue's name", &self.queue.name, &["group", "topic"]);
        template("the binding's routing key", &self.binding.routing_key, &["group", "topic"]);
        if self.queue.name.is_empty() {
            problems.push("the queue has no name".to_owned());
        }
        if self.exchange.name.is_empty() && self.exchange.declare != Declare::Never {
            problems.push(
                "the exchange has no name: that is the server's own, and is declared `never`, as nobody may"
                    .to_owned(),
            );
        }
        if self.exchange.name.is_empty() && self.queue.declare == Declare::Actively {
            problems.push(
                "nothing can be bound to the server's own exchange: declare the queue besides, and here `passively`"
                    .to_owned(),
            );
        }
        if self.more_exchanges.iter().any(|exchange| exchange.name.is_empty())
            || self.more_queues.iter().any(|queue| queue.name.is_empty())
            || self.more_bindings.iter().any(|bound| bound.queue.is_empty() || bound.exchange.is_empty())
        {
            problems.push("what is declared besides has a name".to_owned());
        }
        let arguments = std::iter::once(&self.exchange.arguments)
            .chain([&self.queue.arguments, &self.binding.arguments])
            .chain(self.more_exchanges.iter().map(|exchange| &exchange.arguments))
            .chain(self.more_queues.iter().map(|queue| &queue.arguments))
            .chain(self.more_bindings.iter().map(|bound| &bound.arguments));
        problems.extend(arguments.filter_map(|arguments| table(arguments).err()));
        problems
    }

    /// The exchange of a topic. The error is the name that is too long.
    pub(crate) fn exchange_of(&self, topic: &str) -> Result<ShortString, String> {
        short(fill(&self.exchange.name, &[("topic", topic)]))
    }

    /// The routing key of a message. The error is the key that is too long.
    pub(crate) fn routing_key_of(&self, topic: &str, event: &str) -> Result<ShortString, String> {
        short(fill(&self.routing_key, &[("topic", topic), ("event", event)]))
    }

    /// The queue of a group for a topic. The error is the name that is too long.
    pub(crate) fn queue_of(&self, group: &str, topic: &str) -> Result<ShortString, String> {
        short(fill(&self.queue.name, &[("group", group), ("topic", topic)]))
    }

    /// The routing key by which that queue is bound. The error is the key that is too long.
    pub(crate) fn binding_of(&self, group: &str, topic: &str) -> Result<ShortString, String> {
        short(fill(&self.binding.routing_key, &[("group", group), ("topic", topic)]))
    }
}

impl Exchange {
    pub(crate) fn kind(&self) -> ExchangeKind {
        match self.kind.as_str() {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "headers" => ExchangeKind::Headers,
            "topic" => ExchangeKind::Topic,
            other => ExchangeKind::Custom(other.to_owned()),
        }
    }
}

impl fmt::Display for Declare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Actively => "actively",
            Self::Passively => "passively",
            Self::Never => "never",
        })
    }
}

fn short(text: String) -> Result<ShortString, String> {
    ShortString::try_new(text.as_str()).map_err(|_| text)
}

/// Fills in a template that was checked.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    // What is wrong with it was told when the broker was built.
    filled(template, value).unwrap_or_default()
}

fn filled<'a>(template: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("a brace is not closed")?;
        text.push_str(before);
        text.push_str(value(name).ok_or_else(|| format!("`{{{name}}}` stands for nothing"))?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// Arguments as AMQP has them. The error names what it has no place for.
pub(crate) fn table(arguments: &Arguments) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        let key = ShortString::try_new(name.as_str())
            .map_err(|_| format!("the argument name `{name}` is longer than 255 bytes"))?;
        let value = value(argument).ok_or_else(|| format!("the argument `{name}` has no form in AMQP"))?;
        table.insert(key, value);
    }
    Ok(table)
}

fn value(json: &Value) -> Option<AMQPValue> {
    Some(match json {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => AMQPValue::LongLongInt(integer),
            None => AMQPValue::Double(number.as_f64()?),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(value).collect();
            AMQPValue::FieldArray(values?.into())
        }
        Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_needs_nothing_said() {
        assert_eq!(serde_json::from_str::<Topology>("{}").unwrap(), Topology::default());
        assert_eq!(Topology::default().problems(), [""; 0]);
    }

    #[test]
    fn names_are_filled_in() {
        let topology = Topology {
            exchange: Exchange { name: "x.{topic}".to_owned(), ..Exchange::default() },
            routing_key: "{topic}.{event}".to_owned(),
            ..Topology::default()
        };
        assert_eq!(topology.exchange_of("rooms").unwrap().as_str(), "x.rooms");
        assert_eq!(topology.routing_key_of("rooms", "closed").unwrap().as_str(), "rooms.closed");
        // What a name contains is no template.
        assert_eq!(topology.queue_of("{topic}", "rooms").unwrap().as_str(), "{topic}.rooms");
        assert_eq!(topology.queue_of(&"g".repeat(250), "rooms").unwrap_err().len(), 256);
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let topology: Topology = serde_json::from_str(
            r#"{"exchange": {"name": "{group}"}, "routing_key": "{topic", "queue": {"name": ""},
                "binding": {"arguments": {"x": {"nested": 1}}}, "more_queues": [{"name": ""}]}"#,
        )
        .unwrap();
        let problems = topology.problems().join("\n");
        for part in
            ["`{group}` stands for nothing", "not closed", "no name", "`x` has no form", "besides has a name"]
        {
            assert!(problems.contains(part), "{part}: {problems}");
        }
        assert!(
            serde_json::from_str::<Topology>(r#"{"exchanges": {}}"#).is_err(),
            "a slip of the pen is told"
        );
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let mut topology = Topology::default();
        topology.queue.arguments.insert("x-max-length".to_owned(), 5.into());
        topology.queue.declare = Declare::Passively;
        let json = serde_json::to_string(&topology).unwrap();
        assert_eq!(serde_json::from_str::<Topology>(&json).unwrap(), topology);
    }
}
