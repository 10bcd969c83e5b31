//! The servers that the cells kill: of this test's own, started when the first cell needs them, stopped with the last.

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

    pub(crate) fn service(self) -> Service {
        match self {
            Self::Kafka => Service::Kafka,
            Self::RabbitMq => Service::Amqp,
        }
    }
}

#[derive(Default)]
pub(crate) struct Servers(Mutex<Vec<(Service, RealServer)>>);

impl Servers {
    pub(crate) fn of(&self, service: Service) -> Result<RealServer, String> {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, server)) = started.iter().find(|(of, _)| *of == service) {
            return Ok(server.clone());
        }
        let server = RealServer(Arc::new(Server::start(service)?));
        started.push((service, server.clone()));
        Ok(server)
    }

    pub(crate) fn broker(&self, kind: Kind) -> Result<RealBroker, String> {
        Ok(RealBroker { kind, server: self.of(kind.service())? })
    }

    /// Stops them; their logs are kept if a cell failed.
    pub(crate) fn stop(&self, failed: bool) {
        for (service, RealServer(server)) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if failed {
                println!("{service:?}: {}", server.keep_logs().unwrap_or_else(|why| why));
            }
        }
    }
}

/// A server in processes of its own.
#[derive(Clone)]
pub(crate) struct RealServer(Arc<Server>);

impl RealServer {
    pub(crate) fn url(&self) -> &str {
        self.0.url()
    }

    /// Kills it with SIGKILL and starts it again, with its data.
    pub(crate) async fn kill_and_start_again(&self) -> Result<()> {
        self.blocking(|server| server.kill().and_then(|()| server.start_again())).await
    }

    /// For so long it answers nothing, and keeps its connections.
    pub(crate) async fn pause(&self, length: std::time::Duration) -> Result<()> {
        self.blocking(Server::pause).await?;
        tokio::time::sleep(length).await;
        self.blocking(Server::resume).await
    }

    async fn blocking(&self, what: fn(&Server) -> Result<(), String>) -> Result<()> {
        let server = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || what(&server));
        done.await.map_err(Error::handler)?.map_err(Error::handler)
    }
}

#[derive(Clone)]
pub(crate) struct RealBroker {
    pub(crate) kind: Kind,
    pub(crate) server: RealServer,
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
}
