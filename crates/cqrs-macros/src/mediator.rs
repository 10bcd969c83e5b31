//! `mediator!`: the handlers of a static mediator.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, Index, Meta, Result, Token, Type, Visibility, braced};

use crate::attributes::{CRATE, Grammar, path, read_each};
use crate::target::home;

const GRAMMAR: Grammar =
    Grammar { attribute: "mediator", on: "a set of handlers", known: &[CRATE], hint: "" };

/// `struct Name { field: Request => Handler, .. }`
pub(crate) struct Declared {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    handlers: Vec<Handler>,
}

struct Handler {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    field: Ident,
    request: Type,
    handler: Type,
}

impl Parse for Declared {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        input.parse::<Token![struct]>()?;
        let name = input.parse()?;
        if input.peek(Token![<]) {
            return Err(input.error(
                "a set of handlers has no parameters: write the handlers' types with theirs filled in",
            ));
        }
        let content;
        braced!(content in input);
        let handlers = Punctuated::<Handler, Token![,]>::parse_terminated(&content)?;
        if !input.is_empty() {
            return Err(input.error("one `mediator!` declares one struct"));
        }
        Ok(Self { attributes, visibility, name, handlers: handlers.into_iter().collect() })
    }
}

impl Parse for Handler {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let (visibility, field) = (input.parse()?, input.parse::<Ident>()?);
        let wanted = |error: Error| Error::new(error.span(), format!("write `{field}: Request => Handler`"));
        input.parse::<Token![:]>().map_err(wanted)?;
        let request = input.parse().map_err(wanted)?;
        input.parse::<Token![=>]>().map_err(wanted)?;
        let handler = input.parse().map_err(wanted)?;
        Ok(Self { attributes, visibility, field, request, handler })
    }
}

pub(crate) fn expand(declared: &Declared) -> Result<TokenStream> {
    let Declared { attributes, visibility, name, handlers } = declared;
    let mut said = None;
    read_each(attributes, &GRAMMAR, |known, value| {
        said = Some(path(known, value)?);
        Ok(())
    })?;
    let home = home(said)?;
    if let Some(either) = declared.either(&home)? {
        return Ok(either);
    }
    refuse_twins(handlers)?;
    let kept = attributes.iter().filter(|attribute| !attribute.path().is_ident("mediator"));
    let fields = handlers.iter().map(|Handler { attributes, visibility, field, handler, .. }| {
        quote!(#(#attributes)* #visibility #field: #handler)
    });
    let parts: Vec<_> = handlers.iter().map(|handler| Part::new(handler, visibility, &home)).collect();
    let written = parts.iter().map(|part| &part.written);
    let (binds, kept_as) = (parts.iter().map(|part| &part.binds), parts.iter().map(|part| &part.kept_as));
    let within: Vec<_> = parts.iter().map(|part| &part.within).collect();
    let each: Vec<_> = parts.iter().map(|part| &part.bound).collect();
    let found = parts.iter().zip(handlers).enumerate().map(|(number, (part, Handler { request, .. }))| {
        let (number, within) = (Index::from(number), &part.within);
        // What lists the requests that have one shows it.
        quote_spanned! {part.at=>
            impl<__S> #home::HandlerFor<#request, __S> for #name where #(#each,)* {
                type Within = #within;

                fn find(bound: &Self::Bound) -> &Self::Within {
                    &bound.#number
                }
            }
        }
    });
    Ok(quote! {
        #(#kept)*
        #visibility struct #name { #(#fields),* }

        // Names are made of those of the fields, and a set that nobody uses is to be told once.
        #[allow(dead_code, non_camel_case_types, non_snake_case)]
        const _: () = {
            #(#written)*

            impl<__S> #home::StaticHandlers<__S> for #name where #(#each,)* {
                type Bound = (#(::std::sync::Arc<#within>,)*);

                fn bind(self, __requests: #home::RequestMap<__S>) -> (#home::RequestMap<__S>, Self::Bound) {
                    #(#binds)*
                    (__requests, (#(#kept_as,)*))
                }
            }

            #(#found)*

            impl<__S> #home::HandlerFor<#home::__private::declared::NoRequest, __S> for #name where #(#each,)* {
                type Within = #home::__private::declared::NoHandler;

                fn find(_: &Self::Bound) -> &Self::Within {
                    &#home::__private::declared::NoHandler
                }
            }
        };
    })
}

/// What is written for one handler.
struct Part {
    /// Where the handler stands.
    at: Span,
    /// A type of its own, which is bound in the handler's place. All else names that one alone, and takes for granted that it
    /// can be: so what is wrong with the handler is said where it is written, and nowhere else.
    written: TokenStream,
    /// That it can be.
    bound: TokenStream,
    within: TokenStream,
    binds: TokenStream,
    kept_as: Ident,
}

impl Part {
    fn new(
        Handler { field, request, handler, .. }: &Handler,
        visibility: &Visibility,
        home: &TokenStream,
    ) -> Self {
        let at = Span::call_site().located_at(handler.span());
        let stands_for = format_ident!("__for_{}", field.unraw(), span = at);
        let is = format_ident!("__is_{}", field.unraw(), span = at);
        let asked = format_ident!("__ask_{}", field.unraw(), span = at);
        let kept_as = format_ident!("__of_{}", field.unraw(), span = at);
        let bind = quote_spanned!(at=> #home::__private::declared::Bind<#request, #is, __S>);
        // Each mention of the handler is the same word in the same place, and asks for the same: what the compiler says twice in
        // the same words, it says once.
        let itself = quote_spanned!(at=> <#is as #home::__private::declared::Bind<#asked, #is, __S>>);
        Self {
            at,
            written: quote_spanned! {at=>
                type #is = #handler;
                type #asked = #request;
                #[doc(hidden)]
                #visibility struct #stands_for;
                impl<__S: #home::MiddlewareStack<#asked>> #bind for #stands_for {
                    type Within = #itself::Within;

                    fn bind(
                        handler: #is,
                        requests: #home::RequestMap<__S>,
                    ) -> (#home::RequestMap<__S>, ::std::sync::Arc<Self::Within>) {
                        #itself::bind(handler, requests)
                    }
                }
            },
            bound: quote!(#stands_for: #bind),
            within: quote!(<#stands_for as #bind>::Within),
            binds: quote! {
                let (__requests, #kept_as) = <#stands_for as #bind>::bind(self.#field, __requests);
            },
            kept_as,
        }
    }
}

impl Declared {
    /// Where something stands under a condition: both courses, of which the compiler takes one. A macro cannot know whether it
    /// holds, and not all that is written for a handler can have an attribute. One condition at a time, so that what is written
    /// does not double with each.
    fn either(&self, home: &TokenStream) -> Result<Option<TokenStream>> {
        let Self { visibility, name, handlers, .. } = self;
        let declare = |attributes: &[Attribute], handlers: &[TokenStream]| quote!(#home::__private::mediator! { #(#attributes)* #visibility struct #name { #(#handlers,)* } });
        let mut all: Vec<_> = handlers.iter().map(ToTokens::to_token_stream).collect();
        let (attributes, conditions) = split(&self.attributes)?;
        if !conditions.is_empty() {
            let declared = declare(&attributes, &all);
            return Ok(Some(quote!(#[cfg(all(#(all(#conditions)),*))] #declared)));
        }
        for (number, handler) in handlers.iter().enumerate() {
            let (attributes, conditions) = split(&handler.attributes)?;
            if conditions.is_empty() {
                continue;
            }
            all[number] = handler.with_attributes(&attributes);
            let with = declare(&self.attributes, &all);
            all.remove(number);
            let without = declare(&self.attributes, &all);
            return Ok(Some(quote! {
                #[cfg(all(#(all(#conditions)),*))]
                #with
                #[cfg(not(all(#(all(#conditions)),*)))]
                #without
            }));
        }
        Ok(None)
    }
}

impl Handler {
    fn with_attributes(&self, attributes: &[Attribute]) -> TokenStream {
        let Self { visibility, field, request, handler, .. } = self;
        quote!(#(#attributes)* #visibility #field: #request => #handler)
    }
}

impl ToTokens for Handler {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.with_attributes(&self.attributes));
    }
}

/// Parts the conditions from the other attributes.
fn split(attributes: &[Attribute]) -> Result<(Vec<Attribute>, Vec<TokenStream>)> {
    let (mut others, mut conditions) = (Vec::new(), Vec::new());
    for attribute in attributes {
        if attribute.path().is_ident("cfg") {
            conditions.push(one_predicate(attribute)?);
        } else if attribute.path().is_ident("cfg_attr") && holds_a_condition(&attribute.meta)? {
            return Err(Error::new_spanned(
                attribute,
                "a `cfg` in a `cfg_attr` is not read here: write it as one condition, `#[cfg(any(not(..), ..))]`",
            ));
        } else {
            others.push(attribute.clone());
        }
    }
    Ok((others, conditions))
}

/// What a `cfg` asks, which is one thing, as it is to the compiler.
fn one_predicate(attribute: &Attribute) -> Result<TokenStream> {
    let predicate = attribute.meta.require_list()?.tokens.clone();
    let mut tokens = predicate.clone().into_iter();
    let is_comma = |token: TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
    if tokens.any(is_comma) && tokens.next().is_some() {
        let message = "a `cfg` has one predicate: write `all(.., ..)` around these, or `any(.., ..)`";
        return Err(Error::new_spanned(attribute, message));
    }
    Ok(predicate)
}

/// Whether a `cfg_attr` has a `cfg` among what it adds, be it by another `cfg_attr`.
fn holds_a_condition(meta: &Meta) -> Result<bool> {
    if !meta.path().is_ident("cfg_attr") {
        return Ok(meta.path().is_ident("cfg"));
    }
    let added = added.parse2(meta.require_list()?.tokens.clone())?;
    added.iter().try_fold(false, |found, meta| Ok(found || holds_a_condition(meta)?))
}

/// What stands behind the predicate, which need not be a path: `true` is one.
fn added(tokens: ParseStream<'_>) -> Result<Punctuated<Meta, Token![,]>> {
    while !tokens.is_empty() && !tokens.peek(Token![,]) {
        tokens.parse::<TokenTree>()?;
    }
    tokens.parse::<Option<Token![,]>>()?;
    Punctuated::parse_terminated(tokens)
}

/// The compiler would find them, too, but not say it as well.
fn refuse_twins(handlers: &[Handler]) -> Result<()> {
    for (number, later) in handlers.iter().enumerate() {
        let text = later.request.to_token_stream().to_string();
        if handlers[..number].iter().any(|handler| handler.request.to_token_stream().to_string() == text) {
            let message = format!(
                "two handlers for the request `{text}`: a request has exactly one, remove the second"
            );
            return Err(Error::new_spanned(&later.request, message));
        }
        let field = &later.field;
        if handlers[..number].iter().any(|handler| handler.field == *field) {
            let message = format!("two fields are called `{field}`: give each handler a name of its own");
            return Err(Error::new_spanned(field, message));
        }
    }
    Ok(())
}
