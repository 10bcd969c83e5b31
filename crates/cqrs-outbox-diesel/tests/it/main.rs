//! The outbox on SQLite, always; on PostgreSQL at `CQRS_TEST_POSTGRES_URL`, in schemas of their own, and on MariaDB or
//! MySQL at `CQRS_TEST_MYSQL_URL`, in databases of their own, which are dropped afterwards. With
//! `CQRS_TEST_REQUIRE_SERVICES=1` a server that is not there is a failure.

// Without the standard harness Clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod backend;
mod cuts;
mod dead_letters;
mod drift;
mod drivers;
mod edit;
mod events;
mod explain;
mod floors;
mod harness;
mod installation;
mod mysql;
mod names;
mod operation;
mod operator_plans;
mod order_unit;
mod parked;
mod plans;
mod postgres;
mod privileges;
mod reach;
mod requests;
mod retention;
mod returning_ids;
mod rows;
mod scheduled;
mod schema;
mod servers;
mod sqlite;
mod status;
mod suite;
mod tables;
mod transactions;
mod writing;

use cqrs_testing::services;

use self::harness::Trials;

fn main() {
    events::record_statements();
    let mut trials = Trials::default();
    suite::trials(&mut trials);
    trials.on_each::<schema::All>();
    trials.on_each::<rows::All>();
    trials.on_each::<transactions::All>();
    trials.on_each::<operation::All>();
    trials.on_each::<status::All>();
    trials.on_each::<scheduled::All>();
    trials.on_each::<writing::All>();
    trials.on_each::<dead_letters::All>();
    trials.on_each::<drivers::All>();
    trials.on_each::<tables::All>();
    trials.on_each::<drift::All>();
    trials.on_each::<requests::All>();
    trials.on_each::<retention::All>();
    trials.on_each::<returning_ids::All>();
    trials.on_each::<names::All>();
    trials.on_each::<installation::All>();
    trials.on_each::<order_unit::All>();
    trials.on_each::<parked::All>();
    trials.on_each::<edit::All>();
    sqlite::trials(&mut trials);
    drift::trials(&mut trials);
    postgres::trials(&mut trials);
    floors::trials(&mut trials);
    reach::trials(&mut trials);
    plans::trials(&mut trials);
    operator_plans::trials(&mut trials);
    mysql::trials(&mut trials);
    servers::trials(&mut trials);
    cuts::trials(&mut trials);
    names::trials(&mut trials);
    privileges::trials(&mut trials);
    installation::trials(&mut trials);
    services::run(trials.into_vec()).exit();
}
