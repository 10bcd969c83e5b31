//! What is common to the derives: the type they stand on, and where the traits are.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, GenericParam, Generics, Ident, LitStr, Path, Result, TypeParamBound};

/// Refuses what can be none of requests and events: `what` is one of these, in words.
pub(crate) fn check(input: &DeriveInput, what: &str) -> Result<()> {
    if let Data::Union(union) = &input.data {
        let message = format!("a union cannot be {what}: use a struct or an enum");
        return Err(Error::new(union.union_token.span, message));
    }
    if let Some(GenericParam::Lifetime(borrowed)) =
        input.generics.params.iter().find(|parameter| matches!(parameter, GenericParam::Lifetime(_)))
    {
        let message = format!(
            "`{}` borrows for `{}`, but {what} owns its data: use `String` for `&str`, `Vec` for a slice, `Arc` for what is shared",
            input.ident, borrowed.lifetime
        );
        return Err(Error::new_spanned(borrowed, message));
    }
    Ok(())
}

/// The crate that has the traits: what the user says, or what the user's `Cargo.toml` says.
pub(crate) fn home(said: Option<Path>) -> Result<TokenStream> {
    if let Some(path) = said {
        return Ok(quote!(#path));
    }
    // The facade first: who has both may have the core for the tests only.
    for package in ["cqrs", "cqrs-core"] {
        let name = match crate_name(package) {
            Ok(FoundCrate::Name(name)) => name,
            // Its own tests, examples and documentation see it by its name; its library has `extern crate self`.
            Ok(FoundCrate::Itself) => package.replace('-', "_"),
            Err(_) => continue,
        };
        let name = Ident::new(&name, Span::call_site());
        return Ok(quote!(::#name));
    }
    Err(Error::new(
        Span::call_site(),
        "neither `cqrs` nor `cqrs-core` is among the dependencies of this crate: \
         add one of them, or say where the traits are, with `crate = \"path\"`",
    ))
}

/// The name of the type, without the `r#` of a raw identifier.
pub(crate) fn type_name(ident: &Ident) -> LitStr {
    LitStr::new(&ident.unraw().to_string(), ident.span())
}

/// What is written, and what is wrong with what it was made of: whatever uses the type is not to be told, too.
pub(crate) fn with(problem: Option<Error>, written: TokenStream) -> TokenStream {
    let problem = problem.map(Error::into_compile_error);
    quote!(#problem #written)
}

/// `impl <trait> for <type>`, with `bounds` on every type parameter. Errors about it point at the name of the type.
pub(crate) fn implement(
    input: &DeriveInput,
    bounds: &[TypeParamBound],
    implemented: &TokenStream,
    items: &TokenStream,
) -> TokenStream {
    let ident = &input.ident;
    let generics = with_bounds(&input.generics, bounds);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote_spanned! {ident.span()=>
        #[automatically_derived]
        impl #impl_generics #implemented for #ident #type_generics #where_clause {
            #items
        }
    }
}

fn with_bounds(generics: &Generics, bounds: &[TypeParamBound]) -> Generics {
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.extend(bounds.iter().cloned());
    }
    generics
}
