//! `mediator!`: the handlers of a static mediator.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, Result, Token, Type, Visibility, braced};

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
    refuse_twins(handlers)?;
    let mut said = None;
    read_each(attributes, &GRAMMAR, |known, value| {
        said = Some(path(known, value)?);
        Ok(())
    })?;
    let home = home(said)?;
    let kept = attributes.iter().filter(|attribute| !attribute.path().is_ident("mediator"));
    let bound = format_ident!("__{name}Bound");
    let fields = handlers.iter().map(|Handler { attributes, visibility, field, handler, .. }| {
        quote!(#(#attributes)* #visibility #field: #handler)
    });
    let names: Vec<_> = handlers.iter().map(|handler| &handler.field).collect();
    let kept_as: Vec<_> = handlers.iter().map(|handler| hidden(&handler.field)).collect();
    let within: Vec<_> = handlers
        .iter()
        .map(|Handler { request, handler, .. }| {
            // Where it does not handle the request, the error points at the handler.
            quote_spanned!(handler.span()=> #home::__private::declared::Within<__S, #request, #handler>)
        })
        .collect();
    let stack = handlers.iter().map(|Handler { request, .. }| quote!(+ #home::MiddlewareStack<#request>));
    let stack =
        quote!(::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static #(#stack)*);
    let found = handlers.iter().map(|Handler { field, request, handler, .. }| {
        let kept_as = hidden(field);
        quote_spanned! {handler.span()=>
            impl<__S: #stack> #home::HandlerFor<#request, __S> for #name {
                type Within = <__S as #home::MiddlewareStack<#request>>::Bound<#handler>;

                fn find(bound: &Self::Bound) -> &Self::Within {
                    &bound.#kept_as
                }
            }
        }
    });
    let requests = handlers.iter().map(|handler| &handler.request);
    Ok(quote! {
        #(#kept)*
        #visibility struct #name { #(#fields),* }

        // Of a field that begins with `_`, say.
        #[allow(non_snake_case)]
        const _: () = {
            #[doc(hidden)]
            #visibility struct #bound<__S: #stack> { #(#kept_as: #within,)* __stack: ::core::marker::PhantomData<fn(__S)> }

            impl<__S: #stack> #home::StaticHandlers<__S> for #name {
                type Bound = #bound<__S>;

                fn bind(self, __requests: #home::RequestMap<__S>) -> (#home::RequestMap<__S>, Self::Bound) {
                    #(let (__requests, #kept_as) =
                        #home::__private::declared::bind::<__S, #requests, _>(__requests, self.#names);)*
                    (__requests, #bound { #(#kept_as,)* __stack: ::core::marker::PhantomData })
                }
            }

            #(#found)*

            impl<__S: #stack> #home::HandlerFor<#home::__private::declared::NoRequest, __S> for #name {
                type Within = #home::__private::declared::NoHandler;

                fn find(_: &Self::Bound) -> &Self::Within {
                    &#home::__private::declared::NoHandler
                }
            }
        };
    })
}

/// A name that stands in no one's way.
fn hidden(field: &Ident) -> Ident {
    format_ident!("__of_{}", field.unraw(), span = field.span())
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
    }
    Ok(())
}
