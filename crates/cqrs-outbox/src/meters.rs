//! What a relay tells the recorder of the `metrics` crate; without the feature `metrics`, nothing.

#[cfg(feature = "metrics")]
pub(crate) use with::{Meters, Sent};
#[cfg(not(feature = "metrics"))]
pub(crate) use without::{Meters, Sent};

#[cfg(feature = "metrics")]
mod with {
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

    use chrono::{DateTime, Utc};
    use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

    use crate::row::OutboxRow;
    use crate::stats::RelayStats;

    /// A handle, and what it shows of a relay.
    type Shows<H, V> = (H, fn(&RelayStats) -> V);

    /// Handles, so that no name is looked up while events are on their way.
    pub(crate) struct Meters {
        /// What was told of the run that is under way.
        told: Mutex<RelayStats>,
        running: Gauge,
        gauges: [Shows<Gauge, usize>; 6],
        counters: [Shows<Counter, u64>; 11],
        publish: Histogram,
        delivery: Histogram,
    }

    impl Meters {
        pub(crate) fn new(relay: &str, database: &str) -> Self {
            // Relays of several databases in one process have one name; it is the database that tells them apart.
            let labels = [Label::new("relay", relay.to_owned()), Label::new("database", database.to_owned())];
            let gauge = |name: &'static str| gauge!(name, labels.iter());
            let counter = |name: &'static str| counter!(name, labels.iter());
            let failures = |class: &'static str| {
                let labels = [&labels[..], &[Label::new("class", class)]].concat();
                counter!("cqrs_relay_failures_total", labels)
            };
            let histogram = |name: &'static str| histogram!(name, labels.iter());
            let running = gauge("cqrs_relay_running");
            // One whose database has no tables, say, never runs; that is to be seen, too.
            running.set(0.0);
            Self {
                told: Mutex::default(),
                running,
                gauges: [
                    (gauge("cqrs_relay_owned_groups"), |stats| stats.owned_groups),
                    (gauge("cqrs_relay_rows_in_memory"), |stats| stats.in_memory),
                    (gauge("cqrs_relay_rows_in_flight"), |stats| stats.in_flight),
                    (gauge("cqrs_relay_closed_gates"), |stats| stats.closed_gates),
                    (gauge("cqrs_relay_suspended_destinations"), |stats| stats.suspended_destinations),
                    (gauge("cqrs_relay_hold"), |stats| usize::from(stats.hold)),
                ],
                counters: [
                    (counter("cqrs_relay_reads_total"), |stats| stats.reads),
                    (counter("cqrs_relay_published_total"), |stats| stats.published),
                    (counter("cqrs_relay_confirmed_total"), |stats| stats.confirmed),
                    (counter("cqrs_relay_settled_total"), |stats| stats.settled),
                    (counter("cqrs_relay_promoted_total"), |stats| stats.promoted),
                    (counter("cqrs_relay_parked_total"), |stats| stats.parked),
                    (counter("cqrs_relay_dead_lettered_total"), |stats| stats.dead_lettered),
                    (failures("event"), |stats| stats.failed_event),
                    (failures("destination"), |stats| stats.failed_destination),
                    (failures("outage"), |stats| stats.failed_outage),
                    (failures("unknown"), |stats| stats.failed_unknown),
                ],
                publish: histogram("cqrs_relay_publish_seconds"),
                delivery: histogram("cqrs_relay_delivery_seconds"),
            }
        }

        /// For as long as a run lasts. It counts from nothing, which a counter does not; and has nothing when it is over.
        pub(crate) fn run(&self) -> Run<'_> {
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = RelayStats::default();
            self.running.set(1.0);
            Run(self)
        }

        pub(crate) fn tell(&self, stats: &RelayStats) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if *told == *stats {
                return;
            }
            for (gauge, value) in &self.gauges {
                gauge.set(value(stats) as f64);
            }
            for (counter, value) in &self.counters {
                counter.increment(value(stats).saturating_sub(value(&told)));
            }
            *told = *stats;
        }
    }

    pub(crate) struct Run<'a>(&'a Meters);

    impl Drop for Run<'_> {
        fn drop(&mut self) {
            self.0.running.set(0.0);
            for (gauge, _) in &self.0.gauges {
                gauge.set(0.0);
            }
        }
    }

    /// An event on its way to the broker.
    pub(crate) struct Sent {
        at: Instant,
        occurred: Option<DateTime<Utc>>,
    }

    impl Sent {
        pub(crate) fn now(row: &OutboxRow) -> Self {
            Self { at: Instant::now(), occurred: row.message.timestamp }
        }

        pub(crate) fn confirmed(self, meters: &Meters) {
            meters.publish.record(self.at.elapsed());
            // By two clocks: the writer's, and ours.
            if let Some(age) = self.occurred.and_then(|occurred| (Utc::now() - occurred).to_std().ok()) {
                meters.delivery.record(age);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod without {
    use crate::row::OutboxRow;
    use crate::stats::RelayStats;

    pub(crate) struct Meters;

    impl Meters {
        pub(crate) fn new(_relay: &str, _database: &str) -> Self {
            Self
        }

        pub(crate) fn run(&self) -> Run {
            Run
        }

        pub(crate) fn tell(&self, _stats: &RelayStats) {}
    }

    pub(crate) struct Run;

    pub(crate) struct Sent;

    impl Sent {
        pub(crate) fn now(_row: &OutboxRow) -> Self {
            Self
        }

        pub(crate) fn confirmed(self, _meters: &Meters) {}
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use cqrs_core::Message;
    use cqrs_core::broker::memory::MemoryBroker;
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    use crate::{MemoryOutbox, OutboxRelay, Relays};

    /// Keeps the values by name and labels; of a histogram, how many there are.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<BTreeMap<String, f64>>>);

    struct Handle(Kept, String);

    impl Handle {
        fn change(&self, change: impl FnOnce(f64) -> f64) {
            let mut values = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            let value = values.entry(self.1.clone()).or_default();
            *value = change(*value);
        }
    }

    impl CounterFn for Handle {
        fn increment(&self, value: u64) {
            self.change(|old| old + value as f64);
        }

        fn absolute(&self, value: u64) {
            self.change(|_| value as f64);
        }
    }

    impl GaugeFn for Handle {
        fn increment(&self, value: f64) {
            self.change(|old| old + value);
        }

        fn decrement(&self, value: f64) {
            self.change(|old| old - value);
        }

        fn set(&self, value: f64) {
            self.change(|_| value);
        }
    }

    impl HistogramFn for Handle {
        fn record(&self, value: f64) {
            assert!((0.0..60.0).contains(&value), "{value} seconds");
            self.change(|old| old + 1.0);
        }
    }

    impl Kept {
        fn handle(&self, key: &Key) -> Arc<Handle> {
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            Arc::new(Handle(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
        }
    }

    impl Recorder for Kept {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.handle(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.handle(key))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.handle(key))
        }
    }

    fn add(outbox: &MemoryOutbox) -> cqrs_core::Result<()> {
        let mut message = Message::new("rooms", "{}");
        message.id = Some(uuid::Uuid::new_v4().into());
        message.name = "room_closed".to_owned();
        message.timestamp = Some(chrono::Utc::now());
        outbox.add(message)
    }

    /// Two runs: what a relay counts begins anew with each, what is told goes on.
    #[tokio::test]
    async fn a_relay_tells_what_it_does() {
        let kept = Kept::default();
        let outbox = MemoryOutbox::new();
        let relay = metrics::with_local_recorder(&kept, || {
            OutboxRelay::builder(Arc::new(outbox.clone()), Arc::new(MemoryBroker::new()))
                .name("one")
                .database("orders")
                .build()
                .unwrap()
        });
        let value = |name: &str| {
            let values = kept.0.lock().unwrap();
            values.get(&format!("cqrs_relay_{name}{{relay=one,database=orders}}")).copied()
        };
        assert_eq!(value("running"), Some(0.0));
        let at_work = async {
            relay.started().await;
            assert_eq!(value("running"), Some(1.0));
        };
        relay.run_until(at_work).await.unwrap();
        for run in 1..=2_u32 {
            for _ in 0..3 {
                add(&outbox).unwrap();
            }
            relay.run_until_empty().await.unwrap();
            for name in
                ["published_total", "confirmed_total", "settled_total", "publish_seconds", "delivery_seconds"]
            {
                assert_eq!(value(name), Some(f64::from(3 * run)), "{name}");
            }
            for name in ["running", "rows_in_memory", "rows_in_flight", "owned_groups"] {
                assert_eq!(value(name), Some(0.0), "{name}");
            }
        }
    }

    /// They have one name, for they are of one process.
    #[tokio::test]
    async fn the_metrics_of_two_databases_are_told_apart() {
        let kept = Kept::default();
        let outboxes = ["orders", "shop"].map(|name| (name, MemoryOutbox::new()));
        let relays = outboxes.each_ref().map(|(name, outbox)| {
            metrics::with_local_recorder(&kept, || {
                OutboxRelay::builder(Arc::new(outbox.clone()), Arc::new(MemoryBroker::new()))
                    .name("one")
                    .database(*name)
                    .build()
                    .unwrap()
            })
        });
        add(&outboxes[0].1).unwrap();
        Relays::new(relays).unwrap().run_until_empty().await.unwrap();
        for (database, events) in [("orders", 1.0), ("shop", 0.0)] {
            let values = kept.0.lock().unwrap();
            let name = format!("cqrs_relay_settled_total{{relay=one,database={database}}}");
            assert_eq!(values.get(&name), Some(&events), "{values:?}");
            let name = format!("cqrs_relay_failures_total{{relay=one,database={database},class=unknown}}");
            assert_eq!(values.get(&name), Some(&0.0), "{values:?}");
        }
    }

    /// Keeps what is said of each span when it begins.
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Spans {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.is_span()
        }

        fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            let mut said = format!("{} {}", span.metadata().level(), span.metadata().name());
            span.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                said.push_str(&format!(" {}={value:?}", field.name()));
            });
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test]
    async fn a_publish_is_a_span_that_names_the_writers_trace() {
        // While there is but one, whether a span is wanted is asked of the thread that comes to it first: of another test's.
        let _second = tracing::Dispatch::new(Spans::default());
        let spans = Spans::default();
        let _spans = tracing::subscriber::set_default(spans.clone());
        let outbox = MemoryOutbox::new();
        let (mut message, id) = (Message::new("rooms", "{}"), uuid::Uuid::new_v4());
        message.id = Some(id.into());
        message.name = "room_closed".to_owned();
        message.headers.set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        outbox.add(message).unwrap();
        let relay = OutboxRelay::builder(Arc::new(outbox), Arc::new(MemoryBroker::new())).build().unwrap();
        relay.run_until_empty().await.unwrap();
        let spans = spans.0.lock().unwrap();
        let publish: Vec<_> = spans.iter().filter(|span| span.starts_with("DEBUG publish ")).collect();
        let [publish] = &*publish else { panic!("{spans:?}") };
        let event = format!("event={id}");
        for part in ["row=1", &event, "topic=\"rooms\"", "traceparent=\"00-4bf92f3577b34da6a3ce929d0e0e4736-"]
        {
            assert!(publish.contains(part), "{part}: {publish}");
        }
    }
}
