use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Expr, Result, Type, parse_quote};

use crate::attributes::{
    CRATE, ERROR, Grammar, ITEM, NAME, RESPONSE, RETRY, VALIDATE, a_type, nothing, path, read_each, text,
    value_or_nothing,
};
use crate::target::{check, home, implement, type_name};

const GRAMMAR: Grammar = Grammar {
    attribute: "request",
    on: "a request",
    known: &[RESPONSE, ERROR, NAME, RETRY, VALIDATE, CRATE],
    hint: "",
};

const STREAM_GRAMMAR: Grammar =
    Grammar { attribute: "request", on: "a streaming request", known: &[ITEM, ERROR, NAME, CRATE], hint: "" };

/// How a request is validated.
enum Validated {
    ByItself,
    By(Expr),
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "a request")?;
    let (mut response, mut error, mut name, mut said) = (None::<Type>, None::<Type>, None, None);
    let (mut retry, mut validated) = (false, None);
    read_each(&input.attrs, &GRAMMAR, |known, value| {
        match known.name {
            "response" => response = Some(a_type(known, value)?),
            "error" => error = Some(a_type(known, value)?),
            "name" => name = Some(text(known, value)?),
            "retry" => {
                nothing(known, value)?;
                retry = true;
            }
            "validate" => {
                validated = Some(value_or_nothing(known, value)?.map_or(Validated::ByItself, Validated::By));
            }
            _ => said = Some(path(known, value)?),
        }
        Ok(())
    })?;
    let home = home(said)?;
    let response = response.unwrap_or_else(|| parse_quote!(()));
    let error = error.map_or_else(|| quote!(#home::Error), |error| quote!(#error));
    let name = name.unwrap_or_else(|| type_name(&input.ident));
    let again = retry.then(|| {
        quote! {
            fn again(&self) -> ::core::option::Option<Self> {
                ::core::option::Option::Some(::core::clone::Clone::clone(self))
            }
        }
    });
    let validate = validated.map(|validated| {
        let by = match validated {
            Validated::ByItself => quote!(#home::Validate::validate),
            Validated::By(function) => quote!((#function)),
        };
        quote! {
            const IS_VALIDATED: bool = true;

            fn validate(&self) -> ::core::result::Result<(), #home::Error> {
                #by(self).map_err(#home::__private::refusal::<Self>)
            }
        }
    });
    Ok(implement(
        input,
        &[parse_quote!(::core::marker::Send), parse_quote!('static)],
        &quote!(#home::Request),
        &quote! {
            type Response = #response;
            type Error = #error;

            fn name() -> &'static str {
                #name
            }

            #again
            #validate
        },
    ))
}

pub(crate) fn derive_stream(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "a streaming request")?;
    let (mut item, mut error, mut name, mut said) = (None::<Type>, None::<Type>, None, None);
    read_each(&input.attrs, &STREAM_GRAMMAR, |known, value| {
        match known.name {
            "item" => item = Some(a_type(known, value)?),
            "error" => error = Some(a_type(known, value)?),
            "name" => name = Some(text(known, value)?),
            _ => said = Some(path(known, value)?),
        }
        Ok(())
    })?;
    let home = home(said)?;
    let item = item.ok_or_else(|| {
        syn::Error::new_spanned(&input.ident, "say what the stream gives: `#[request(item = Type)]`")
    })?;
    let error = error.map_or_else(|| quote!(#home::Error), |error| quote!(#error));
    let name = name.unwrap_or_else(|| type_name(&input.ident));
    Ok(implement(
        input,
        &[parse_quote!(::core::marker::Send), parse_quote!('static)],
        &quote!(#home::StreamRequest),
        &quote! {
            type Item = #item;
            type Error = #error;

            fn name() -> &'static str {
                #name
            }
        },
    ))
}
