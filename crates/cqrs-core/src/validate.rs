//! What a request says of itself that it cannot be.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A value that knows what is wrong with it. A request whose derive has `#[request(validate)]` is asked by the middleware
/// [`Validation`](crate::Validation), which has an example.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what is wrong with it",
    note = "`impl Validate for {Self} {{ fn validate(&self) -> Result<(), ValidationErrors> {{ .. }} }}`, or name a function: `#[request(validate = my_function)]`"
)]
pub trait Validate {
    /// Looks at the value, and at nothing else: what has to be asked of a database is the handler's matter.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    fn validate(&self) -> Result<(), ValidationErrors>;
}

/// What is wrong with a value, field by field: the cause of an error of kind [`ErrorKind::InvalidRequest`], for
/// [`Error::downcast_ref`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what is wrong is to be returned: see `into_result`"]
pub struct ValidationErrors(Vec<ValidationError>);

/// What is wrong with one field.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationError {
    /// Which field, as a path (`rooms[2].seats`); empty for the value as a whole.
    pub field: Cow<'static, str>,
    /// What is wrong with it.
    pub message: Cow<'static, str>,
}

impl ValidationErrors {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is wrong with a field.
    pub fn and(mut self, field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.push(ValidationError { field: field.into(), message: message.into() });
        self
    }

    /// Adds it unless this is so.
    pub fn unless(
        self,
        valid: bool,
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        if valid { self } else { self.and(field, message) }
    }

    /// What is wrong, in the order in which it was added.
    pub fn iter(&self) -> impl Iterator<Item = &ValidationError> {
        self.0.iter()
    }

    /// Fine, if nothing was added.
    ///
    /// # Errors
    ///
    /// What was added.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ValidationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, ValidationError { field, message }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            let colon = if field.is_empty() { "" } else { ": " };
            write!(f, "{separator}{field}{colon}{message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ValidationErrors {}

/// The refusal of a request.
#[doc(hidden)]
pub fn refusal(request: &str, invalid: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidRequest, format!("the request `{request}` was refused: {invalid}"))
        .with_source(invalid)
}

/// For `#[request(validate = cqrs::validated_by_garde)]`: what the [`garde`](https://docs.rs/garde) crate finds.
///
/// # Errors
///
/// All that it finds, with its paths.
#[cfg(feature = "garde")]
pub fn validated_by_garde<T: garde::Validate<Context: Default>>(value: &T) -> Result<(), ValidationErrors> {
    let Err(report) = value.validate() else { return Ok(()) };
    let found = report.iter().map(|(path, error)| ValidationError {
        field: path.to_string().into(),
        message: error.message().to_owned().into(),
    });
    Err(ValidationErrors(found.collect()))
}
