use std::collections::BTreeSet;
use std::time::Duration;

use cqrs_core::{Error, ErrorKind};

use crate::retention::LONGEST;
use crate::store::LaterEvents;

/// The settings of a relay. The defaults suit most services.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// How long a lease lasts. Another relay takes over the groups of one that died after this time. Default 10 s; at least 10 ms.
    ///
    /// With less than 10 s, a relay that froze in the middle of a write to PostgreSQL or MariaDB may hold its groups longer
    /// than its lease: the database ends such a session after 5 to 8 s. Nothing is wrong then, only late.
    pub lease: Duration,
    /// How often leases are renewed. Default 3 s; at least 1 ms, as all times of which there has to be one.
    pub heartbeat_interval: Duration,
    /// In the last part of a lease nothing is published, so that a clock that runs a little fast does no harm.
    /// Default 2 s; zero is for clocks that agree.
    pub lease_margin: Duration,
    /// How long without news until the outbox is read all the same. Default 500 ms.
    pub poll_interval: Duration,
    /// How far that interval grows while nothing is found: it doubles with each read that brings nothing, and is the first again when
    /// one does, or with a wake. It is the longest that an event waits of which nobody tells. Default: 5 s where the store
    /// [hears of all commits](crate::OutboxStore::hears_commits) (`LISTEN`), and else `poll_interval`, so that it does not grow.
    pub idle_poll_interval: Option<Duration>,
    /// How many rows are read at once. Default 2,000.
    pub batch: usize,
    /// How many rows are in memory at most. Default 4,000.
    pub max_rows: usize,
    /// How many bytes of rows are in memory at most, give or take one row. Default 16 MiB.
    pub max_bytes: usize,
    /// How many rows are with the broker at the same time. Default 1,000.
    pub max_in_flight: usize,
    /// How many rows of one key are with the broker at the same time. Default 1: the next one follows when the broker has
    /// confirmed the last.
    ///
    /// With more, a key with a backlog goes as fast as the broker takes it. That wants a broker with
    /// [publish sessions](cqrs_core::broker::PublishSession) (Kafka, and the one in memory), on which nothing overtakes what
    /// went before. Only events for the same topic follow each other so, and none that was refused before or waits behind a
    /// gate. The price: when one event is not confirmed, what is in the session with it, of all keys, is given up and sent again,
    /// one by one for a while. A session has a client of its own: its queue (Kafka: `queue.buffering.max.kbytes`, 64 MiB unless
    /// set) is to be larger than `max_bytes`.
    pub max_in_flight_per_key: usize,
    /// How long one publish may take until it counts as unknown. Default 7 s; lease minus margin at most.
    ///
    /// The broker's own limit should be below it (`message.timeout.ms` of Kafka and `confirm_timeout` of RabbitMQ, 6 s each
    /// unless you set them): a client that still tries when the relay sends again delivers twice.
    pub publish_timeout: Duration,
    /// How long one call of the store may take. Default 5 s.
    pub store_timeout: Duration,
    /// How long a confirmed row waits for others before they are removed from the outbox together. It does not wait where
    /// nothing else is with the broker. What was not removed is sent again after a crash. Zero: it never waits.
    /// Default 5 ms.
    pub settle_linger: Duration,
    /// How often an event may be refused for a reason of its own before it goes to the dead letters. Default 10.
    ///
    /// A process that ended while it was sending the event, and nothing else that may have caused the end, counts as a third
    /// of these, rounded up; so by default an event goes there after five processes or a few more that it has ended, and with
    /// less than three attempts the first time that it was alone.
    pub max_attempts: u32,
    /// How long a topic may be suspended, because it is unknown or forbidden or takes no message to any queue, until it is given up:
    /// then each event for it is tried once, and goes to the dead letters if it is refused. The first one that the topic takes
    /// ends that. Default `None`: they wait until it takes them.
    ///
    /// Counted by each relay, as the time that its probes have waited, so not while the broker is away or the outbox on hold; anew
    /// after a restart, and when nothing was for the topic for twice `max_backoff` and `publish_timeout`. More than zero.
    pub destination_timeout: Option<Duration>,
    /// What becomes of the later events of a key (or of a key on a topic: [`OrderUnit`](crate::OrderUnit)) when one of it goes to the dead letters. Default
    /// [`Wait`](LaterEvents::Wait): until someone has replayed or discarded it.
    pub later_events: LaterEvents,
    /// Which events are sent without regard to the order of their keys. Default: none.
    pub unordered: Unordered,
    /// The first wait after a failure; it doubles with each further one. Default 100 ms.
    pub backoff: Duration,
    /// The longest wait after a failure. Default 30 s.
    pub max_backoff: Duration,
    /// How long what is with the broker may take on a stop, until it is left to the next relay. Zero: it is left at once.
    /// Default 5 s.
    pub stop_grace: Duration,
}

/// Which events a relay sends without regard to the order of their keys: many of a key are with the broker at the same time, as if
/// they had none, and none waits for another that was refused. The broker gets the key all the same.
///
/// All relays of an outbox should agree on it; one that keeps an order can keep it only among the events that it sends itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unordered {
    /// Nothing: each event waits for the earlier ones of its key.
    #[default]
    Nothing,
    /// The events for these topics.
    Topics(BTreeSet<String>),
    /// All events.
    Everything,
}

impl Unordered {
    /// Whether events for this topic have no order.
    pub fn includes(&self, topic: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Topics(topics) => topics.contains(topic),
            Self::Everything => true,
        }
    }
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(3),
            lease_margin: Duration::from_secs(2),
            poll_interval: Duration::from_millis(500),
            idle_poll_interval: None,
            batch: 2_000,
            max_rows: 4_000,
            max_bytes: 16 * 1024 * 1024,
            max_in_flight: 1_000,
            max_in_flight_per_key: 1,
            publish_timeout: Duration::from_secs(7),
            store_timeout: Duration::from_secs(5),
            settle_linger: Duration::from_millis(5),
            max_attempts: 10,
            destination_timeout: None,
            later_events: LaterEvents::Wait,
            unordered: Unordered::Nothing,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
        }
    }
}

impl RelaySettings {
    /// Checks that the settings fit each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that does not.
    pub fn validate(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        for (name, value, shortest) in [
            ("lease", self.lease, SHORTEST_LEASE),
            ("heartbeat_interval", self.heartbeat_interval, SHORTEST),
            ("publish_timeout", self.publish_timeout, SHORTEST),
            ("poll_interval", self.poll_interval, SHORTEST),
            ("store_timeout", self.store_timeout, SHORTEST),
            ("backoff", self.backoff, SHORTEST),
        ] {
            if value < shortest {
                problems.push(format!("`{name}` ({value:?}) is below {shortest:?}: raise it"));
            }
        }
        // What is wrong by itself is not told again by what does not fit it.
        if (SHORTEST_LEASE..=LONGEST).contains(&self.lease) && self.lease_margin <= LONGEST {
            problems.extend(self.lease_problems());
        }
        for (name, value) in [
            ("batch", self.batch),
            ("max_rows", self.max_rows),
            ("max_bytes", self.max_bytes),
            ("max_in_flight", self.max_in_flight),
            ("max_in_flight_per_key", self.max_in_flight_per_key),
            ("max_attempts", self.max_attempts as usize),
        ] {
            if value == 0 {
                problems.push(format!("`{name}` must be at least 1"));
            }
        }
        if self.destination_timeout.is_some_and(|time| time.is_zero()) {
            problems.push(
                "`destination_timeout` must be more than zero, or each topic would be given up with its first refusal: leave it out, \
                 and events wait"
                    .to_owned(),
            );
        }
        for (name, value) in [
            ("lease", Some(self.lease)),
            ("lease_margin", Some(self.lease_margin)),
            ("backoff", Some(self.backoff)),
            ("poll_interval", Some(self.poll_interval)),
            ("idle_poll_interval", self.idle_poll_interval),
            ("store_timeout", Some(self.store_timeout)),
            ("settle_linger", Some(self.settle_linger)),
            ("destination_timeout", self.destination_timeout),
            ("max_backoff", Some(self.max_backoff)),
            ("stop_grace", Some(self.stop_grace)),
        ] {
            if let Some(value) = value
                && value > LONGEST
            {
                problems.push(format!("`{name}` ({value:?}) is above 100 years: lower it"));
            }
        }
        if let Some(idle) = self.idle_poll_interval
            && idle < self.poll_interval
            && self.poll_interval <= LONGEST
        {
            problems.push(format!(
                "`idle_poll_interval` ({idle:?}) is below `poll_interval` ({:?}), which grows to it: raise it, or leave it out",
                self.poll_interval
            ));
        }
        if self.max_backoff < self.backoff && self.backoff <= LONGEST {
            problems.push(format!(
                "`max_backoff` ({:?}) is below `backoff` ({:?}): raise it, or lower `backoff`",
                self.max_backoff, self.backoff
            ));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Configuration,
                format!("the relay's settings do not fit: {}", problems.join("; ")),
            ))
        }
    }

    /// What does not fit the lease; the lease itself, where that is most of it.
    fn lease_problems(&self) -> Vec<String> {
        let Self { lease, lease_margin: margin, heartbeat_interval, publish_timeout, .. } = self;
        let usable = lease.saturating_sub(*margin);
        let two_heartbeats = heartbeat_interval.saturating_mul(2);
        let wanted = two_heartbeats.max(*publish_timeout).saturating_add(*margin);
        if usable.is_zero() || (two_heartbeats > usable && *publish_timeout > usable) {
            let what = format!(
                "`lease` ({lease:?}) less `lease_margin` ({margin:?}) is too short for two of `heartbeat_interval` \
                 ({heartbeat_interval:?}) and one `publish_timeout` ({publish_timeout:?})"
            );
            return vec![if wanted <= LONGEST {
                format!("{what}: raise `lease` to {wanted:?}, or lower the others")
            } else {
                format!("{what}: lower those")
            }];
        }
        let mut problems = Vec::new();
        if two_heartbeats > usable {
            problems.push(format!(
                "`heartbeat_interval` ({heartbeat_interval:?}) is more than half of `lease` less `lease_margin` ({usable:?}): \
                 lower it, or raise `lease`"
            ));
        }
        if *publish_timeout > usable {
            problems.push(format!(
                "`publish_timeout` ({publish_timeout:?}) is more than `lease` less `lease_margin` ({usable:?}): lower it, or raise \
                 `lease`"
            ));
        }
        problems
    }

    /// The wait after so many failures in a row.
    pub(crate) fn backoff_after(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(self.max_backoff)
    }
}

/// With less, a relay does nothing but renew its leases.
const SHORTEST_LEASE: Duration = Duration::from_millis(10);

/// What is waited for for less than this is not waited for: the relay would spin.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_nothing_and_times_without_end_are_refused_by_their_names() {
        let refused = |change: fn(&mut RelaySettings)| {
            let mut settings = RelaySettings::default();
            change(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            error.to_string()
        };
        let text = refused(|settings| settings.destination_timeout = Some(Duration::ZERO));
        assert!(text.contains("`destination_timeout` must be more than zero"), "{text}");
        let text = refused(|settings| {
            settings.lease = Duration::MAX;
            settings.poll_interval = Duration::MAX;
            settings.idle_poll_interval = Some(Duration::MAX);
            settings.store_timeout = Duration::MAX;
            settings.settle_linger = Duration::MAX;
            settings.destination_timeout = Some(Duration::MAX);
            settings.max_backoff = Duration::MAX;
            settings.stop_grace = Duration::MAX;
        });
        assert_eq!(text.matches(" is above 100 years: lower it").count(), 8, "{text}");
        let mut longest = RelaySettings::default();
        (longest.max_backoff, longest.destination_timeout) = (LONGEST, Some(Duration::from_millis(1)));
        longest.validate().unwrap();
    }

    /// Each is told once, by the name of what is to be changed.
    #[test]
    fn what_does_not_fit_is_named_with_what_to_do() {
        let ms = Duration::from_millis;
        let told = |change: &dyn Fn(&mut RelaySettings)| {
            let mut settings = RelaySettings::default();
            change(&mut settings);
            let text = settings.validate().unwrap_err().to_string();
            text.strip_prefix("the relay's settings do not fit: ").unwrap().to_owned()
        };
        for (text, wanted) in [
            (told(&|settings| settings.lease = Duration::ZERO), "`lease` (0ns) is below 10ms: raise it"),
            (told(&|settings| settings.lease = ms(9)), "`lease` (9ms) is below 10ms: raise it"),
            (
                told(&|settings| settings.heartbeat_interval = Duration::ZERO),
                "`heartbeat_interval` (0ns) is below 1ms: raise it",
            ),
            (
                told(&|settings| settings.publish_timeout = Duration::ZERO),
                "`publish_timeout` (0ns) is below 1ms: raise it",
            ),
            (
                told(&|settings| settings.poll_interval = Duration::from_micros(999)),
                "`poll_interval` (999µs) is below 1ms: raise it",
            ),
            (
                told(&|settings| settings.store_timeout = Duration::ZERO),
                "`store_timeout` (0ns) is below 1ms: raise it",
            ),
            (told(&|settings| settings.backoff = Duration::ZERO), "`backoff` (0ns) is below 1ms: raise it"),
            (
                told(&|settings| settings.lease = ms(1_000)),
                "`lease` (1s) less `lease_margin` (2s) is too short for two of `heartbeat_interval` (3s) and one \
                 `publish_timeout` (7s): raise `lease` to 9s, or lower the others",
            ),
            (
                told(&|settings| {
                    (settings.heartbeat_interval, settings.publish_timeout) = (Duration::MAX, Duration::MAX);
                }),
                &format!(
                    "`lease` (10s) less `lease_margin` (2s) is too short for two of `heartbeat_interval` ({max:?}) and one \
                     `publish_timeout` ({max:?}): lower those",
                    max = Duration::MAX
                ),
            ),
            (
                told(&|settings| settings.heartbeat_interval = ms(4_001)),
                "`heartbeat_interval` (4.001s) is more than half of `lease` less `lease_margin` (8s): lower it, or raise `lease`",
            ),
            (
                told(&|settings| settings.publish_timeout = ms(8_001)),
                "`publish_timeout` (8.001s) is more than `lease` less `lease_margin` (8s): lower it, or raise `lease`",
            ),
            (
                told(&|settings| settings.idle_poll_interval = Some(Duration::ZERO)),
                "`idle_poll_interval` (0ns) is below `poll_interval` (500ms), which grows to it: raise it, or leave it out",
            ),
            (
                told(&|settings| settings.max_backoff = Duration::ZERO),
                "`max_backoff` (0ns) is below `backoff` (100ms): raise it, or lower `backoff`",
            ),
        ] {
            assert_eq!(text, wanted);
        }
        let mut shortest = RelaySettings::default();
        (shortest.lease, shortest.lease_margin) = (ms(10), Duration::ZERO);
        (shortest.heartbeat_interval, shortest.publish_timeout) = (ms(1), ms(1));
        (shortest.poll_interval, shortest.store_timeout, shortest.backoff) = (ms(1), ms(1), ms(1));
        shortest.validate().unwrap();
    }
}
