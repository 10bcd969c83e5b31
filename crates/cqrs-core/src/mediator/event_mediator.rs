use std::fmt;
use std::sync::Arc;

use super::emitter::EventEmitter;
use super::event_map::Handled;
use super::request_mediator::Core;
use crate::codec::Encoder;
use crate::context::{Context, Emit, Narrowed, Origin, Received};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::send_options::SendOptions;

/// Takes events to their handlers: those that a consumer received ([`handle`](Self::handle)), and those that are
/// said outside of any request ([`emit`](Self::emit)). Cheap to clone; all clones are one mediator.
///
/// ```
/// use cqrs_core::{Context, DomainEvent, EventEmitter, EventHandler, EventMap, EventMediator, Result};
///
/// #[derive(DomainEvent)]
/// struct RoomClosed { room: u32 }
///
/// struct NotifyModerator;
///
/// impl EventHandler<RoomClosed> for NotifyModerator {
///     async fn handle(&self, event: &RoomClosed, _cx: &Context<'_>) -> Result<()> {
///         println!("room {} is closed", event.room);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let events = EventMap::new().bind::<RoomClosed>(NotifyModerator);
/// let mediator = EventMediator::new(EventEmitter::new(events))?;
/// mediator.emit(RoomClosed { room: 5 }).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EventMediator {
    core: Arc<Core>,
}

impl EventMediator {
    /// A mediator for the events of the emitter's map. Where there are requests, too, take
    /// [`RequestMediator::events`](crate::RequestMediator::events), so that handlers of events can send requests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that is wrong with the map and the emitter.
    pub fn new(emitter: EventEmitter) -> Result<Self> {
        let problems = emitter.problems();
        if problems.is_empty() {
            Ok(Self::from_core(Arc::new(Core::of_events(emitter))))
        } else {
            Err(Error::new(ErrorKind::Configuration, problems.join("\n")))
        }
    }

    pub(super) fn from_core(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Says an event outside of any request, and waits until it went out.
    ///
    /// # Errors
    ///
    /// That of the first handler that failed, or of the broker; [`ErrorKind::NoTarget`] for an integration event
    /// without a direct target.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the handlers where they stand.
    pub async fn emit<E: Emit>(&self, event: E) -> Result<()> {
        event.go_out(&mut Context::new(&self.core, Origin::Root)).await
    }

    /// The same with a deadline, a token to call it off, a conversation or a scope, for the handlers of the event and all that they
    /// lead to.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::Timeout`] if the deadline has passed, which is retryable only if it had before; [`ErrorKind::CommitUnknown`]
    /// if it passed while a transaction was being committed or behind that; [`ErrorKind::Cancelled`] if the token was cancelled before.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn emit_with<E: Emit>(&self, event: E, options: &SendOptions) -> Result<()> {
        let (name, narrowed) = (event.name().to_owned(), Narrowed::new(None, options));
        let going_out = async {
            let mut cx = Context::new(&self.core, Origin::Narrowed(&narrowed));
            // From now on some of it may be done, and once more would be twice.
            cx.carry_out();
            event.go_out(&mut cx).await
        };
        narrowed.limit(&name, going_out).await
    }

    /// Takes a received message to the handlers that are subscribed to its topic and event, one after the other, and
    /// what they say to where it goes. It stops at the first that fails.
    ///
    /// # Errors
    ///
    /// That of the first handler that failed; of kind [`ErrorKind::Decode`] if the message cannot be read, which no
    /// retry mends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the handler where it stands; deliver the message again.
    pub async fn handle(&self, message: Message) -> Result<Dispatched> {
        let received = Received::new(self.encoder().decode(message)?);
        let dispatched = self.dispatch(&received, Origin::Received(&received)).await?;
        Ok(Dispatched { event: received.message.name, ..dispatched })
    }

    /// The same with a deadline, a token to call it off, a conversation or a scope, for the handlers of the message and all that they
    /// lead to. The deadline is that of all its handlers together; a scope that is given is that of all of them.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::Timeout`] if the deadline has passed, naming the handlers of events that were at work, be they of the
    /// message or of what it led to (a middleware around one, or a request that it sends, has its name); [`ErrorKind::CommitUnknown`] if
    /// it passed while a transaction was being committed or behind that, be it that of a handler before; [`ErrorKind::Cancelled`] if the
    /// token was cancelled before.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn handle_with(&self, message: Message, options: &SendOptions) -> Result<Dispatched> {
        let received = Received::new(self.encoder().decode(message)?);
        let narrowed = Narrowed::of_received(&received, options);
        let dispatched = self.dispatch(&received, Origin::Narrowed(&narrowed));
        let dispatched = narrowed.limit(&received.message.name, dispatched).await.map_err(|error| {
            // This deadline, and not one of something within.
            let is_ours = error.is_out_of_time() && narrowed.is_over();
            if is_ours && !received.at_work.is_empty() { error.with_more(&received.at_work) } else { error }
        })?;
        Ok(Dispatched { event: received.message.name, ..dispatched })
    }

    /// All but the name.
    async fn dispatch(&self, received: &Received, origin: Origin<'_>) -> Result<Dispatched> {
        let emitter = self.core.emitter();
        let mut dispatched = Dispatched::default();
        for handler in emitter.events().of_message(&received.message) {
            let mut cx = Context::new(&self.core, origin);
            let at_work = cx.begin_work(|| handler.name());
            let handled = handler.handle(&received.message, &cx).await;
            at_work.has_done();
            match handled.map_err(|error| self.naming(handler.name(), &received.message, error))? {
                Handled::Done => dispatched.handled += 1,
                Handled::Duplicate => dispatched.duplicates += 1,
            }
            if let Some(said) = cx.take_own_said() {
                emitter.emit(&cx, said).await?;
            }
        }
        Ok(dispatched)
    }

    /// The error of a handler with its name, if there are others.
    #[cold]
    fn naming(&self, handler: &str, message: &Message, error: Error) -> Error {
        let of_several = self.core.emitter().events().of_message(message).nth(1).is_some();
        if of_several { error.with_more(format_args!("of its handlers it was `{handler}`")) } else { error }
    }

    /// How messages are made of events, and read.
    pub fn encoder(&self) -> &Encoder {
        self.core.emitter().encoder()
    }

    /// The topics that something is subscribed to, in alphabetical order.
    pub fn topics(&self) -> Vec<String> {
        self.core.emitter().events().topics().into_iter().collect()
    }
}

impl fmt::Debug for EventMediator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventMediator").field("emitter", self.core.emitter()).finish()
    }
}

/// What became of a received message.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatched {
    /// The name of its event; empty if it has none.
    pub event: String,
    /// How many handlers ran.
    pub handled: usize,
    /// How many handlers had run for it before and did not run again.
    pub duplicates: usize,
}

impl Dispatched {
    /// Whether no handler is subscribed to it.
    pub fn is_unhandled(&self) -> bool {
        self.handled == 0 && self.duplicates == 0
    }
}
