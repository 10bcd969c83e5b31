use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::ParseStream;
use syn::{DeriveInput, Error, Expr, Result, Type, parse_quote};

use crate::attributes::{
    CRATE, ERROR, Grammar, ITEM, Known, NAME, RESPONSE, RETRY, VALIDATE, a_type, nothing, path, read_on_type,
    text, value_or_nothing,
};
use crate::target::{check, home, implement, type_name, with};

const GRAMMAR: Grammar = Grammar {
    attribute: "request",
    on: "a request",
    known: &[RESPONSE, ERROR, NAME, RETRY, VALIDATE, CRATE],
    elsewhere: &[ITEM],
    hint: "; it has one answer: to give one item after the other, derive `StreamRequest`",
};

const STREAM_GRAMMAR: Grammar = Grammar {
    attribute: "request",
    on: "a streaming request",
    known: &[ITEM, ERROR, NAME, RETRY, VALIDATE, CRATE],
    elsewhere: &[RESPONSE],
    hint: "; it gives items: to answer once, derive `Request`",
};

/// How a request is validated.
enum Validated {
    ByItself,
    By(Expr),
}

impl Validated {
    fn read(known: Known, value: ParseStream<'_>) -> Result<Self> {
        Ok(value_or_nothing(known, value)?.map_or(Self::ByItself, Self::By))
    }

    /// The method of the trait that asks.
    fn method(self, home: &TokenStream, of: &TokenStream) -> TokenStream {
        let by = match self {
            Self::ByItself => quote!(#home::Validate::validate),
            Self::By(function) => quote!((#function)),
        };
        quote! {
            const IS_VALIDATED: bool = true;

            fn validate(&self) -> ::core::result::Result<(), #home::Error> {
                #by(self).map_err(|invalid| #home::__private::refusal(<Self as #of>::name(), invalid))
            }
        }
    }
}

/// The method that gives the request once more.
fn again() -> TokenStream {
    quote! {
        fn again(&self) -> ::core::option::Option<Self> {
            ::core::option::Option::Some(::core::clone::Clone::clone(self))
        }
    }
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "a request")?;
    let (mut response, mut error, mut name, mut said) = (None::<Type>, None::<Type>, None, None);
    let (mut retry, mut validated) = (false, None);
    let problem = read_on_type(input, &GRAMMAR, |known, value| {
        match known.name {
            "response" => response = Some(a_type(known, value)?),
            "error" => error = Some(a_type(known, value)?),
            "name" => name = Some(text(known, value)?),
            "retry" => {
                nothing(known, value)?;
                retry = true;
            }
            "validate" => validated = Some(Validated::read(known, value)?),
            _ => said = Some(path(known, value)?),
        }
        Ok(())
    });
    let home = home(said)?;
    let response = response.unwrap_or_else(|| parse_quote!(()));
    let error = error.map_or_else(|| quote!(#home::Error), |error| quote!(#error));
    let name = name.unwrap_or_else(|| type_name(&input.ident));
    let of = quote!(#home::Request);
    let again = retry.then(again);
    let validate = validated.map(|validated| validated.method(&home, &of));
    let implemented = implement(
        input,
        &[parse_quote!(::core::marker::Send), parse_quote!('static)],
        &of,
        &quote! {
            type Response = #response;
            type Error = #error;

            fn name() -> &'static str {
                #name
            }

            #again
            #validate
        },
    );
    Ok(with(problem, implemented))
}

pub(crate) fn derive_stream(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "a streaming request")?;
    let (mut item, mut error, mut name, mut said) = (None::<Type>, None::<Type>, None, None);
    let (mut retry, mut validated) = (false, None);
    let mut problem = read_on_type(input, &STREAM_GRAMMAR, |known, value| {
        match known.name {
            "item" => item = Some(a_type(known, value)?),
            "error" => error = Some(a_type(known, value)?),
            "name" => name = Some(text(known, value)?),
            "retry" => {
                nothing(known, value)?;
                retry = true;
            }
            "validate" => validated = Some(Validated::read(known, value)?),
            _ => said = Some(path(known, value)?),
        }
        Ok(())
    });
    let home = home(said)?;
    let item = item.unwrap_or_else(|| {
        problem.get_or_insert_with(|| {
            Error::new_spanned(&input.ident, "say what the stream gives: `#[request(item = Type)]`")
        });
        parse_quote!(())
    });
    let error = error.map_or_else(|| quote!(#home::Error), |error| quote!(#error));
    let name = name.unwrap_or_else(|| type_name(&input.ident));
    let of = quote!(#home::StreamRequest);
    let again = retry.then(again);
    let validate = validated.map(|validated| validated.method(&home, &of));
    let implemented = implement(
        input,
        &[parse_quote!(::core::marker::Send), parse_quote!('static)],
        &of,
        &quote! {
            type Item = #item;
            type Error = #error;

            fn name() -> &'static str {
                #name
            }

            #again
            #validate
        },
    );
    Ok(with(problem, implemented))
}
