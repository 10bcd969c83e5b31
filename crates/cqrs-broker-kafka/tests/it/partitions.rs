//! A topic that gets more partitions.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cqrs_core::MessageBroker as _;
use cqrs_testing::services::{self, Service};
use libtest_mimic::Trial;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use tracing_subscriber::fmt::MakeWriter;

use crate::scenarios::keyed;
use crate::sessions::make_topic;
use crate::{TEST, builder, run, unique};

pub(crate) fn trial() -> Trial {
    services::trial(Service::Kafka, "real::more_partitions_are_told", |servers| {
        run(TEST, more_partitions_are_told(servers))
    })
}

/// What is logged, in whichever thread: librdkafka has its own.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn more_partitions_are_told(servers: String) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
    subscriber.with_writer(lines.clone()).try_init().expect("no other test listens to all threads");

    let topic = unique("cqrs-it-rooms");
    make_topic(&servers, &topic, 2, &[]).await;
    let refresh = ("topic.metadata.refresh.interval.ms", "200");
    let broker = builder(&servers, false).set(refresh.0, refresh.1).build().unwrap();
    broker.publish(keyed(&topic, "5", "before")).await.unwrap();

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
    let more = NewPartitions::new(&topic, 3);
    for made in admin.create_partitions(&[more], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
    // The time-out of the test is the limit.
    loop {
        let said = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
        let told = said.lines().find(|line| line.contains(&topic));
        if let Some(told) = told {
            assert!(told.contains("from 2 to 3") && told.contains("drain a topic"), "{told}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
