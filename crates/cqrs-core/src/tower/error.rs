use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;

use super::BoxError;
use crate::error::{Error, ErrorKind};

/// The error of a handler, as the layers of a [`TowerLayer`](crate::TowerLayer) see it: it can be boxed, as many of them want, and
/// is the error of the request, or of the handler of an event, again when it comes out.
#[derive(Clone, Debug)]
pub struct TowerError<E>(pub E);

impl<E: fmt::Display> fmt::Display for TowerError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: fmt::Debug + fmt::Display> StdError for TowerError<E> {}

/// What the errors of layers mean.
#[derive(Clone, Default)]
pub(super) struct Kinds(Vec<Known>);

#[derive(Clone)]
struct Known {
    is: fn(&BoxError) -> bool,
    name: &'static str,
    kind: ErrorKind,
}

impl Kinds {
    pub(super) fn add<T: StdError + 'static>(&mut self, kind: ErrorKind) {
        self.0.push(Known { is: |error| error.is::<T>(), name: type_name::<T>(), kind });
    }

    /// The error of a request or an event, of what a layer has failed with.
    pub(super) fn error(&self, what: &str, name: &str, error: BoxError) -> Error {
        let error = match Error::from_boxed(error) {
            Ok(ours) => return ours,
            Err(error) => error,
        };
        let kind =
            self.0.iter().find(|known| (known.is)(&error)).map_or(ErrorKind::Handler, |known| known.kind);
        let retryable = matches!(kind, ErrorKind::Timeout | ErrorKind::Overloaded);
        Error::new(kind, format!("the {what} `{name}`: {error}")).with_retryable(retryable).with_source(error)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|known| (known.name, known.kind))).finish()
    }
}
