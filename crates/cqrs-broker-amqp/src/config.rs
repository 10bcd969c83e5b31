//! Where the broker is, and how to use it: from a URL and a builder to a connection.

use std::fmt;
use std::time::Duration;

use cqrs_core::broker::{BrokerError, ErrorClass};
use cqrs_core::without_password;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;
use url::Url;

use crate::topology::Topology;
use crate::{error, options};

/// How long connecting may take, handshake included.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection that says nothing for two of these is taken for dead.
const HEARTBEAT_SECONDS: u16 = 10;

/// What a message may have at most, payload alone: the smallest default of `max_message_size` among the releases of
/// RabbitMQ that are in use.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How long the broker may take to confirm a message.
const CONFIRM: Duration = Duration::from_secs(6);

/// A RabbitMQ server and how to use it.
#[derive(Clone)]
pub(crate) struct Config {
    uri: AMQPUri,
    pub(crate) max_message_bytes: usize,
    pub(crate) confirm_timeout: Duration,
    pub(crate) topology: Topology,
}

impl Config {
    /// Reads `amqp://[user[:password]@]host[:port][/vhost][?option=value[&..]]`.
    pub(crate) fn from_url(url: &str) -> Result<Self, BrokerError> {
        match url.split_once("://") {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("amqp") => {}
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("amqps") => {
                return Err(misconfigured(
                    url,
                    "TLS is not built in: write `amqp://`, or put a TLS proxy before it",
                ));
            }
            _ => return Err(misconfigured(url, "it must begin with `amqp://`")),
        }
        let authority = url["amqp://".len()..].split(['/', '?']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if host.is_empty() || host.starts_with(':') {
            return Err(misconfigured(url, "it has no host"));
        }
        if host.starts_with('[') {
            return Err(misconfigured(url, "an IPv6 address is not understood: write a host name"));
        }
        let unreadable =
            "it cannot be read; special characters in user, password and vhost are to be percent-encoded";
        // The parsers' own words may repeat the URL, with the password.
        let options = Url::parse(url).map_err(|_| misconfigured(url, unreadable))?;
        let mut config = Self {
            uri: AMQPUri::default(),
            max_message_bytes: MAX_MESSAGE_BYTES,
            confirm_timeout: CONFIRM,
            topology: Topology::default(),
        };
        options::apply(&options, &mut config).map_err(|problems| misconfigured(url, &problems.join("; ")))?;
        let mut uri: AMQPUri = url.parse().map_err(|_| misconfigured(url, unreadable))?;
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Self { uri, ..config })
    }

    /// Connects. There is no recovery in the connection: whoever uses it makes a new one.
    pub(crate) async fn open(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("cqrs {purpose}").into());
        match timeout(CONNECT, Connection::connect_uri(self.uri.clone(), properties)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(cause)) => Err(error::unreachable(cause)),
            Err(_) => Err(BrokerError::new(
                ErrorClass::Outage,
                format!("RabbitMQ did not answer within {CONNECT:?}: see that it is up and can be reached"),
            )),
        }
    }

    /// Says everything that is wrong with the settings and the topology.
    pub(crate) fn check(self) -> Result<Self, BrokerError> {
        let mut wrong = Vec::new();
        if self.confirm_timeout.is_zero() {
            wrong.push(
                "the confirm timeout is zero, and no message could be confirmed in time: make it longer"
                    .to_owned(),
            );
        }
        let problems = self.topology.problems();
        if !problems.is_empty() {
            wrong.push(format!("the topology is wrong: {}", problems.join("; ")));
        }
        if wrong.is_empty() {
            return Ok(self);
        }
        Err(BrokerError::new(ErrorClass::Fatal, wrong.join("; ")).at(&self))
    }
}

/// As a URL, without the password.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        let vhost = self.uri.vhost.replace('/', "%2F");
        write!(f, "amqp://{}:***@{}:{}/{vhost}", authority.userinfo.username, authority.host, authority.port)
    }
}

fn misconfigured(url: &str, why: &str) -> BrokerError {
    BrokerError::new(
        ErrorClass::Fatal,
        format!(
            "the URL `{}` is not understood: {why} (`amqp://user:password@host:5672/vhost`)",
            without_password(url)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(url: &str) -> String {
        let error = Config::from_url(url).err().unwrap();
        assert_eq!(error.class(), ErrorClass::Fatal);
        error.to_string()
    }

    #[test]
    fn a_url_says_where() {
        let config = Config::from_url("amqp://me:s%40crét@broker:5673/a%2Fb?heartbeat=3").unwrap();
        assert_eq!(config.to_string(), "amqp://me:***@broker:5673/a%2Fb");
        assert_eq!(config.uri.authority.userinfo.password, "s@crét");
        assert_eq!(config.uri.query.heartbeat, Some(3));
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        for url in ["amqp://localhost", "amqp://localhost/", "amqp://localhost/%2f"] {
            let config = Config::from_url(url).unwrap();
            assert_eq!(config.to_string(), "amqp://guest:***@localhost:5672/%2F");
            assert_eq!(config.uri.query.heartbeat, Some(HEARTBEAT_SECONDS));
        }
    }

    #[test]
    fn a_bad_url_is_told_what_to_write() {
        assert!(complaint("localhost:5672").contains("must begin with `amqp://`"));
        assert!(complaint("kafka://localhost").contains("must begin with `amqp://`"));
        assert!(complaint("amqps://localhost").contains("TLS"));
        assert!(complaint("amqp://").contains("no host"));
        assert!(complaint("amqp://me@:5672/").contains("no host"));
        assert!(complaint("amqp://[::1]:5672").contains("IPv6"));
        assert!(complaint("amqp://localhost:port").contains("cannot be read"));
    }

    #[test]
    fn a_password_is_never_repeated() {
        for url in [
            "kafka://me:hunter2@host",
            "amqp://me:hunter2@host:port",
            "amqp://me:hunter2@",
            "amqp://me:hunter2/@host:x",
            "amqps://me:@hunter2@host",
            "amqp://me:hunter2?@host",
            "amqp://me@host?option=hunter2",
            "me:hunter2@host",
        ] {
            let complaint = complaint(url);
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
    }
}
