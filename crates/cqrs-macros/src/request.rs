use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Result, Type, parse_quote};

use crate::attributes::{CRATE, ERROR, Grammar, NAME, RESPONSE, a_type, path, read_each, text};
use crate::target::{check, home, implement, type_name};

const GRAMMAR: Grammar =
    Grammar { attribute: "request", on: "a request", known: &[RESPONSE, ERROR, NAME, CRATE], hint: "" };

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    check(input, "a request")?;
    let (mut response, mut error, mut name, mut said) = (None::<Type>, None::<Type>, None, None);
    read_each(&input.attrs, &GRAMMAR, |known, value| {
        match known.name {
            "response" => response = Some(a_type(known, value)?),
            "error" => error = Some(a_type(known, value)?),
            "name" => name = Some(text(known, value)?),
            _ => said = Some(path(known, value)?),
        }
        Ok(())
    })?;
    let home = home(said)?;
    let response = response.unwrap_or_else(|| parse_quote!(()));
    let error = error.map_or_else(|| quote!(#home::Error), |error| quote!(#error));
    let name = name.unwrap_or_else(|| type_name(&input.ident));
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
        },
    ))
}
