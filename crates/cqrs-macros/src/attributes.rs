//! Reads `#[request(..)]` and `#[event(..)]`: lists of `name = value`.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, ExprPath, Ident, Lit, LitInt, LitStr, Meta, Path, Result, Token, Type,
};

/// A name that may stand in the attribute, and how it is written.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) example: &'static str,
}

pub(crate) const RESPONSE: Known = Known { name: "response", example: "response = Type" };
pub(crate) const ERROR: Known = Known { name: "error", example: "error = Type" };
pub(crate) const NAME: Known = Known { name: "name", example: "name = \"..\"" };
pub(crate) const TOPIC: Known = Known { name: "topic", example: "topic = \"..\"" };
pub(crate) const KEY: Known = Known { name: "key", example: "key = field" };
pub(crate) const VERSION: Known = Known { name: "version", example: "version = 2" };
pub(crate) const ITEM: Known = Known { name: "item", example: "item = Type" };
pub(crate) const RETRY: Known = Known { name: "retry", example: "retry" };
pub(crate) const VALIDATE: Known = Known { name: "validate", example: "validate" };
pub(crate) const CRATE: Known = Known { name: "crate", example: "crate = \"path\"" };

/// An attribute, and what may stand in it.
pub(crate) struct Grammar {
    pub(crate) attribute: &'static str,
    /// What the attribute stands on, in words.
    pub(crate) on: &'static str,
    pub(crate) known: &'static [Known],
    /// Where to look for what is not known.
    pub(crate) hint: &'static str,
}

impl Known {
    /// Whether it may stand there without a value.
    fn may_stand_alone(self) -> bool {
        !self.example.contains('=')
    }
}

/// Hands every `name = value` of the attribute, or attributes, to `read`: each name is known, and comes once. One that may stand
/// alone is handed over where the value would begin.
pub(crate) fn read_each(
    attributes: &[Attribute],
    grammar: &Grammar,
    mut read: impl FnMut(Known, ParseStream<'_>) -> Result<()>,
) -> Result<()> {
    let Grammar { attribute, on, known, hint } = *grammar;
    let mut seen = Vec::new();
    for found in attributes.iter().filter(|found| found.path().is_ident(attribute)) {
        let Meta::List(arguments) = &found.meta else {
            let examples: Vec<_> = known.iter().map(|known| known.example).collect();
            return Err(Error::new_spanned(
                found,
                format!("write `#[{attribute}({})]`", examples.join(", ")),
            ));
        };
        arguments.parse_args_with(|input: ParseStream<'_>| {
            while !input.is_empty() {
                let name = input.call(Ident::parse_any)?;
                let Some(known) = known.iter().find(|known| name == known.name).copied() else {
                    let names: Vec<_> = known.iter().map(|known| format!("`{}`", known.name)).collect();
                    let message =
                        format!("unknown attribute `{name}`: {on} takes {}{hint}", names.join(", "));
                    return Err(Error::new(name.span(), message));
                };
                if seen.contains(&known.name) {
                    return Err(Error::new(name.span(), format!("`{name}` is given twice")));
                }
                seen.push(known.name);
                if !known.may_stand_alone() {
                    if !input.peek(Token![=]) {
                        let message = format!("`{name}` needs a value: `{}`", known.example);
                        return Err(Error::new(name.span(), message));
                    }
                    input.parse::<Token![=]>()?;
                }
                read(known, input)?;
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A string literal that is not empty.
pub(crate) fn text(known: Known, input: ParseStream<'_>) -> Result<LitStr> {
    text_of(known, &value(known, input)?, "a string literal")
}

/// A string literal that is not empty, or the path of a constant.
pub(crate) fn text_or_constant(known: Known, input: ParseStream<'_>) -> Result<Expr> {
    let value = value(known, input)?;
    if !matches!(value, Expr::Path(_)) {
        text_of(known, &value, "a string literal or a constant")?;
    }
    Ok(value)
}

fn text_of(known: Known, value: &Expr, wanted: &str) -> Result<LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().is_empty() => {
            Err(Error::new(text.span(), format!("`{}` must not be empty", known.name)))
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
        other => Err(wants(known, wanted, other.span())),
    }
}

/// A path in a string literal, as in `crate = "my_kit::cqrs"`; without the quotes will do, too.
pub(crate) fn path(known: Known, input: ParseStream<'_>) -> Result<Path> {
    match value(known, input)? {
        Expr::Path(ExprPath { path, .. }) => Ok(path),
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse_with(Path::parse_mod_style),
        other => Err(wants(known, "a path in a string literal", other.span())),
    }
}

/// A type.
pub(crate) fn a_type(known: Known, input: ParseStream<'_>) -> Result<Type> {
    let start = input.span();
    if input.peek(Lit) {
        return Err(wants(known, "a type, without quotes", start));
    }
    input.parse().map_err(|_| wants(known, "a type", start))
}

/// A number that fits into a `u32`.
pub(crate) fn number(known: Known, input: ParseStream<'_>) -> Result<LitInt> {
    match value(known, input)? {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) if number.base10_parse::<u32>().is_ok() => {
            Ok(number)
        }
        other => Err(wants(known, "a number from 0 to 4294967295", other.span())),
    }
}

/// Nothing.
pub(crate) fn nothing(known: Known, input: ParseStream<'_>) -> Result<()> {
    if input.peek(Token![=]) {
        return Err(wants(known, "no value", input.span()));
    }
    Ok(())
}

/// `= expression`, or nothing.
pub(crate) fn value_or_nothing(known: Known, input: ParseStream<'_>) -> Result<Option<Expr>> {
    if !input.peek(Token![=]) {
        return Ok(None);
    }
    input.parse::<Token![=]>()?;
    value(known, input).map(Some)
}

/// Any expression.
pub(crate) fn value(known: Known, input: ParseStream<'_>) -> Result<Expr> {
    let start = input.span();
    let mut value = input.parse::<Expr>().map_err(|_| wants(known, "a value", start))?;
    // What a `macro_rules!` put in stands in a group that is not to be seen.
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    Ok(value)
}

fn wants(known: Known, what: &str, at: Span) -> Error {
    Error::new(at, format!("`{}` takes {what}: `{}`", known.name, known.example))
}
