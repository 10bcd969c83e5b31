//! `mediator!`: the handlers of a static mediator.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DataStruct, DeriveInput, Error, Fields, Ident, Result, Token, Type, Visibility, braced,
};

use crate::attributes::{CRATE, Grammar, misplaced, path, read_each};
use crate::target::home;

const GRAMMAR: Grammar =
    Grammar { attribute: "mediator", on: "a set of handlers", known: &[CRATE], elsewhere: &[], hint: "" };

/// `struct Name { field: Request => Handler, .. }`
pub(crate) struct Declared {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    fields: Vec<Field>,
}

struct Field {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    handler: Handler,
}

struct Handler {
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
        let fields = Punctuated::<Field, Token![,]>::parse_terminated(&content)?;
        if !input.is_empty() {
            return Err(input.error("one `mediator!` declares one struct"));
        }
        Ok(Self { attributes, visibility, name, fields: fields.into_iter().collect() })
    }
}

impl Parse for Field {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let (visibility, field) = (input.parse()?, input.parse::<Ident>()?);
        let wanted = |error: Error| Error::new(error.span(), format!("write `{field}: Request => Handler`"));
        input.parse::<Token![:]>().map_err(wanted)?;
        let request = input.parse().map_err(wanted)?;
        input.parse::<Token![=>]>().map_err(wanted)?;
        let handler = input.parse().map_err(wanted)?;
        Ok(Self { attributes, visibility, handler: Handler { field, request, handler } })
    }
}

/// The struct, with what a handler is for as an attribute of its field. All else is derived of that, for a derive is shown what is there
/// when the compiler has seen to the conditions, be they a `cfg` or within a `cfg_attr`: a macro cannot know which of them hold.
pub(crate) fn expand(declared: &Declared) -> Result<TokenStream> {
    let Declared { attributes, visibility, name, fields } = declared;
    let home = home_of(attributes)?;
    let fields = fields.iter().map(|Field { attributes, visibility, handler }| {
        let Handler { field, request, handler } = handler;
        quote!(#(#attributes)* #[__answers(#request)] #visibility #field: #handler)
    });
    Ok(quote! {
        // First, for what says where the traits are is an attribute of it.
        #[derive(#home::__private::Handlers)]
        #(#attributes)*
        #visibility struct #name { #(#fields),* }
    })
}

fn home_of(attributes: &[Attribute]) -> Result<TokenStream> {
    let mut said = None;
    let problem = read_each(attributes, &GRAMMAR, |known, value| {
        said = Some(path(known, value)?);
        Ok(())
    });
    problem.map_or_else(|| home(said), Err)
}

/// What is derived.
pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let DeriveInput { vis: visibility, ident: name, .. } = input;
    let home = home_of(&input.attrs)?;
    let (handlers, mut wrong) = without_twins(Handler::all_of(input)?);
    wrong.extend(misplaced(input, &GRAMMAR));
    let wrong = wrong.iter().map(Error::to_compile_error);
    let parts: Vec<_> = handlers.iter().map(|handler| Part::new(handler, visibility, &home)).collect();
    let (written, binds) = (parts.iter().map(|part| &part.written), parts.iter().map(|part| &part.binds));
    let (all, within): (Vec<_>, Vec<_>) = parts.iter().map(|part| (&part.serves, &part.within)).unzip();
    let bound: Vec<_> = parts.iter().map(|part| &part.bound).collect();
    let found = parts.iter().map(|part| {
        let Part { asked, is_asked, home, within, bound, .. } = part;
        // What lists the requests that have one shows it.
        quote_spanned! {part.asked.span()=>
            impl<__S: __Serves> #home::HandlerFor<#asked, __S> for #name #is_asked {
                type Within = #within;

                fn find(all: &Self::Bound) -> &Self::Within {
                    &all.#bound
                }
            }
        }
    });
    // What is wrong with one of all shows the name, and not the whole set.
    let serves = quote_spanned! {Span::call_site().located_at(name.span())=>
        /// Middlewares that serve all requests of the set: said once, and not again for each of them.
        #visibility trait __Serves: #(#all +)* 'static {}

        impl<__S: #(#all +)* 'static> __Serves for __S {}
    };
    Ok(quote! {
        #(#wrong)*

        // Names are made of those of the fields, and a set that nobody uses is to be told once.
        #[allow(dead_code, non_camel_case_types, non_snake_case)]
        const _: () = {
            #(#written)*

            #serves

            // A type with a name, and no tuple: each look into that would be one at all of it, and many handlers would take the compiler
            // the third power of their number.
            #[doc(hidden)]
            #visibility struct __Bound<__S: __Serves> {
                #(#bound: ::std::sync::Arc<#within>,)*
                __of: ::core::marker::PhantomData<fn(__S)>,
            }

            impl<__S: __Serves> #home::StaticHandlers<__S> for #name {
                type Bound = __Bound<__S>;

                fn bind(self, __requests: #home::RequestMap<__S>) -> (#home::RequestMap<__S>, Self::Bound) {
                    #(#binds)*
                    (__requests, __Bound { #(#bound,)* __of: ::core::marker::PhantomData })
                }
            }

            #(#found)*

            #[diagnostic::do_not_recommend]
            impl<__S: __Serves> #home::HandlerFor<#home::__private::declared::NoRequest, __S> for #name {
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
    /// The request, and where the traits are, both as if they stood where the request does: what is no request is told there.
    asked: Ident,
    home: TokenStream,
    /// Said of what is written, so that nothing in it is wrong where the request is none.
    is_asked: TokenStream,
    /// A type of its own, which is bound in the handler's place and is one of the request whatever the handler is. All else names that
    /// one alone: so what is wrong with the handler is said where it is written, and neither where the set is made nor where it is used.
    written: TokenStream,
    /// What the middlewares have to do for it.
    serves: TokenStream,
    within: TokenStream,
    binds: TokenStream,
    bound: Ident,
}

impl Part {
    fn new(
        Handler { field, request, handler }: &Handler,
        visibility: &Visibility,
        home: &TokenStream,
    ) -> Self {
        let at = Span::call_site().located_at(handler.span());
        let stands_for = format_ident!("__for_{}", field.unraw(), span = at);
        let is = format_ident!("__is_{}", field.unraw(), span = at);
        let asked_at = Span::call_site().located_at(request.span());
        let asked = format_ident!("__ask_{}", field.unraw(), span = asked_at);
        let home: TokenStream = home
            .clone()
            .into_iter()
            .map(|mut token| {
                token.set_span(token.span().located_at(asked_at));
                token
            })
            .collect();
        let bound = format_ident!("__of_{}", field.unraw(), span = asked_at);
        let serves = quote_spanned!(asked_at=> #home::MiddlewareStack<#asked>);
        let is_asked = quote_spanned!(asked_at=> where #asked: #home::Request);
        Self {
            // Each mention of the handler is the same word in the same place, and asks for the same: what the compiler says twice in
            // the same words, it says once.
            written: quote_spanned! {at=>
                type #is = #handler;
                type #asked = #request;
                #[doc(hidden)]
                #visibility struct #stands_for(#is);
                impl #stands_for {
                    // What is asked for first is what is told: the request.
                    fn bind<S>(
                        self,
                        requests: #home::RequestMap<S>,
                    ) -> (#home::RequestMap<S>, ::std::sync::Arc<<S as #home::MiddlewareStack<#asked>>::Bound<Self>>)
                    #is_asked, S: #home::MiddlewareStack<#asked>
                    {
                        #home::__private::declared::bind(self, requests)
                    }
                }
                #[diagnostic::do_not_recommend]
                impl #home::RequestHandler<#asked> for #stands_for #is_asked {
                    fn handle(
                        &self,
                        request: #asked,
                        cx: &#home::Context<'_>,
                    ) -> impl ::core::future::Future<Output = #home::Reply<#asked>> + ::core::marker::Send {
                        <#is as #home::RequestHandler<#asked>>::handle(&self.0, request, cx)
                    }
                }
            },
            within: quote_spanned!(asked_at=> <__S as #serves>::Bound<#stands_for>),
            binds: quote_spanned! {asked_at=>
                let (__requests, #bound) = #stands_for(self.#field).bind(__requests);
            },
            serves,
            bound,
            asked,
            home,
            is_asked,
        }
    }
}

impl Handler {
    /// Those of the struct that is left when the compiler has seen to its conditions.
    fn all_of(input: &DeriveInput) -> Result<Vec<Self>> {
        let mut handlers = Vec::new();
        if let Data::Struct(DataStruct { fields: Fields::Named(fields), .. }) = &input.data {
            for found in &fields.named {
                let request = found.attrs.iter().find(|attribute| attribute.path().is_ident("__answers"));
                let (Some(field), Some(request)) = (&found.ident, request) else { continue };
                handlers.push(Self {
                    field: field.clone(),
                    request: request.parse_args()?,
                    handler: found.ty.clone(),
                });
            }
        }
        Ok(handlers)
    }
}

/// The first handler of each request, and what is wrong with the others: what uses the set is not to be told, too. The compiler finds them
/// as well, but does not say it so well; two fields of one name it does.
fn without_twins(handlers: Vec<Handler>) -> (Vec<Handler>, Vec<Error>) {
    let (mut requests, mut fields) = (HashSet::new(), HashSet::new());
    let (mut first, mut twins) = (Vec::new(), Vec::new());
    for handler in handlers {
        let text = handler.request.to_token_stream().to_string();
        if !fields.insert(handler.field.unraw()) {
            continue;
        }
        if requests.contains(&text) {
            let message = format!(
                "two handlers for the request `{text}`: a request has exactly one, remove the second"
            );
            twins.push(Error::new_spanned(&handler.request, message));
            continue;
        }
        requests.insert(text);
        first.push(handler);
    }
    (first, twins)
}
