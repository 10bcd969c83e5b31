use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{
    Data, DeriveInput, Error, Expr, ExprLit, Fields, Ident, Index, Lit, LitInt, LitStr, Member, Path, Result,
    TypeParamBound, parse_quote, parse_quote_spanned,
};

use crate::attributes::{
    CRATE, Grammar, KEY, Known, NAME, TOPIC, VERSION, number, path, read_on_type, text_or_constant, value,
};
use crate::target::{check, home, implement, with};

const DOMAIN: Grammar = Grammar {
    attribute: "event",
    on: "a domain event",
    known: &[NAME, CRATE],
    elsewhere: &[TOPIC, KEY, VERSION],
    hint: "; it stays in this process: to tell other services, derive `NotificationEvent` or `EcstEvent`",
};

const INTEGRATION: Grammar = Grammar {
    attribute: "event",
    on: "an integration event",
    known: &[NAME, TOPIC, KEY, VERSION, CRATE],
    elsewhere: &[],
    hint: "",
};

/// What stands in `#[event(..)]`.
#[derive(Default)]
struct Attributes {
    name: Option<Expr>,
    topic: Option<Expr>,
    key: Option<Expr>,
    version: Option<LitInt>,
    home: Option<Path>,
}

impl Attributes {
    fn read(input: &DeriveInput, grammar: &Grammar) -> (Self, Option<Error>) {
        let mut read = Self::default();
        let problem = read_on_type(input, grammar, |known, from| read.set(known, from));
        (read, problem)
    }

    fn set(&mut self, known: Known, from: ParseStream<'_>) -> Result<()> {
        match known.name {
            "name" => self.name = Some(text_or_constant(known, from)?),
            "topic" => self.topic = Some(text_or_constant(known, from)?),
            "key" => self.key = Some(value(known, from)?),
            "version" => self.version = Some(number(known, from)?),
            _ => self.home = Some(path(known, from)?),
        }
        Ok(())
    }
}

/// The two kinds of integration events.
#[derive(Clone, Copy)]
struct Kind {
    /// The trait, and the derive.
    name: &'static str,
    /// The variant of `EventKind`, and the type in `kind`.
    variant: &'static str,
}

pub(crate) fn derive_domain(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "an event")?;
    let (attributes, problem) = Attributes::read(input, &DOMAIN);
    let home = home(attributes.home)?;
    let event = implement_event(input, &home, attributes.name, "Domain");
    let domain = implement(input, &bounds(), &quote!(#home::DomainEvent), &TokenStream::new());
    Ok(with(problem, quote!(#event #domain)))
}

pub(crate) fn derive_notification(input: &DeriveInput) -> Result<TokenStream> {
    derive_integration(input, Kind { name: "NotificationEvent", variant: "Notification" })
}

pub(crate) fn derive_ecst(input: &DeriveInput) -> Result<TokenStream> {
    derive_integration(input, Kind { name: "EcstEvent", variant: "Ecst" })
}

fn derive_integration(input: &DeriveInput, kind: Kind) -> Result<TokenStream> {
    check(input, "an event")?;
    let (Attributes { name, topic, key, version, home: said }, mut problem) =
        Attributes::read(input, &INTEGRATION);
    let topic = topic.unwrap_or_else(|| {
        problem.get_or_insert_with(|| {
            Error::new(
                input.ident.span(),
                format!(
                    "`{}` has no topic: write `#[event(topic = \"..\")]` below `#[derive({})]`, \
                 with the topic (Kafka) or exchange (AMQP) that it goes to",
                    input.ident, kind.name
                ),
            )
        });
        parse_quote!("?")
    });
    let key = key.and_then(|key| {
        let place = key.span();
        let key = key_of(input, key).map_err(|error| problem.get_or_insert(error).span());
        Some((place, key.ok()?))
    });
    let home = home(said)?;

    let event = implement_event(input, &home, name, kind.variant);
    let variant = Ident::new(kind.variant, Span::call_site());
    let version = version.map(|version| quote!(const VERSION: u32 = #version;));
    let key = key.map(|(place, key)| {
        // With its place, so that a key that is not `Display` is shown there.
        let text =
            quote_spanned!(place.resolved_at(Span::call_site())=> ::std::string::ToString::to_string(&#key));
        quote! {
            fn key(&self) -> ::core::option::Option<#home::Bytes> {
                ::core::option::Option::Some(#home::Bytes::from(#text))
            }
        }
    });
    let integration = implement(
        input,
        &bounds(),
        &quote!(#home::IntegrationEvent),
        &quote! {
            const KIND: #home::EventKind = #home::EventKind::#variant;
            const TOPIC: &'static str = #topic;
            #version
            #key
        },
    );
    let trait_name = Ident::new(kind.name, Span::call_site());
    let marker = implement(input, &bounds(), &quote!(#home::#trait_name), &TokenStream::new());
    Ok(with(problem, quote!(#event #integration #marker)))
}

fn implement_event(input: &DeriveInput, home: &TokenStream, name: Option<Expr>, kind: &str) -> TokenStream {
    let name = name.unwrap_or_else(|| {
        let name = LitStr::new(&snake_case(&input.ident.unraw().to_string()), input.ident.span());
        parse_quote!(#name)
    });
    let kind = Ident::new(kind, Span::call_site());
    implement(
        input,
        &bounds(),
        &quote!(#home::Event),
        &quote! {
            const NAME: &'static str = #name;
            type Kind = #home::kind::#kind;
        },
    )
}

fn bounds() -> [TypeParamBound; 3] {
    [parse_quote!(::core::marker::Send), parse_quote!(::core::marker::Sync), parse_quote!('static)]
}

/// What the key is made of: a field, if that is what is named, or the expression as it stands.
fn key_of(input: &DeriveInput, key: Expr) -> Result<Expr> {
    let member = match &key {
        Expr::Path(path) => {
            path.path.get_ident().filter(|ident| *ident != "self").cloned().map(Member::Named)
        }
        Expr::Lit(ExprLit { lit: Lit::Int(index), .. }) => {
            Some(Member::Unnamed(Index { index: index.base10_parse()?, span: index.span() }))
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            let message = format!("write the field without quotes: `key = {}`", text.value());
            return Err(Error::new(text.span(), message));
        }
        _ => None,
    };
    let Some(member) = member else {
        return Ok(key);
    };
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        _ => {
            let message = format!(
                "`{}` is an enum, without fields of its own: call a method for its key, `key = self.key_text()`",
                input.ident
            );
            return Err(Error::new(key.span(), message));
        }
    };
    if fields.members().any(|field| field == member) {
        let place = key.span().resolved_at(Span::call_site());
        return Ok(parse_quote_spanned!(place=> self.#member));
    }
    Err(Error::new(key.span(), no_such_field(&input.ident, &member, fields)))
}

fn no_such_field(ident: &Ident, member: &Member, fields: &Fields) -> String {
    let missing = match member {
        Member::Named(name) => name.to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    };
    let known: Vec<_> = fields
        .members()
        .map(|field| match field {
            Member::Named(name) => format!("`{name}`"),
            Member::Unnamed(index) => format!("`{}`", index.index),
        })
        .collect();
    match known.len() {
        0 => format!("`{ident}` has no field `{missing}`, and no other"),
        _ => format!(
            "`{ident}` has no field `{missing}`: its fields are {}, and `key = self.some.path` takes any expression",
            known.join(", ")
        ),
    }
}

/// `HTTPServerDown` becomes `http_server_down`: a word begins at a capital behind a small letter or a digit, and at
/// the last capital of several before a small letter.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let behind = letters.get(at + 1);
        let begins = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_numeric()
                    || (before.is_uppercase() && behind.is_some_and(|behind| behind.is_lowercase()))
            });
        if begins {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn words_are_found() {
        for (name, snake) in [
            ("MeetingRoomClosed", "meeting_room_closed"),
            ("HTTPServerDown", "http_server_down"),
            ("ServedByHTTP", "served_by_http"),
            ("Room2Closed", "room2_closed"),
            ("RoomV2", "room_v2"),
            ("A", "a"),
            ("Already_Snake", "already_snake"),
            ("ÜberRaum", "über_raum"),
        ] {
            assert_eq!(snake_case(name), snake);
        }
    }
}
