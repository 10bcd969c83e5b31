//! Why the program ends, and with which exit code.

use std::fmt;
use std::process::ExitCode;

use cqrs::outbox::{RelaysFailed, StoreError, StoreErrorKind};
use cqrs::{Error, ErrorClass, ErrorKind};

/// What the program says last, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    what: String,
}

impl Failure {
    /// Arguments that do not go together.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, what: what.into() }
    }

    /// What was named is not there.
    pub(crate) fn nothing(what: impl Into<String>) -> Self {
        Self { code: 1, what: what.into() }
    }

    /// The tables are not as they should be.
    pub(crate) fn tables(what: impl Into<String>) -> Self {
        Self { code: 3, what: what.into() }
    }

    /// For programs.
    pub(crate) fn as_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.what, "code": self.code })
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.downcast_ref::<RelaysFailed>().and_then(|failed| failed.failures().next()) {
            // What ended the first one of several relays is as good as any.
            Some((_, first)) => code(first),
            None => code(&error),
        };
        Self { code, what: format!("{error:#}") }
    }
}

fn code(error: &Error) -> u8 {
    match (error.kind(), error.downcast_ref::<StoreError>().map(StoreError::kind), error.class()) {
        (_, Some(StoreErrorKind::Schema), _) => 3,
        (_, Some(StoreErrorKind::Unavailable), _) => 4,
        (ErrorKind::Configuration, ..)
        | (_, Some(StoreErrorKind::Configuration | StoreErrorKind::Installation), _)
        | (_, _, Some(ErrorClass::Login | ErrorClass::Fatal)) => 2,
        (ErrorKind::CommitUnknown, ..) | (_, _, Some(ErrorClass::Outage)) => 4,
        _ => 1,
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: 1, what: error.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
