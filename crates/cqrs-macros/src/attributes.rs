//! Reads `#[request(..)]` and `#[event(..)]`: lists of `name = value`.

use proc_macro2::{Span, TokenTree};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprLit, ExprPath, Ident, Lit, LitInt, LitStr, Member, Meta,
    Path, Result, Token, Type,
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
    /// What another derive knows.
    pub(crate) elsewhere: &'static [Known],
    /// Which derive that is.
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
///
/// What is wrong first is returned, and the rest is read all the same: with what is understood the derive writes what it is there for,
/// so that nothing else is told than what is wrong.
pub(crate) fn read_each(
    attributes: &[Attribute],
    grammar: &Grammar,
    mut read: impl FnMut(Known, ParseStream<'_>) -> Result<()>,
) -> Option<Error> {
    let mut seen = Vec::new();
    let mut problem = None;
    for found in attributes.iter().filter(|found| found.path().is_ident(grammar.attribute)) {
        let Meta::List(arguments) = &found.meta else {
            let examples: Vec<_> = grammar.known.iter().map(|known| known.example).collect();
            let message = format!("write `#[{}({})]`", grammar.attribute, examples.join(", "));
            problem.get_or_insert_with(|| Error::new_spanned(found, message));
            continue;
        };
        let read = arguments.parse_args_with(|input: ParseStream<'_>| {
            while !input.is_empty() {
                let each = grammar.read_one(input, &mut seen, &mut problem, &mut read);
                if let Err(error) = each.and_then(|()| end_of_one(input)) {
                    problem.get_or_insert(error);
                    while !input.is_empty() && !input.peek(Token![,]) {
                        input.parse::<TokenTree>()?;
                    }
                }
                input.parse::<Option<Token![,]>>()?;
            }
            Ok(())
        });
        if let Err(error) = read {
            problem.get_or_insert(error);
        }
    }
    problem
}

/// As [`read_each`], of a type; and what stands on its fields or variants instead is wrong, for nobody else reads it.
pub(crate) fn read_on_type(
    input: &DeriveInput,
    grammar: &Grammar,
    read: impl FnMut(Known, ParseStream<'_>) -> Result<()>,
) -> Option<Error> {
    read_each(&input.attrs, grammar, read).or_else(|| misplaced(input, grammar))
}

/// The first attribute that stands on a field or a variant.
pub(crate) fn misplaced(input: &DeriveInput, grammar: &Grammar) -> Option<Error> {
    let (kind, found) = match &input.data {
        Data::Struct(data) => {
            let mut fields = data.fields.iter().zip(data.fields.members());
            let found =
                fields.find_map(|(field, member)| Some((grammar.first_of(&field.attrs)?, Some(member))));
            ("struct", found)
        }
        Data::Enum(data) => {
            let mut all = data.variants.iter().flat_map(|variant| {
                let of_fields = variant.fields.iter().map(|field| &field.attrs);
                std::iter::once(&variant.attrs).chain(of_fields)
            });
            ("enum", all.find_map(|attributes| Some((grammar.first_of(attributes)?, None))))
        }
        Data::Union(_) => return None,
    };
    let (attribute, member) = found?;
    let Grammar { attribute: name, .. } = grammar;
    let message = format!(
        "`{name}` stands on the type: write `#[{name}({})]` above `{kind} {}`",
        grammar.rewritten(attribute, member),
        input.ident
    );
    Some(Error::new_spanned(attribute, message))
}

fn end_of_one(input: ParseStream<'_>) -> Result<()> {
    if input.is_empty() || input.peek(Token![,]) { Ok(()) } else { Err(input.error("expected `,`")) }
}

impl Grammar {
    fn first_of<'a>(&self, attributes: &'a [Attribute]) -> Option<&'a Attribute> {
        attributes.iter().find(|attribute| attribute.path().is_ident(self.attribute))
    }

    /// How what stands in a misplaced attribute is written on the type.
    fn rewritten(&self, attribute: &Attribute, field: Option<Member>) -> String {
        let Meta::List(arguments) = &attribute.meta else { return "..".to_owned() };
        let known = arguments.tokens.clone().into_iter().find_map(|token| match token {
            TokenTree::Ident(name) => self.known.iter().find(|known| name == known.name),
            _ => None,
        });
        match (known, field) {
            (Some(known), Some(Member::Named(field))) if known.name == KEY.name => format!("key = {field}"),
            (Some(known), Some(Member::Unnamed(field))) if known.name == KEY.name => {
                format!("key = {}", field.index)
            }
            // An enum has no fields of its own.
            (Some(known), None) if known.name == KEY.name => "key = self.key_text()".to_owned(),
            (Some(known), _) => known.example.to_owned(),
            (None, _) => "..".to_owned(),
        }
    }

    fn read_one(
        &self,
        input: ParseStream<'_>,
        seen: &mut Vec<&'static str>,
        problem: &mut Option<Error>,
        read: &mut impl FnMut(Known, ParseStream<'_>) -> Result<()>,
    ) -> Result<()> {
        let name = input.call(Ident::parse_any)?;
        let known = match self.known.iter().find(|known| name == known.name) {
            Some(known) if seen.contains(&known.name) => {
                return Err(Error::new(name.span(), format!("`{name}` is given twice")));
            }
            Some(known) => {
                seen.push(known.name);
                *known
            }
            None => {
                problem.get_or_insert_with(|| self.unknown(&name));
                // Most likely it is one that is misspelt; and if not, it is wrong in any case. The right one may come yet, and is
                // taken instead.
                let Some(meant) = self.meant(&name, seen) else { return Err(self.unknown(&name)) };
                meant
            }
        };
        if !known.may_stand_alone() {
            if !input.peek(Token![=]) {
                let message = format!("`{name}` needs a value: `{}`", known.example);
                return Err(Error::new(name.span(), message));
            }
            input.parse::<Token![=]>()?;
        }
        read(known, input)
    }

    fn unknown(&self, name: &Ident) -> Error {
        let Self { on, known, elsewhere, hint, .. } = self;
        let names: Vec<_> = known.iter().map(|known| format!("`{}`", known.name)).collect();
        let hint = if elsewhere.iter().any(|other| name == other.name) { hint } else { "" };
        let message = format!("unknown attribute `{name}`: {on} takes {}{hint}", names.join(", "));
        Error::new(name.span(), message)
    }

    /// The first that begins like it and takes a value.
    fn meant(&self, name: &Ident, seen: &[&str]) -> Option<Known> {
        let first = name.to_string().chars().next()?;
        let is_like = |known: &&Known| {
            known.name.starts_with(first) && !known.may_stand_alone() && !seen.contains(&known.name)
        };
        self.known.iter().find(is_like).copied()
    }
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
