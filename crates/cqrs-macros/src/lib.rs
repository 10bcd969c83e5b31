//! The derives of the `cqrs` toolkit: [`Request`](macro@Request), [`DomainEvent`](macro@DomainEvent),
//! [`NotificationEvent`](macro@NotificationEvent), [`EcstEvent`](macro@EcstEvent).
//!
//! Use them from `cqrs` or, with its feature `macros`, from `cqrs-core`. What they write names the traits by the one
//! of these crates that your `Cargo.toml` has, under the name that it has there. Where neither is found, as in a crate
//! that re-exports one of them, say where the traits are: `#[request(crate = "my_kit::cqrs")]`.

mod attributes;
mod event;
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
/// | `crate = "path"` | where the traits are | found in `Cargo.toml` |
///
/// Type parameters get the bounds `Send + 'static`.
#[proc_macro_derive(Request, attributes(request))]
pub fn request(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input), request::derive)
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
