//! What can be said.

use std::future::Future;

use super::Context;
use crate::error::Result;
use crate::event::{DomainEvent, Envelope, Event, IntegrationEvent, kind};
use crate::mediator::go_out_alone;
use crate::message::Message;
use crate::outgoing::Outgoing;

/// What can be said with [`Context::emit`]: every event, an [`Envelope`] around an integration event, and a [`Message`] of one's own
/// making.
///
/// It is implemented here only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be emitted",
    label = "not an event",
    note = "derive one of `DomainEvent`, `NotificationEvent`, `EcstEvent`; an integration event needs `serde::Serialize`, too"
)]
pub trait Emit: sealed::Emit {}

mod sealed {
    use super::{Context, Future, Result};

    pub trait Emit {
        /// Its name.
        fn name(&self) -> &str;

        fn say(self, cx: &Context<'_>);

        /// Says it where nothing else is said, and lets it go out.
        fn go_out(self, cx: &mut Context<'_>) -> impl Future<Output = Result<()>> + Send
        where
            Self: Sized,
        {
            self.say(cx);
            cx.send_out()
        }
    }
}

/// How an event of this kind is said.
#[diagnostic::on_unimplemented(
    message = "`{E}` cannot be emitted as it is",
    note = "an integration event implements `IntegrationEvent` and `serde::Serialize`, a domain event `DomainEvent`"
)]
pub trait SayAs<E>: sealed_kind::SayAs<E> {}

mod sealed_kind {
    use super::{Context, Future, Result};

    pub trait SayAs<E> {
        fn say(event: E, cx: &Context<'_>);

        fn go_out(event: E, cx: &mut Context<'_>) -> impl Future<Output = Result<()>> + Send {
            Self::say(event, cx);
            cx.send_out()
        }
    }
}

impl<E: Event> Emit for E where E::Kind: SayAs<E> {}

impl<E: Event> sealed::Emit for E
where
    E::Kind: SayAs<E>,
{
    fn name(&self) -> &str {
        E::NAME
    }

    fn say(self, cx: &Context<'_>) {
        <E::Kind as sealed_kind::SayAs<E>>::say(self, cx);
    }

    fn go_out(self, cx: &mut Context<'_>) -> impl Future<Output = Result<()>> + Send {
        <E::Kind as sealed_kind::SayAs<E>>::go_out(self, cx)
    }
}

impl<E: IntegrationEvent> Emit for Envelope<E> {}

impl<E: IntegrationEvent> sealed::Emit for Envelope<E> {
    fn name(&self) -> &str {
        E::NAME
    }

    fn say(self, cx: &Context<'_>) {
        cx.say_integration(self, E::NAME);
    }
}

/// A message of one's own making, as an integration event: bytes for [`codec::Raw`](crate::codec::Raw), or a
/// [tombstone](Message::tombstone).
impl Emit for Message {}

impl sealed::Emit for Message {
    fn name(&self) -> &str {
        &self.name
    }

    fn say(self, cx: &Context<'_>) {
        let name = self.name.clone();
        cx.say_integration(self, &name);
    }
}

impl Emit for Outgoing {}

impl sealed::Emit for Outgoing {
    fn name(&self) -> &str {
        &self.message.name
    }

    fn say(self, cx: &Context<'_>) {
        let name = self.message.name.clone();
        cx.say_integration(self, &name);
    }
}

impl<E: DomainEvent> SayAs<E> for kind::Domain {}

impl<E: DomainEvent> sealed_kind::SayAs<E> for kind::Domain {
    fn say(event: E, cx: &Context<'_>) {
        cx.say_domain(event);
    }

    async fn go_out(event: E, cx: &mut Context<'_>) -> Result<()> {
        // Nobody else has it, so that it may stay where it is.
        go_out_alone(cx.core().emitter(), cx, event).await
    }
}

macro_rules! said_as_integration {
    ($($kind:ident)*) => {$(
        impl<E: IntegrationEvent> SayAs<E> for kind::$kind {}

        impl<E: IntegrationEvent> sealed_kind::SayAs<E> for kind::$kind {
            fn say(event: E, cx: &Context<'_>) {
                cx.say_integration(event, E::NAME);
            }
        }
    )*};
}

said_as_integration!(Notification Ecst);
