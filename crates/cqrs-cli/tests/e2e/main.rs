//! The road from end to end, once for each cell of {PostgreSQL, MariaDB, SQLite} x {Kafka, RabbitMQ, in-memory}.
//!
//! 2,000 commands on 32 keys from 8 tasks, a tenth of them rolled back. With Kafka and RabbitMQ two relay *processes* share
//! the outbox; one is killed with SIGKILL in the middle, the broker is killed and started again, the other relay is told to
//! stop. With the broker in memory, which no other process can reach, the relay is a task that is killed three times, and
//! messages are delivered twice. The same checker judges all of them: nothing lost, nothing from a transaction that was
//! rolled back, in order per key, one effect for each event.
//!
//! And, for each pair of a database and a broker that are processes, [`chaos`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a test, with a word for who runs it

mod chaos;
mod databases;
mod in_memory;
mod road;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use cqrs::sql::{MySql, Pg, Sqlite};
use cqrs_testing::services::{Service, trial_with_own};
use libtest_mimic::{Arguments, Failed, Trial};

use self::chaos::Manner;
use self::databases::Db;
use self::servers::{Kind, Servers};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cells kill the servers that they share.
    arguments.test_threads = Some(1);
    let servers = Arc::new(Servers::default());
    let mut trials = Vec::new();
    cells::<Sqlite>(&mut trials, &servers, None);
    cells::<Pg>(&mut trials, &servers, Some(Service::Postgres));
    cells::<MySql>(&mut trials, &servers, Some(Service::MySql));
    let conclusion = libtest_mimic::run(&arguments, trials);
    servers.stop(conclusion.has_failed());
    conclusion.exit_code()
}

type Cell = Box<dyn FnOnce(String) -> Result<(), Failed> + Send>;

fn cells<D: Db>(trials: &mut Vec<Trial>, servers: &Arc<Servers>, database: Option<Service>) {
    let cell: Cell = Box::new(|url| block_on(D::in_memory(url)));
    trials.push(on(database, None, &[], format!("{}_x_memory", D::NAME), cell));
    for kind in [Kind::Kafka, Kind::RabbitMq] {
        let broker = Some(kind.service());
        let own = Arc::clone(servers);
        let cell: Cell = Box::new(move |url| {
            let broker = own.broker(kind)?;
            block_on(D::with_processes(url, broker))
        });
        trials.push(on(database, broker, &[kind.service()], format!("{}_x_{}", D::NAME, kind.name()), cell));
        let mut manners = vec![Manner::ONE_BY_ONE];
        // Once: which database it is makes no difference to the way to the broker.
        if matches!((kind, database), (Kind::Kafka, Some(Service::Postgres))) {
            manners.push(Manner::TOGETHER);
        }
        for manner in manners {
            let own = Arc::clone(servers);
            let cell: Cell = Box::new(move |_| {
                let database = database.map(|database| own.of(database)).transpose()?;
                block_on(D::in_chaos(database, own.broker(kind)?, manner))
            });
            let killed: Vec<_> = database.into_iter().chain(broker).collect();
            let name = format!("{}_{}_x_{}", manner.name, D::NAME, kind.name());
            trials.push(on(database, broker, &killed, name, cell));
        }
    }
}

/// A cell where there are these servers, with the database's URL; it starts those of its `own`.
fn on(
    database: Option<Service>,
    broker: Option<Service>,
    own: &[Service],
    name: String,
    cell: Cell,
) -> Trial {
    let given: Vec<_> = database.into_iter().chain(broker).collect();
    trial_with_own(&given, own, name, move || cell(database.and_then(Service::given).unwrap_or_default()))
}

fn block_on(road: impl Future<Output = cqrs::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(road).map_err(|error| Failed::from(format!("{error:#}")))
}
