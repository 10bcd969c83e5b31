//! The brokers of the cells: servers of this test's own, because it kills them.

use std::sync::{Arc, Mutex, PoisonError};

use cqrs::{Error, Result};
use cqrs_testing::services::{Server, Service};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kafka,
    RabbitMq,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::RabbitMq => "rabbitmq",
        }
    }

    fn service(self) -> Service {
        match self {
            Self::Kafka => Service::Kafka,
            Self::RabbitMq => Service::Amqp,
        }
    }
}

/// Started when the first cell needs them, and stopped with the last.
#[derive(Default)]
pub(crate) struct Brokers(Mutex<Vec<RealBroker>>);

impl Brokers {
    pub(crate) fn of(&self, kind: Kind) -> Result<RealBroker, String> {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = started.iter().find(|broker| broker.kind == kind) {
            return Ok(broker.clone());
        }
        let broker = RealBroker { kind, server: Arc::new(Server::start(kind.service())?) };
        started.push(broker.clone());
        Ok(broker)
    }

    pub(crate) fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A broker in a process of its own.
#[derive(Clone)]
pub(crate) struct RealBroker {
    pub(crate) kind: Kind,
    server: Arc<Server>,
}

impl RealBroker {
    /// As the relay and the services are given it.
    pub(crate) fn url(&self) -> String {
        match self.kind {
            // A consumer that is gone without a word is missed after the session, and the default is 45 s.
            Kind::Kafka => {
                format!("kafka://{}?allow.auto.create.topics=true&session.timeout.ms=6000", self.server.url())
            }
            Kind::RabbitMq => self.server.url().to_owned(),
        }
    }

    /// Kills it with SIGKILL and starts it again, with its data.
    pub(crate) async fn kill_and_start_again(&self) -> Result<()> {
        let server = Arc::clone(&self.server);
        let restarted = tokio::task::spawn_blocking(move || {
            server.kill()?;
            server.start_again()
        });
        restarted.await.map_err(Error::handler)?.map_err(Error::handler)
    }
}
