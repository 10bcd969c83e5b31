//! Publishing: one task owns connection, channel and what is not confirmed yet. At any error it drops all of them,
//! says of each unconfirmed message that its fate is unknown, and connects again.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{BrokerError, Confirm, ErrorClass, Receipt};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Connection, Event};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::declare;
use crate::error::undeclared;
use crate::topology::Topology;
use crate::wire::Outgoing;

/// How many messages may be written and not confirmed, and again as many may wait before them.
const WINDOW: usize = 1024;

/// How long an answer to `check` and the farewell of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<Receipt, BrokerError>;

/// The handle to the task.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// The broker's URL, for errors.
    broker: Arc<str>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
}

#[derive(Debug)]
enum Command {
    Publish(Box<Outgoing>, oneshot::Sender<Outcome>),
    Close(oneshot::Sender<Result<(), BrokerError>>),
}

#[derive(Clone, Debug)]
enum State {
    Connecting,
    Up(Arc<Connection>),
    Down(ErrorClass, String),
}

impl Publisher {
    pub(crate) fn spawn(config: Config, runtime: &Handle) -> Self {
        let (commands, receiver) = mpsc::channel(WINDOW);
        let (sender, state) = watch::channel(State::Connecting);
        let broker = config.to_string().into();
        let supervisor = Supervisor { config, commands: receiver, state: sender, closing: None, given_up: 0 };
        runtime.spawn(supervisor.run());
        Self { broker, commands, state }
    }

    pub(crate) async fn enqueue(&self, message: Outgoing) -> Result<Confirm, BrokerError> {
        let (reply, outcome) = oneshot::channel();
        self.commands.send(Command::Publish(Box::new(message), reply)).await.map_err(|_| closed())?;
        let broker = Arc::clone(&self.broker);
        Ok(Confirm::new(async move {
            let outcome = outcome.await;
            let outcome =
                outcome.unwrap_or_else(|_| Err(unknown("the runtime ended before it was confirmed")));
            outcome.map_err(|error| error.at(broker))
        }))
    }

    pub(crate) async fn check(&self) -> Result<(), BrokerError> {
        let outage = |why: String| BrokerError::new(ErrorClass::Outage, why);
        let mut state = self.state.clone();
        let probe = async {
            let state =
                state.wait_for(|state| !matches!(state, State::Connecting)).await.map(|state| state.clone());
            match state.map_err(|_| closed())? {
                State::Up(connection) if connection.status().blocked() => Err(blocked()),
                State::Up(connection) => match connection.create_channel().await {
                    Ok(channel) => channel.close(200, "checked".into()).await,
                    Err(error) => Err(error),
                }
                .map_err(|error| {
                    outage(format!("the connection to RabbitMQ broke: {error}")).with_source(error)
                }),
                State::Connecting => Ok(()),
                State::Down(class, why) => Err(BrokerError::new(class, why)),
            }
        };
        timeout(PATIENCE, probe).await.unwrap_or_else(|_| {
            Err(outage(format!(
                "RabbitMQ did not answer within {PATIENCE:?}: see that it is up and can be reached"
            )))
        })
    }

    pub(crate) async fn close(&self) -> Result<(), BrokerError> {
        let (reply, outcome) = oneshot::channel();
        match self.commands.send(Command::Close(reply)).await {
            Ok(()) => {
                outcome.await.unwrap_or_else(|_| Err(unknown("the runtime ended before it was closed")))
            }
            Err(_) => Ok(()),
        }
    }
}

/// The task, while it is connected and while it is not.
struct Supervisor {
    config: Config,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
    closing: Option<oneshot::Sender<Result<(), BrokerError>>>,
    /// Unconfirmed messages that were given up while closing.
    given_up: usize,
}

impl Supervisor {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let (class, why) = match Session::open(&self.config).await {
                Err(error) => (error.class(), error.message().to_owned()),
                Ok(mut session) => {
                    self.state.send_replace(State::Up(Arc::clone(&session.connection)));
                    let end = session.run(&mut self, &mut backoff).await;
                    let given_up = session.give_up(&end);
                    if self.closing.is_some() {
                        self.given_up += given_up;
                    }
                    match end {
                        End::Closed => {
                            let farewell = session.connection.close(200, "closed".into());
                            let _ = timeout(PATIENCE, farewell).await;
                            break;
                        }
                        End::Lost(why) => {
                            (ErrorClass::Outage, format!("the connection to RabbitMQ was lost: {why}"))
                        }
                    }
                }
            };
            tracing::warn!(broker = %self.config, "{why}");
            self.state.send_replace(State::Down(class, why.clone()));
            if self.refuse(backoff.next(), class, &why).await.is_break() {
                break;
            }
        }
        if let Some(reply) = self.closing {
            let _ = reply.send(match self.given_up {
                0 => Ok(()),
                lost => {
                    Err(unknown(format!("{lost} messages were not confirmed before the connection was lost")))
                }
            });
        }
    }

    /// Refuses what comes until it is time to try again. Breaks when nothing can come any more.
    async fn refuse(&mut self, delay: Duration, class: ErrorClass, why: &str) -> ControlFlow<()> {
        let again = sleep(delay);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => return ControlFlow::Continue(()),
                command = self.commands.recv() => match command {
                    Some(Command::Publish(_, reply)) => {
                        let _ = reply.send(Err(BrokerError::new(class, why)));
                    }
                    Some(Command::Close(reply)) => self.begin_to_close(reply),
                    None => return ControlFlow::Break(()),
                }
            }
        }
    }

    /// From now on nothing is taken; what was taken is still seen to.
    fn begin_to_close(&mut self, reply: oneshot::Sender<Result<(), BrokerError>>) {
        self.commands.close();
        match self.closing {
            None => self.closing = Some(reply),
            // A second close has nothing to wait for that the first does not report.
            Some(_) => drop(reply.send(Ok(()))),
        }
    }
}

enum End {
    Closed,
    Lost(String),
}

/// A message that was written and is not confirmed.
struct Pending {
    reply: oneshot::Sender<Outcome>,
    exchange: ShortString,
    routing_key: ShortString,
    message_id: Option<ShortString>,
    payload: bytes::Bytes,
    deadline: Instant,
    /// Why the broker returned it.
    returned: Option<String>,
}

impl Pending {
    /// An exchange routes by nothing but this and the headers, so that messages alike in all of it are alike.
    fn is(&self, returned: &BasicReturnMessage) -> bool {
        returned.exchange == self.exchange
            && returned.routing_key == self.routing_key
            && returned.delivery.data == self.payload
            && *returned.properties.message_id() == self.message_id
    }
}

type Confirmed = (u64, lapin::Result<Confirmation>);

/// A connection, and what was written to it.
struct Session {
    config: Config,
    connection: Arc<Connection>,
    channel: Channel,
    events: BoxStream<'static, Event>,
    declared: HashSet<ShortString>,
    /// By the order of writing.
    pending: BTreeMap<u64, Pending>,
    confirms: FuturesUnordered<BoxFuture<'static, Confirmed>>,
    written: u64,
}

impl Session {
    async fn open(config: &Config) -> Result<Self, BrokerError> {
        let connection = config.open("publisher").await?;
        let events = connection.events_listener().boxed();
        let channel = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let failed =
            |why: String| BrokerError::new(ErrorClass::Outage, format!("RabbitMQ gave no channel: {why}"));
        let channel = match timeout(PATIENCE, channel).await {
            Ok(channel) => channel.map_err(|error| failed(error.to_string()).with_source(error))?,
            Err(_) => return Err(failed(format!("no answer within {PATIENCE:?}"))),
        };
        Ok(Self {
            config: config.clone(),
            connection: Arc::new(connection),
            channel,
            events,
            declared: HashSet::new(),
            pending: BTreeMap::new(),
            confirms: FuturesUnordered::new(),
            written: 0,
        })
    }

    async fn run(&mut self, supervisor: &mut Supervisor, backoff: &mut Backoff) -> End {
        loop {
            let step = tokio::select! {
                biased;
                Some(confirmed) = self.confirms.next(), if !self.confirms.is_empty() => {
                    backoff.reset();
                    self.settle(confirmed)
                }
                () = overdue(&self.pending) => Err(format!(
                    "a message was not confirmed within {:?}", self.config.confirm_timeout
                )),
                event = self.events.next() => match event {
                    // A refusal on a channel for declarations is told to its caller.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() && self.channel.status().connected() => {
                        Ok(())
                    }
                    Some(Event::Error(error)) => Err(error.to_string()),
                    Some(_) => Ok(()),
                    None => Err("the connection ended".to_owned()),
                },
                command = supervisor.commands.recv(), if self.pending.len() < WINDOW => match command {
                    Some(Command::Publish(message, reply)) => self.publish(*message, reply).await,
                    Some(Command::Close(reply)) => {
                        supervisor.begin_to_close(reply);
                        Ok(())
                    }
                    None if self.pending.is_empty() => return End::Closed,
                    None => self.drain().await,
                },
            };
            if let Err(why) = step {
                return End::Lost(why);
            }
        }
    }

    /// With nothing left to take: waits for one more confirmation.
    async fn drain(&mut self) -> Result<(), String> {
        tokio::select! {
            Some(confirmed) = self.confirms.next() => self.settle(confirmed),
            () = overdue(&self.pending) => Err("a message was not confirmed in time".to_owned()),
        }
    }

    async fn publish(&mut self, message: Outgoing, reply: oneshot::Sender<Outcome>) -> Result<(), String> {
        if reply.is_closed() {
            // Whoever asked has given up, and sends it again if it matters.
            return Ok(());
        }
        let refuse = |reply: oneshot::Sender<Outcome>, error| drop(reply.send(Err(error)));
        if !self.channel.status().connected() {
            let why = "the channel was closed".to_owned();
            let lost = format!("the connection to RabbitMQ was lost: {why}");
            refuse(reply, BrokerError::new(ErrorClass::Outage, lost));
            return Err(why);
        }
        if self.connection.status().blocked() {
            refuse(reply, blocked());
            return Ok(());
        }
        if !self.declared.contains(&message.exchange) {
            let besides = self.declared.is_empty();
            match declare(&self.connection, &self.config.topology, &message.exchange, besides).await {
                Ok(()) => drop(self.declared.insert(message.exchange.clone())),
                Err(error) => {
                    let lost = error.class() == ErrorClass::Outage;
                    let why = error.to_string();
                    refuse(reply, error);
                    return if lost { Err(why) } else { Ok(()) };
                }
            }
        }
        let patience = self.config.confirm_timeout;
        let Outgoing { exchange, routing_key, properties, payload } = message;
        self.written += 1;
        let pending = Pending {
            reply,
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            message_id: properties.message_id().clone(),
            payload: payload.clone(),
            deadline: Instant::now() + patience,
            returned: None,
        };
        // Before it is written: whatever goes wrong from here on, its fate is unknown.
        self.pending.insert(self.written, pending);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let written = self.channel.basic_publish(exchange, routing_key, options, &payload, properties);
        match timeout(patience, written).await {
            Ok(Ok(confirm)) => {
                let number = self.written;
                self.confirms.push(async move { (number, confirm.await) }.boxed());
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("a message was not written within {patience:?}")),
        }
    }

    /// Answers what is confirmed.
    ///
    /// The broker returns an unroutable message *before* it confirms it, but the client hands the returned message to
    /// whichever confirmation is next, and when one answer of the broker confirms many, to any of them. So a
    /// confirmation is believed only after everything was seen that was confirmed before it or with it, and a returned
    /// message is recognised by what it is.
    fn settle(&mut self, first: Confirmed) -> Result<(), String> {
        // The client resolves the confirmations of one answer under a lock that this call takes: after it, all are
        // there. Its own outcome is of no interest.
        let _ = self.channel.wait_for_confirms().now_or_never();
        let mut confirmed = vec![first];
        while let Some(Some(next)) = self.confirms.next().now_or_never() {
            confirmed.push(next);
        }
        let mut settled = Vec::with_capacity(confirmed.len());
        for (number, confirmation) in confirmed {
            let (accepted, returned) = match confirmation.map_err(|error| error.to_string())? {
                Confirmation::Ack(returned) => (true, returned),
                Confirmation::Nack(returned) => (false, returned),
                Confirmation::NotRequested => return Err("the channel does not confirm".to_owned()),
            };
            if let Some(returned) = returned {
                self.mark(&returned)?;
            }
            settled.push((number, accepted));
        }
        for (number, accepted) in settled {
            let Some(pending) = self.pending.remove(&number) else { continue };
            let _ = pending.reply.send(match pending.returned {
                Some(why) => Err(BrokerError::new(
                    ErrorClass::Destination,
                    format!(
                        "the message for `{0}` was returned: {why}: no queue is bound to the exchange `{0}`; start a \
                         consumer of it, or bind a queue",
                        pending.exchange
                    ),
                )),
                None if accepted => Ok(Receipt::new()),
                None => Err(unknown(format!(
                    "a queue behind `{}` refused the message: see whether it is full or has failed",
                    pending.exchange
                ))),
            });
        }
        Ok(())
    }

    fn mark(&mut self, returned: &BasicReturnMessage) -> Result<(), String> {
        let found =
            self.pending.values_mut().find(|pending| pending.returned.is_none() && pending.is(returned));
        match found {
            Some(pending) => {
                pending.returned = Some(format!("{} {}", returned.reply_code, returned.reply_text));
                Ok(())
            }
            // Some message is unroutable and cannot be told from those that are not.
            None => Err(format!("a message returned from `{}` was not recognised", returned.exchange)),
        }
    }

    fn give_up(&mut self, end: &End) -> usize {
        let why = match end {
            End::Closed => "the connection was closed",
            End::Lost(why) => why,
        };
        let given_up = self.pending.len();
        for pending in std::mem::take(&mut self.pending).into_values() {
            let _ = pending.reply.send(Err(unknown(format!(
                "the message for `{}` was not confirmed: {why}",
                pending.exchange
            ))));
        }
        given_up
    }
}

/// Declares the exchange on a channel of its own, because a refusal closes it.
async fn declare(
    connection: &Connection,
    topology: &Topology,
    exchange: &ShortString,
    besides: bool,
) -> Result<(), BrokerError> {
    let declaration = async {
        let channel = connection
            .create_channel()
            .await
            .map_err(|error| undeclared("a channel for declarations", error))?;
        if besides {
            declare::besides(&channel, topology).await?;
        }
        declare::exchange(&channel, &topology.exchange, exchange).await?;
        // It was declared; whether this channel can be closed does not matter.
        let _ = channel.close(200, "declared".into()).await;
        Ok(())
    };
    match timeout(PATIENCE, declaration).await {
        Ok(declared) => declared,
        Err(_) => Err(BrokerError::new(
            ErrorClass::Outage,
            format!(
                "the exchange `{exchange}` was not declared within {PATIENCE:?}: see that the broker is up and can be \
                 reached"
            ),
        )),
    }
}

/// Resolves when the oldest unconfirmed message has waited too long.
async fn overdue(pending: &BTreeMap<u64, Pending>) {
    match pending.first_key_value() {
        Some((_, oldest)) => sleep_until(oldest.deadline).await,
        None => std::future::pending().await,
    }
}

fn unknown(why: impl Into<String>) -> BrokerError {
    let why = why.into();
    BrokerError::new(
        ErrorClass::Unknown,
        format!("{why}: it may have arrived all the same, send it again with the same id"),
    )
}

pub(crate) fn closed() -> BrokerError {
    BrokerError::new(ErrorClass::Outage, "the AMQP broker was closed: make a new one to publish")
}

fn blocked() -> BrokerError {
    BrokerError::new(
        ErrorClass::Outage,
        "RabbitMQ takes no messages for now, because it is short of memory or disk: see its alarms",
    )
}
