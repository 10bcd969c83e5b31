//! What AMQP's errors mean for the one who published or subscribed.

use std::fmt::Display;

use cqrs_core::broker::{BrokerError, ErrorClass};
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// Whether the broker refused what was asked for, rather than the connection having failed. A refusal of this kind
/// closes the channel, and the exchange or the queue is at fault.
fn is_refusal(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Soft(_)))
}

/// The broker could not be connected to.
pub(crate) fn unreachable(cause: lapin::Error) -> BrokerError {
    let (class, remedy) = match cause.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                (ErrorClass::Login, "mend the user, the password or the permissions")
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => {
                (ErrorClass::Login, "see that the vhost exists and the user may use it")
            }
            _ => (ErrorClass::Outage, "see what the broker's log says"),
        },
        _ => (ErrorClass::Outage, "see that it is up and can be reached"),
    };
    BrokerError::new(class, format!("RabbitMQ cannot be used: {cause}: {remedy}")).with_source(cause)
}

/// An exchange or a queue could not be declared or used.
pub(crate) fn undeclared(what: impl Display, cause: lapin::Error) -> BrokerError {
    if !is_refusal(&cause) {
        return BrokerError::new(
            ErrorClass::Outage,
            format!("{what} was not declared: {cause}: see that the broker is up and can be reached"),
        )
        .with_source(cause);
    }
    let remedy = match cause.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                "it exists with other properties: say the same in the topology, delete it, or use another name"
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                "allow the user to configure, write and read it"
            }
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => {
                "create it, or let the topology declare it actively"
            }
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => {
                "another connection has it for itself: wait until that is gone, or use another name"
            }
            _ => "see what the broker's log says",
        },
        _ => "see what the broker's log says",
    };
    BrokerError::new(ErrorClass::Destination, format!("{what} was refused: {cause}: {remedy}"))
        .with_source(cause)
}

/// A name that the protocol has no room for.
pub(crate) fn too_long(class: ErrorClass, what: impl Display) -> BrokerError {
    BrokerError::new(class, format!("{what} is longer than the 255 bytes that AMQP has for it: shorten it"))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn protocol(kind: impl Into<AMQPErrorKind>) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), "told so".into())).into()
    }

    #[test]
    fn what_is_refused_is_the_destinations_fault() {
        for (kind, remedy) in [
            (AMQPSoftError::PRECONDITIONFAILED, "other properties"),
            (AMQPSoftError::ACCESSREFUSED, "allow the user"),
            (AMQPSoftError::NOTFOUND, "create it"),
        ] {
            let error = undeclared("the exchange `rooms`", protocol(kind));
            assert_eq!(error.class(), ErrorClass::Destination);
            assert!(error.to_string().contains(remedy), "{error}");
            assert!(error.to_string().contains("`rooms`"), "{error}");
        }
    }

    #[test]
    fn a_cut_is_an_outage() {
        for cause in [
            protocol(AMQPHardError::CONNECTIONFORCED),
            std::io::Error::other("cut").into(),
            ErrorKind::MissingHeartbeatError.into(),
        ] {
            assert_eq!(undeclared("the exchange `rooms`", cause).class(), ErrorClass::Outage);
        }
    }

    #[test]
    fn whoever_cannot_log_in_is_told_so() {
        let error = unreachable(protocol(AMQPSoftError::ACCESSREFUSED));
        assert_eq!(error.class(), ErrorClass::Login);
        assert!(error.to_string().contains("password"), "{error}");
        let error = unreachable(protocol(AMQPHardError::NOTALLOWED));
        assert_eq!(error.class(), ErrorClass::Login);
        assert!(error.to_string().contains("vhost"), "{error}");
    }
}
