//! The outbox on SQLite, always; and on PostgreSQL at `CQRS_TEST_POSTGRES_URL`, in schemas of their own, which are
//! dropped afterwards. With `CQRS_TEST_REQUIRE_SERVICES=1` a PostgreSQL that is not there is a failure.

// Without the standard harness Clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod backend;
mod events;
mod harness;
mod operation;
mod postgres;
mod rows;
mod schema;
mod sqlite;
mod status;
mod suite;
mod transactions;

use libtest_mimic::Arguments;

use self::harness::Trials;

fn main() {
    events::record_statements();
    let mut trials = Trials::new();
    suite::trials(&mut trials);
    trials.on_both::<schema::All>();
    trials.on_both::<rows::All>();
    trials.on_both::<transactions::All>();
    trials.on_both::<operation::All>();
    trials.on_both::<status::All>();
    sqlite::trials(&mut trials);
    postgres::trials(&mut trials);
    libtest_mimic::run(&Arguments::from_args(), trials.into_vec()).exit();
}
