//! Where the brokers are, and librdkafka's settings: from a URL or a builder to its clients.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cqrs_core::broker::{BrokerError, ErrorClass, StartFrom};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::log::Log;

const DEFAULT_PORT: u16 = 9092;

/// What the producer is, unless the user says otherwise.
const PRODUCER: &[(&str, &str)] = &[
    // The default of 5 ms costs whoever waits for each confirmation most of their speed.
    ("linger.ms", "0"),
    // Keys go where the Java client takes them.
    ("partitioner", "murmur2_random"),
    // Below the lease of an outbox relay and its margin: what is not confirmed by then is sent by another.
    ("message.timeout.ms", "6000"),
    ("queue.buffering.max.kbytes", "65536"),
];

/// What the producer always is.
const PRODUCER_ALWAYS: &[(&str, &str)] = &[("acks", "all"), ("enable.idempotence", "true")];

/// What the producer of a publish session always is, too.
const SESSION_ALWAYS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    // One that is given up in the queue leaves a gap of which that guarantee knows nothing.
    ("message.timeout.ms", "0"),
    // Nor of one whose retries are used up.
    ("message.send.max.retries", "2147483647"),
];

/// What a consumer is, unless the user says otherwise.
const CONSUMER: &[(&str, &str)] = &[("auto.commit.interval.ms", "1000")];

/// What a consumer always is: offsets are stored when a message was handled, and committed in the background.
const CONSUMER_ALWAYS: &[(&str, &str)] = &[
    ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "false"),
];

/// Set by this adapter in another way, each with what to do instead.
const TAKEN: &[(&str, &str)] = &[
    ("acks", "it is always `all`"),
    ("request.required.acks", "it is always `all`"),
    ("enable.idempotence", "it is always on"),
    ("transactional.id", "transactions are not supported"),
    ("group.id", "give the group to `SubscribeOptions`"),
    ("auto.offset.reset", "give `StartFrom` to `SubscribeOptions`"),
    ("enable.auto.commit", "offsets are committed after the acknowledgement"),
    ("enable.auto.offset.store", "offsets are stored by the acknowledgement"),
    ("enable.partition.eof", "the end of a partition is no event here"),
    ("bootstrap.servers", "use `bootstrap_servers`, or the hosts of the URL"),
    ("metadata.broker.list", "use `bootstrap_servers`, or the hosts of the URL"),
];

/// A Kafka cluster and the settings for it.
#[derive(Clone, Default)]
pub(crate) struct Config {
    servers: String,
    settings: BTreeMap<String, String>,
}

/// As a URL, without the settings: one of them may be a password.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{}", self.servers)
    }
}

impl Config {
    /// Reads `kafka://host[:port][,host[:port]..][?librdkafka.option=value[&..]]`.
    pub(crate) fn from_url(url: &str) -> Result<Self, BrokerError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(misconfigured(["the URL has no scheme: write `kafka://host:port`".to_owned()]));
        };
        if !scheme.eq_ignore_ascii_case("kafka") {
            return Err(misconfigured([format!(
                "the URL's scheme is `{scheme}`: write `kafka://host:port`"
            )]));
        }
        let (hosts, options) = rest.split_once('?').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return Err(misconfigured([
                "the URL has a user before its hosts: write `?sasl.username=..&sasl.password=..` (with \
                 `security.protocol` and `sasl.mechanism`) instead"
                    .to_owned(),
            ]));
        }
        let mut config = Self { servers: hosts.trim_end_matches('/').to_owned(), ..Self::default() };
        let mut problems = Vec::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=').and_then(|(key, value)| Some((decode(key)?, decode(value)?))) {
                Some((key, value)) => config.set(key, value),
                // Not a word of it: it may be what comes behind a `&` in a password.
                None => problems.push(
                    "one of the options is not `name=value`, percent-encoded UTF-8 (a `&` in a value is `%26`)"
                        .to_owned(),
                ),
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(misconfigured(problems)) }
    }

    pub(crate) fn set_servers(&mut self, servers: String) {
        self.servers = servers;
    }

    pub(crate) fn set(&mut self, key: String, value: String) {
        // One name for each setting that has a default here; two names of one would overwrite each other by chance.
        let key = match key.as_str() {
            "queue.buffering.max.ms" => "linger.ms".to_owned(),
            "delivery.timeout.ms" => "message.timeout.ms".to_owned(),
            "retries" => "message.send.max.retries".to_owned(),
            _ => key,
        };
        self.settings.insert(key, value);
    }

    /// Says everything that is wrong, or answers the checked settings.
    pub(crate) fn check(mut self) -> Result<Self, BrokerError> {
        let mut problems = Vec::new();
        let servers: Vec<_> = self.servers.split(',').map(|server| server_address(server.trim())).collect();
        for problem in servers.iter().filter_map(|server| server.as_ref().err()) {
            problems.push(problem.clone());
        }
        for (key, instead) in TAKEN {
            if self.settings.contains_key(*key) {
                problems.push(format!("`{key}` cannot be set: {instead}"));
            }
        }
        if !problems.is_empty() {
            return Err(misconfigured(problems));
        }
        self.servers = servers.into_iter().flatten().collect::<Vec<_>>().join(",");
        Ok(self)
    }

    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    /// How long librdkafka tries to deliver a message.
    pub(crate) fn message_timeout(&self) -> Duration {
        let configured = self.settings.get("message.timeout.ms").and_then(|value| value.parse().ok());
        match configured.unwrap_or(6000) {
            0 => Duration::from_secs(60),
            millis => Duration::from_millis(millis),
        }
    }

    /// The largest message the producer takes.
    pub(crate) fn max_message_bytes(&self) -> usize {
        self.settings.get("message.max.bytes").and_then(|value| value.parse().ok()).unwrap_or(1_000_000)
    }

    /// A producer.
    pub(crate) fn producer<T: FromClientConfigAndContext<Log>>(&self, log: Log) -> Result<T, BrokerError> {
        self.client(PRODUCER, PRODUCER_ALWAYS).create_with_context(log).map_err(client_failed)
    }

    /// The producer of a publish session.
    pub(crate) fn session<T: FromClientConfigAndContext<Log>>(&self, log: Log) -> Result<T, BrokerError> {
        self.client(PRODUCER, SESSION_ALWAYS).create_with_context(log).map_err(client_failed)
    }

    /// A consumer.
    pub(crate) fn consumer<C, T>(
        &self,
        group: &str,
        start_from: StartFrom,
        context: C,
    ) -> Result<T, BrokerError>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        let mut client = self.client(CONSUMER, CONSUMER_ALWAYS);
        client.set("group.id", group).set(
            "auto.offset.reset",
            match start_from {
                StartFrom::Latest => "latest",
                _ => "earliest",
            },
        );
        client.create_with_context(context).map_err(client_failed)
    }

    fn client(&self, defaults: &[(&str, &str)], always: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        // Of what librdkafka is told to say, nothing is to be left out.
        let debug = self.settings.contains_key("debug");
        client.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Notice });
        for (key, value) in defaults {
            client.set(*key, *value);
        }
        // Below `message.timeout.ms`, so that a missing topic is told as such and not as a time-out.
        let propagation = (self.message_timeout() / 3).min(Duration::from_secs(2));
        client.set("topic.metadata.propagation.max.ms", propagation.as_millis().to_string());
        for (key, value) in &self.settings {
            client.set(key, value);
        }
        for (key, value) in always {
            client.set(*key, *value);
        }
        client.set("bootstrap.servers", &self.servers);
        client
    }
}

fn misconfigured(problems: impl IntoIterator<Item = String>) -> BrokerError {
    let problems: Vec<_> = problems.into_iter().collect();
    BrokerError::new(ErrorClass::Fatal, format!("the Kafka broker is misconfigured: {}", problems.join("; ")))
}

/// Settings that are known by their names, although there is no dot in them.
const NAMES_WITHOUT_DOT: [&str; 2] = ["debug", "partitioner"];

/// librdkafka's word on a setting. The value stays out of it: it may be a password.
fn client_failed(error: KafkaError) -> BrokerError {
    match error {
        // Nor a name that no setting has: it may be what comes behind a `&` in a password.
        KafkaError::ClientConfig(_, _, key, _)
            if !key.contains('.') && !NAMES_WITHOUT_DOT.contains(&&*key) =>
        {
            misconfigured([
                "librdkafka has no setting of a name that is given (a `&` in a value is `%26`)".to_owned()
            ])
        }
        KafkaError::ClientConfig(_, description, key, value) if description.contains(&value) => {
            misconfigured([format!("librdkafka does not take the value of the setting `{key}`")])
        }
        KafkaError::ClientConfig(_, description, key, _) => {
            misconfigured([format!("librdkafka refuses the setting `{key}`: {description}")])
        }
        error => misconfigured([format!("librdkafka makes no client of the settings: {error}")]),
    }
}

fn server_address(server: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("`{server}` is no `host:port`: {why}"));
    let (host, port) = match server.rsplit_once(':') {
        // The colon of a bare `[::1]`.
        Some((_, port)) if port.ends_with(']') => (server, None),
        Some((host, port)) => (host, Some(port)),
        None => (server, None),
    };
    if host.is_empty() {
        return bad("it has no host");
    }
    if host.contains(['/', '@', ' ']) || (host.contains(':') && !host.starts_with('[')) {
        return bad("the host has characters that do not belong there");
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
        Some(Ok(port)) if port > 0 => Ok(format!("{host}:{port}")),
        Some(_) => bad("the port is no number from 1 to 65535"),
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Config, BrokerError> {
        Config::from_url(url).and_then(Config::check)
    }

    fn complaint(url: &str) -> String {
        parse(url).err().unwrap().to_string()
    }

    #[test]
    fn a_url_names_the_brokers() {
        assert_eq!(parse("kafka://localhost:9094").unwrap().servers(), "localhost:9094");
        assert_eq!(parse("KAFKA://a:1,b,[::1],[::1]:7/").unwrap().servers(), "a:1,b:9092,[::1]:9092,[::1]:7");
    }

    #[test]
    fn a_url_carries_settings() {
        let config = parse("kafka://a?sasl.password=s%26cr%C3%A9t%3D&client.id=x").unwrap();
        assert_eq!(config.settings["sasl.password"], "s&crét=");
        assert_eq!(config.settings["client.id"], "x");
    }

    #[test]
    fn a_bad_url_is_told_what_to_write() {
        assert!(complaint("localhost:9092").contains("write `kafka://host:port`"));
        assert!(complaint("amqp://localhost").contains("scheme is `amqp`"));
        assert!(complaint("kafka://").contains("no host"));
        assert!(complaint("kafka://a:x,b:0,:9").contains("`a:x`"), "the first");
        assert!(complaint("kafka://a:x,b:0,:9").contains("`:9`"), "and all others");
        assert!(complaint("kafka://a/topic").contains("do not belong"));
        assert!(complaint("kafka://a?flag").contains("`name=value`"));
    }

    #[test]
    fn a_password_is_never_repeated() {
        for url in [
            "kafka://user:hunter2@a",
            "http://user:hunter2@a",
            "kafka://a?sasl.password=hunter2%zz",
            "kafka://a?sasl.password=s&hunter2",
            "kafka://a?sasl.password=hunter2&acks=1",
        ] {
            let complaint = complaint(url);
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
        let config = parse("kafka://a?security.protocol=hunter2").unwrap();
        let error = config.producer::<rdkafka::producer::FutureProducer<Log>>(Log::default()).err().unwrap();
        assert!(error.to_string().contains("`security.protocol`"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        // With a `&` that is not encoded.
        let config = parse("kafka://a?sasl.password=s&hunter2=x").unwrap();
        let error = config.producer::<rdkafka::producer::FutureProducer<Log>>(Log::default()).err().unwrap();
        assert!(error.to_string().contains("`%26`"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_setting_that_is_none_is_named() {
        for (url, name) in
            [("kafka://a?lingr.ms=1", "`lingr.ms`"), ("kafka://a?retries=many", "`message.send.max.retries`")]
        {
            let config = parse(url).unwrap();
            let error =
                config.producer::<rdkafka::producer::FutureProducer<Log>>(Log::default()).err().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_missing_topic_is_told_before_a_message_is_given_up() {
        let propagation = |url| {
            let config = parse(url).unwrap().client(&[], &[]);
            config.get("topic.metadata.propagation.max.ms").map(str::to_owned)
        };
        assert_eq!(propagation("kafka://a").as_deref(), Some("2000"));
        assert_eq!(propagation("kafka://a?message.timeout.ms=900").as_deref(), Some("300"));
        assert_eq!(
            propagation("kafka://a?message.timeout.ms=900&topic.metadata.propagation.max.ms=5").as_deref(),
            Some("5")
        );
    }

    #[test]
    fn what_the_adapter_decides_cannot_be_set() {
        let complaint = complaint("kafka://a?acks=1&group.id=g");
        assert!(complaint.contains("`acks`") && complaint.contains("`group.id`"), "{complaint}");
    }

    #[test]
    fn the_users_settings_go_before_the_defaults_under_either_name() {
        let config = parse("kafka://a?queue.buffering.max.ms=7&delivery.timeout.ms=9").unwrap();
        let client = config.client(PRODUCER, PRODUCER_ALWAYS);
        assert_eq!(client.get("linger.ms"), Some("7"));
        assert_eq!(client.get("queue.buffering.max.ms"), None);
        assert_eq!(client.get("message.timeout.ms"), Some("9"));
        assert_eq!(client.get("acks"), Some("all"));
        assert_eq!(client.get("partitioner"), Some("murmur2_random"));
        let config = parse("kafka://a?retries=1&message.timeout.ms=9").unwrap();
        let session = config.client(PRODUCER, SESSION_ALWAYS);
        assert_eq!(session.get("message.send.max.retries"), Some("2147483647"));
        assert_eq!((session.get("retries"), session.get("message.timeout.ms")), (None, Some("0")));
        assert_eq!(config.message_timeout(), Duration::from_millis(9));
    }

    #[test]
    fn librdkafka_takes_the_defaults() {
        let config = parse("kafka://localhost:1").unwrap();
        drop(config.producer::<rdkafka::producer::FutureProducer<Log>>(Log::default()).unwrap());
        config
            .consumer::<_, rdkafka::consumer::BaseConsumer<Consumer>>("g", StartFrom::Latest, Consumer)
            .unwrap();
    }

    struct Consumer;
    impl ClientContext for Consumer {}
    impl rdkafka::consumer::ConsumerContext for Consumer {}
}
