//! The servers that the cells kill: of this test's own, started when the first cell needs them, stopped with the last.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use cqrs::{Error, Result};
use cqrs_testing::proxy::{Point, Proxy};
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

    /// Where the broker has what was published and its confirm is on the way, for payloads that begin so.
    pub(crate) fn before_confirm(self, payload: &'static [u8]) -> Point {
        let answer = Point::answer_to(payload);
        match self {
            // One that was asked for the same way: the next answer is the confirm of this publish, or of one before it.
            Self::Kafka => answer,
            // The number of the class, 60, and that of `basic.ack`, 80.
            Self::RabbitMq => answer.holding(b"\x00\x3c\x00\x50"),
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
        let server = RealServer::start(service).map(Arc::new).map(RealServer)?;
        started.push((service, server.clone()));
        Ok(server)
    }

    pub(crate) fn broker(&self, kind: Kind) -> Result<RealBroker, String> {
        Ok(RealBroker { kind, server: self.of(kind.service())? })
    }

    /// Stops them; their logs are kept if a cell failed.
    pub(crate) fn stop(&self, failed: bool) {
        for (service, RealServer(own)) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if failed {
                println!("{service:?}: {}", own.server.keep_logs().unwrap_or_else(|why| why));
            }
        }
    }
}

/// A server in processes of its own.
#[derive(Clone)]
pub(crate) struct RealServer(Arc<Own>);

struct Own {
    server: Server,
    /// Of the proxies before it, one in each cell. Kafka has to know it from its start.
    port: TcpListener,
}

impl RealServer {
    fn start(service: Service) -> Result<Own, String> {
        let bound = TcpListener::bind("127.0.0.1:0").and_then(|port| Ok((port.local_addr()?.port(), port)));
        let (number, port) = bound.map_err(|error| format!("there is no port for a proxy: {error}"))?;
        Ok(Own { server: Server::start_behind(service, number)?, port })
    }

    pub(crate) fn url(&self) -> &str {
        self.0.server.url()
    }

    /// A network before it. There is one at a time.
    pub(crate) fn proxy(&self) -> Result<Proxy> {
        Ok(Proxy::on(self.0.port.try_clone()?, self.0.server.address())?)
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
        let own = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || what(&own.server));
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

    /// As those are given it who come through a proxy.
    pub(crate) fn url_through(&self, proxy: &Proxy) -> Result<String> {
        through(&self.url(), proxy)
    }
}

/// A server's URL, at the port of a proxy before it.
pub(crate) fn through(url: &str, proxy: &Proxy) -> Result<String> {
    let mut url = url::Url::parse(url)?;
    url.set_port(Some(proxy.port())).map_err(|()| Error::handler(format!("{url} has no port")))?;
    Ok(url.into())
}
