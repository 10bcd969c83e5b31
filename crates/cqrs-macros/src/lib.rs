//! The macros of the `cqrs` toolkit: the derives [`Request`](macro@Request), [`StreamRequest`](macro@StreamRequest),
//! [`DomainEvent`](macro@DomainEvent), [`NotificationEvent`](macro@NotificationEvent), [`EcstEvent`](macro@EcstEvent), and
//! [`mediator!`].
//!
//! Use them from `cqrs` or, with its feature `macros`, from `cqrs-core`. What they write names the traits by the one
//! of these crates that your `Cargo.toml` has, under the name that it has there. Where neither is found, as in a crate
//! that re-exports one of them, say where the traits are: `#[request(crate = "my_kit::cqrs")]`.

mod attributes;
mod event;
mod mediator;
mod request;
mod target;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a type a command or a query.
///
/// ```
/// use cqrs_core::Request;
/// # struct RoomLink;
/// # struct MeetingError;
/// # impl From<cqrs_core::Error> for MeetingError { fn from(_: cqrs_core::Error) -> Self { Self } }
///
/// #[derive(Request)]
/// #[request(response = RoomLink, error = MeetingError)]
/// struct ReadMeeting { meeting: u32 }
///
/// assert_eq!(ReadMeeting::name(), "ReadMeeting");
/// ```
///
/// | attribute | what it sets | default |
/// |---|---|---|
/// | `response = Type` | what the handler answers | `()` |
/// | `error = Type` | how it can fail; must be `From<cqrs_core::Error>` | `cqrs_core::Error` |
/// | `name = ".."` | the name in logs, traces and errors | the name of the type |
/// | `retry` | a `Retry` may send it again; the type is `Clone` | it is sent once |
/// | `validate` | a `Validation`, which has to stand around its handler, asks its `Validate`; `validate = function` asks that function, which takes `&Self` and returns a `Result<(), E>` with an error `E` | nothing is asked |
/// | `crate = "path"` | where the traits are | found in `Cargo.toml` |
///
/// Type parameters get the bounds `Send + 'static`.
#[proc_macro_derive(Request, attributes(request))]
pub fn request(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), request::derive)
}

/// Makes a type a streaming request: a query that is answered with one item after the other.
///
/// ```
/// use cqrs_core::StreamRequest;
///
/// #[derive(StreamRequest)]
/// #[request(item = String)]
/// struct ReadParticipants { meeting: u32 }
///
/// assert_eq!(ReadParticipants::name(), "ReadParticipants");
/// ```
///
/// | attribute | what it sets | default |
/// |---|---|---|
/// | `item = Type` | what comes | none: it must stand there |
/// | `error = Type` | how an item can fail; must be `From<cqrs_core::Error>` | `cqrs_core::Error` |
/// | `name = ".."` | the name in logs, traces and errors | the name of the type |
/// | `retry` | a `Retry` may begin its stream anew, before the first item; the type is `Clone` | it is begun once |
/// | `validate` | as for a request | nothing is asked |
/// | `crate = "path"` | where the traits are | found in `Cargo.toml` |
///
/// Type parameters get the bounds `Send + 'static`.
#[proc_macro_derive(StreamRequest, attributes(request))]
pub fn stream_request(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), request::derive_stream)
}

/// Declares the handlers of a static mediator, as a struct with a field for each: `name: Request => Handler`.
///
/// ```
/// # use cqrs_core::{Context, Request, RequestHandler, Result};
/// # #[derive(Request)] #[request(response = u64)] struct Add(u64, u64);
/// # struct Adder;
/// # impl RequestHandler<Add> for Adder {
/// #     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> { Ok(add.0 + add.1) }
/// # }
/// cqrs_core::mediator! {
///     /// What can be asked of the arithmetic.
///     pub(crate) struct Arithmetic {
///         /// Adds.
///         pub(crate) add: Add => Adder,
///     }
/// }
///
/// let handlers = Arithmetic { add: Adder };
/// ```
///
/// A request that stands there twice, a handler of something else, and sending what does not stand there are errors of the
/// compiler. `cqrs_core::StaticMediator` says what to do with the struct. `#[mediator(crate = "path")]` says where the traits are, if
/// they are not found by `Cargo.toml`. The struct may be more visible than its requests and handlers are; of a field that is more visible
/// than its handler the compiler warns, as of any. A `#[cfg(..)]` on a field holds for all that belongs to its handler, and one on the
/// struct for all of it. There may be hundreds of fields.
#[proc_macro]
pub fn mediator(input: TokenStream) -> TokenStream {
    let declared = parse_macro_input!(input as mediator::Declared);
    mediator::expand(&declared).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// What [`mediator!`] puts on the struct that it declares: not for others.
#[doc(hidden)]
#[proc_macro_derive(Handlers, attributes(mediator, __answers))]
pub fn handlers(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), mediator::derive)
}

/// Makes a type a domain event: something that happened, handled in this process.
///
/// ```
/// use cqrs_core::{DomainEvent, Event};
///
/// #[derive(DomainEvent)]
/// struct RoomClosed { room: u32 }
///
/// assert_eq!(RoomClosed::NAME, "room_closed");
/// ```
///
/// | attribute | what it sets | default |
/// |---|---|---|
/// | `#[event(name = "..")]` | the name in logs | the name of the type in `snake_case` |
/// | `#[event(crate = "path")]` | where the traits are | found in `Cargo.toml` |
///
/// Type parameters get the bounds `Send + Sync + 'static`.
#[proc_macro_derive(DomainEvent, attributes(event))]
pub fn domain_event(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), event::derive_domain)
}

/// Makes a type an integration event that carries ids. The type must be `serde::Serialize`, too.
///
/// ```
/// use cqrs_core::{IntegrationEvent, NotificationEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, NotificationEvent)]
/// #[event(name = "meeting_room_closed", topic = "meeting_room_notifications", key = room)]
/// struct MeetingRoomClosed { room: u32 }
///
/// assert_eq!(MeetingRoomClosed { room: 5 }.key().unwrap(), "5");
/// ```
///
/// | attribute | what it sets | default |
/// |---|---|---|
/// | `topic = ".."` | the topic (Kafka) or exchange (AMQP); a constant will do, too | none: it must stand there |
/// | `name = ".."` | the name on the wire; a constant will do, too | the name of the type in `snake_case` |
/// | `key = field` | what orders it: the `Display` form of a field (`key = room`, `key = 0`) or of an expression (`key = self.room.id`, `key = self.room()`) | no key, no order |
/// | `version = 2` | the version of the payload's schema | 1 |
/// | `crate = "path"` | where the traits are | found in `Cargo.toml` |
///
/// Type parameters get the bounds `Send + Sync + 'static`; give them `serde::Serialize` where the type is declared.
#[proc_macro_derive(NotificationEvent, attributes(event))]
pub fn notification_event(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), event::derive_notification)
}

/// Makes a type an integration event that carries the state (event-carried state transfer). The attributes are those
/// of [`NotificationEvent`](macro@NotificationEvent).
#[proc_macro_derive(EcstEvent, attributes(event))]
pub fn ecst_event(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), event::derive_ecst)
}

fn expand(
    input: DeriveInput,
    derive: fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>,
) -> TokenStream {
    derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
