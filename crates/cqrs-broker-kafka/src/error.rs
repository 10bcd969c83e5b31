//! What librdkafka's errors mean for the one who published or subscribed.

use cqrs_core::broker::{BrokerError, ErrorClass};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

/// The class of an error that came before anything was sent.
pub(crate) fn refused(code: Code) -> ErrorClass {
    certain(code).unwrap_or(ErrorClass::Outage)
}

/// The class of an error that came instead of a confirmation: what is not known to be a refusal may have arrived.
///
/// A time-out, a cut connection or a purge is *unknown* even where the message never left: librdkafka retries by
/// itself, and the last error says nothing of the attempts before it.
pub(crate) fn undelivered(code: Code) -> ErrorClass {
    use Code::{
        AllBrokersDown, Authentication, BrokerNotAvailable, ClusterAuthorizationFailed, KafkaStorageError,
        LeaderNotAvailable, NotEnoughReplicas, NotLeaderForPartition, SSL, SaslAuthenticationFailed,
        ThrottlingQuotaExceeded,
    };
    certain(code).unwrap_or(match code {
        AllBrokersDown
        | Authentication
        | BrokerNotAvailable
        | ClusterAuthorizationFailed
        | KafkaStorageError
        | LeaderNotAvailable
        | NotEnoughReplicas
        | NotLeaderForPartition
        | SSL
        | SaslAuthenticationFailed
        | ThrottlingQuotaExceeded => ErrorClass::Outage,
        _ => ErrorClass::Unknown,
    })
}

/// Whether a consumer goes on by itself after that, as soon as the cluster can.
pub(crate) fn passes(code: Code) -> bool {
    use Code::{
        AllBrokersDown, BrokerNotAvailable, BrokerTransportFailure, CoordinatorLoadInProgress,
        CoordinatorNotAvailable, IllegalGeneration, LeaderNotAvailable, NotCoordinator,
        NotLeaderForPartition, OperationTimedOut, PollExceeded, RebalanceInProgress, RequestTimedOut,
        Resolve, UnknownMemberId,
    };
    matches!(
        code,
        AllBrokersDown
            | BrokerNotAvailable
            | BrokerTransportFailure
            | CoordinatorLoadInProgress
            | CoordinatorNotAvailable
            | IllegalGeneration
            | LeaderNotAvailable
            | NotCoordinator
            | NotLeaderForPartition
            | OperationTimedOut
            | PollExceeded
            | RebalanceInProgress
            | RequestTimedOut
            | Resolve
            | UnknownMemberId
    )
}

/// Whether the cluster refuses this client as such.
pub(crate) fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)
}

fn certain(code: Code) -> Option<ErrorClass> {
    use Code::{
        Fatal, Fenced, FencedInstanceId, GroupAuthorizationFailed, InvalidGroupId, InvalidMessage,
        InvalidMessageSize, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidRecord, InvalidTimestamp,
        InvalidTopic, MessageBatchTooLarge, MessageSizeTooLarge, OutOfOrderSequenceNumber, ProducerFenced,
        TopicAuthorizationFailed, UnknownPartition, UnknownProducerId, UnknownTopic, UnknownTopicOrPartition,
    };
    match code {
        InvalidMessage | InvalidMessageSize | InvalidRecord | InvalidTimestamp | MessageBatchTooLarge
        | MessageSizeTooLarge => Some(ErrorClass::Event),
        GroupAuthorizationFailed
        | InvalidGroupId
        | InvalidTopic
        | TopicAuthorizationFailed
        | UnknownPartition
        | UnknownTopic
        | UnknownTopicOrPartition => Some(ErrorClass::Destination),
        Fatal
        | Fenced
        | FencedInstanceId
        | InvalidProducerEpoch
        | InvalidProducerIdMapping
        | OutOfOrderSequenceNumber
        | ProducerFenced
        | UnknownProducerId => Some(ErrorClass::Fatal),
        _ => None,
    }
}

/// librdkafka's code of an error; [`Code::Fail`] where it has none.
pub(crate) fn code(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Fail)
}

/// An error of that class: what failed, why, and what to do about it.
pub(crate) fn failed(class: ErrorClass, what: impl std::fmt::Display, cause: KafkaError) -> BrokerError {
    let remedy = match (class, code(&cause)) {
        (ErrorClass::Event, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
            "make the message smaller, or raise `message.max.bytes` here and on the broker or the topic"
        }
        (ErrorClass::Event, _) => "the broker will not take this message: mend or discard it",
        (ErrorClass::Destination, Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            "allow this user to use it"
        }
        (ErrorClass::Destination, _) => "create the topic, or mend its name",
        (ErrorClass::Outage, Code::Authentication | Code::SaslAuthenticationFailed) => {
            "mend the credentials (`sasl.username`, `sasl.password`)"
        }
        (ErrorClass::Outage, Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
            "the group had gone on without this member: what it had not committed is delivered again"
        }
        (ErrorClass::Outage, _) => "see that the brokers are up and can be reached at `bootstrap.servers`",
        (ErrorClass::Fatal, _) => "the client is replaced; send again",
        _ => "it may have arrived all the same: send it again, with the same id",
    };
    BrokerError::new(class, format!("{what}: {cause}: {remedy}")).with_source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_message_is_the_events_fault() {
        for code in [Code::MessageSizeTooLarge, Code::InvalidRecord] {
            assert_eq!(refused(code), ErrorClass::Event);
            assert_eq!(undelivered(code), ErrorClass::Event);
        }
    }

    #[test]
    fn what_is_wrong_with_the_topic_is_the_destinations() {
        for code in [Code::UnknownTopicOrPartition, Code::UnknownTopic, Code::TopicAuthorizationFailed] {
            assert_eq!(refused(code), ErrorClass::Destination);
            assert_eq!(undelivered(code), ErrorClass::Destination);
        }
    }

    #[test]
    fn a_cut_is_an_outage_before_sending_and_unknown_after() {
        for code in [Code::BrokerTransportFailure, Code::OperationTimedOut, Code::MessageTimedOut] {
            assert_eq!(refused(code), ErrorClass::Outage);
            assert_eq!(undelivered(code), ErrorClass::Unknown);
        }
        assert_eq!(undelivered(Code::AllBrokersDown), ErrorClass::Outage);
        assert_eq!(undelivered(Code::NotEnoughReplicas), ErrorClass::Outage);
    }

    #[test]
    fn what_was_purged_or_appended_too_thinly_may_have_arrived() {
        for code in [Code::PurgeQueue, Code::PurgeInflight, Code::NotEnoughReplicasAfterAppend] {
            assert_eq!(undelivered(code), ErrorClass::Unknown);
        }
    }

    #[test]
    fn a_broken_sequence_is_fatal() {
        for code in [Code::Fatal, Code::OutOfOrderSequenceNumber, Code::InvalidProducerEpoch] {
            assert_eq!(refused(code), ErrorClass::Fatal);
            assert_eq!(undelivered(code), ErrorClass::Fatal);
        }
    }

    #[test]
    fn an_error_says_what_to_do() {
        let error = failed(
            ErrorClass::Destination,
            "the message for `rooms` was not delivered",
            KafkaError::MessageProduction(Code::UnknownTopicOrPartition),
        );
        assert!(error.to_string().contains("create the topic"), "{error}");
        assert!(error.to_string().contains("`rooms`"), "{error}");
    }

    #[test]
    fn a_member_that_its_group_gave_up_is_not_told_to_look_at_the_brokers() {
        let cause = KafkaError::ConsumerCommit(Code::UnknownMemberId);
        let error =
            failed(refused(Code::UnknownMemberId), "the last offsets of `g` were not committed", cause);
        assert_eq!(error.class(), ErrorClass::Outage);
        assert!(error.to_string().contains("is delivered again"), "{error}");
    }
}
