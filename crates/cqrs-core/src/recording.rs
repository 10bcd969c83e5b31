//! The places where a test records what happens. Without the feature `testing` nothing of it is left: its types are empty,
//! and its functions do nothing.

#[cfg(not(feature = "testing"))]
pub(crate) use absent::{Recording, Stored, Written};
#[cfg(feature = "testing")]
pub(crate) use present::{Recording, Stored, Written};

#[cfg(not(feature = "testing"))]
mod absent {
    use std::ops::Deref;

    use crate::context::AnyDomainEvent;
    use crate::message::Message;
    use crate::outgoing::Outgoing;
    use crate::transaction::Added;

    /// A domain event that was said.
    pub(crate) struct Stored<E>(E);

    impl<E> Stored<E> {
        pub(crate) fn new(event: E) -> Self {
            Self(event)
        }
    }

    impl<E> Deref for Stored<E> {
        type Target = E;

        fn deref(&self) -> &E {
            &self.0
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Recording(());

    impl Recording {
        pub(crate) fn emitted(&self, _: &dyn AnyDomainEvent) {}

        pub(crate) fn published(&self, _: &Message) {}

        pub(crate) fn writing(&self, _: &[Outgoing]) -> Written {
            Written
        }

        pub(crate) fn committed(&self, _: Written) {}
    }

    pub(crate) struct Written;

    impl Written {
        pub(crate) fn retain(&mut self, _: &Added) {}
    }
}

#[cfg(feature = "testing")]
mod present {
    use std::ops::Deref;
    use std::sync::Arc;

    use crate::context::AnyDomainEvent;
    use crate::message::Message;
    use crate::outgoing::Outgoing;
    use crate::testing::Recorder;
    use crate::transaction::{AddOutcome, Added};

    /// A domain event that was said. It outlives its handlers where it is recorded, for which it needs no `Clone`.
    pub(crate) struct Stored<E>(Arc<E>);

    impl<E> Stored<E> {
        pub(crate) fn new(event: E) -> Self {
            Self(Arc::new(event))
        }

        pub(crate) fn shared(&self) -> Arc<E> {
            Arc::clone(&self.0)
        }
    }

    impl<E> Deref for Stored<E> {
        type Target = E;

        fn deref(&self) -> &E {
            &self.0
        }
    }

    /// Tells the recorder of a test, if there is one.
    #[derive(Debug, Default)]
    pub(crate) struct Recording(pub(crate) Option<Arc<Recorder>>);

    impl Recording {
        /// Its handlers are about to hear of it.
        pub(crate) fn emitted(&self, event: &dyn AnyDomainEvent) {
            if let Some(recorder) = &self.0 {
                recorder.emitted(event.name(), event.share());
            }
        }

        /// The broker has taken it.
        pub(crate) fn published(&self, message: &Message) {
            if let Some(recorder) = &self.0 {
                recorder.published(message.clone().into());
            }
        }

        /// They are given to a transaction.
        pub(crate) fn writing(&self, messages: &[Outgoing]) -> Written {
            Written(if self.0.is_some() { messages.to_vec() } else { Vec::new() })
        }

        /// The transaction has committed.
        pub(crate) fn committed(&self, written: Written) {
            if let Some(recorder) = &self.0 {
                written.0.into_iter().for_each(|message| recorder.published(message));
            }
        }
    }

    /// What a transaction has taken.
    pub(crate) struct Written(Vec<Outgoing>);

    impl Written {
        /// Leaves out what the outbox did not write, since it has it already.
        pub(crate) fn retain(&mut self, added: &Added) {
            let mut outcomes = added.outcomes();
            self.0.retain(|_| outcomes.next() != Some(AddOutcome::Duplicate));
        }
    }
}
