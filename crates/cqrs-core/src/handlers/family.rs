use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::context::Context;
use crate::error::Result;
use crate::event::{DomainEvent, Event, EventHandler};
use crate::mediator::EventMap;
use crate::middleware::EventMiddlewareStack;

/// Domain events that one handler hears of: a tuple of their types, for a handler of each of them, or of a trait that
/// they have.
///
/// ```
/// use cqrs_core::{Context, DomainEvent, EventHandler, EventMap, Result};
///
/// trait OfRoom {
///     fn room(&self) -> u32;
/// }
///
/// #[derive(DomainEvent)]
/// struct RoomOpened { room: u32 }
///
/// #[derive(DomainEvent)]
/// struct RoomClosed { room: u32 }
/// # impl OfRoom for RoomOpened { fn room(&self) -> u32 { self.room } }
/// # impl OfRoom for RoomClosed { fn room(&self) -> u32 { self.room } }
///
/// struct Audit;
///
/// impl<E: DomainEvent + OfRoom> EventHandler<E> for Audit {
///     async fn handle(&self, event: &E, _: &Context<'_>) -> Result<()> {
///         println!("room {}: {}", event.room(), E::NAME);
///         Ok(())
///     }
/// }
///
/// let events = EventMap::new().bind_family::<(RoomOpened, RoomClosed), _>(Audit);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a family of events that `{H}` handles",
    label = "not a tuple of domain events, or not all of them are handled by it",
    note = "write `.bind_family::<(One, Other), _>(handler)`, with up to 12 domain events, and an `EventHandler` of `{H}` for each"
)]
pub trait EventFamily<S, H>: sealed::Family<S, H> {}

mod sealed {
    use super::*;

    pub trait Family<S, H> {
        fn bind(handler: Arc<H>, events: EventMap<S>) -> EventMap<S>;
    }
}

impl<S> EventMap<S> {
    /// Binds one handler to several domain events: an [`EventFamily`].
    pub fn bind_family<F: EventFamily<S, H>, H>(self, handler: H) -> Self {
        F::bind(Arc::new(handler), self)
    }
}

macro_rules! family {
    ($($event:ident)*) => {
        impl<S, H, $($event),*> EventFamily<S, H> for ($($event,)*)
        where
            $($event: DomainEvent, S: EventMiddlewareStack<$event>, H: EventHandler<$event>,)*
        {
        }

        impl<S, H, $($event),*> sealed::Family<S, H> for ($($event,)*)
        where
            $($event: DomainEvent, S: EventMiddlewareStack<$event>, H: EventHandler<$event>,)*
        {
            fn bind(handler: Arc<H>, events: EventMap<S>) -> EventMap<S> {
                events$(.bind::<$event>(Arc::clone(&handler)))*
            }
        }
    };
}

family!(A);
family!(A B);
family!(A B C);
family!(A B C D);
family!(A B C D E);
family!(A B C D E F);
family!(A B C D E F G);
family!(A B C D E F G I);
family!(A B C D E F G I J);
family!(A B C D E F G I J K);
family!(A B C D E F G I J K L);
family!(A B C D E F G I J K L M);

/// Handles all events that can be made into a `F`, an enum for one.
///
/// ```
/// use cqrs_core::{Context, DomainEvent, EventMap, FamilyHandler, OfFamily, Result};
///
/// #[derive(Clone, DomainEvent)]
/// struct RoomOpened { room: u32 }
///
/// #[derive(Clone, DomainEvent)]
/// struct RoomClosed { room: u32 }
///
/// enum RoomChanged {
///     Opened(RoomOpened),
///     Closed(RoomClosed),
/// }
/// # impl From<RoomOpened> for RoomChanged { fn from(e: RoomOpened) -> Self { Self::Opened(e) } }
/// # impl From<RoomClosed> for RoomChanged { fn from(e: RoomClosed) -> Self { Self::Closed(e) } }
///
/// struct CountOpen;
///
/// impl FamilyHandler<RoomChanged> for CountOpen {
///     async fn handle(&self, event: RoomChanged, _: &Context<'_>) -> Result<()> {
///         match event {
///             RoomChanged::Opened(opened) => println!("one more: {}", opened.room),
///             RoomChanged::Closed(closed) => println!("one less: {}", closed.room),
///         }
///         Ok(())
///     }
/// }
///
/// let events = EventMap::new().bind_family::<(RoomOpened, RoomClosed), _>(OfFamily::new(CountOpen));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the family of events `{F}`",
    note = "write `impl FamilyHandler<{F}> for {Self} {{ async fn handle(&self, event: {F}, cx: &Context<'_>) -> Result<()> }}`"
)]
pub trait FamilyHandler<F>: Send + Sync + 'static {
    /// Does what has to be done because of the event.
    fn handle(&self, event: F, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send;
}

/// A [`FamilyHandler`] as a handler of each event that is `Clone` and can be made into a `F`; it can be subscribed to
/// integration events, too.
#[must_use = "a handler does nothing until it is bound"]
pub struct OfFamily<F, H>(H, PhantomData<fn(F)>);

impl<F, H: FamilyHandler<F>> OfFamily<F, H> {
    /// The handler of the family.
    pub fn new(handler: H) -> Self {
        Self(handler, PhantomData)
    }
}

impl<E: Event + Clone + Into<F>, F: Send + 'static, H: FamilyHandler<F>> EventHandler<E> for OfFamily<F, H> {
    fn handle(&self, event: &E, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        self.0.handle(event.clone().into(), cx)
    }

    fn name(&self) -> &str {
        std::any::type_name::<H>()
    }
}

impl<F, H: fmt::Debug> fmt::Debug for OfFamily<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OfFamily").field(&self.0).finish()
    }
}
