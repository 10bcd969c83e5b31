//! Trials on each database.

use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::time::Duration;

use cqrs_outbox_diesel::{Pg, Sqlite};
use libtest_mimic::{Completion, Failed, Trial};

use crate::backend::{Db, Site};

const URL: &str = "CQRS_TEST_POSTGRES_URL";
const REQUIRED: &str = "CQRS_TEST_REQUIRE_SERVICES";
const HOW: &str = "start it with ./scripts/test, or set CQRS_TEST_POSTGRES_URL";

pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

/// Tests that run on every database.
pub(crate) trait OnBoth {
    fn list<D: Db>() -> Vec<(&'static str, Test)>;
}

/// A test; what it returns is why it was ignored.
pub(crate) type Test = Box<dyn for<'a> Fn(&'a Site) -> Running<'a> + Send + Sync>;

pub(crate) fn test(run: impl for<'a> Fn(&'a Site) -> Running<'a> + Send + Sync + 'static) -> Test {
    Box::new(run)
}

/// Lists tests that are functions of a [`Site`], of one database or of any.
macro_rules! tests {
    ($module:ident { $($name:ident),* $(,)? }) => {
        vec![$(crate::harness::tests!(@one $module $name $name)),*]
    };
    ($module:ident<$db:ident> { $($name:ident),* $(,)? }) => {
        vec![$(crate::harness::tests!(@one $module $name $name::<$db>)),*]
    };
    (@one $module:ident $name:ident $test:expr) => {
        (
            concat!(stringify!($module), "::", stringify!($name)),
            crate::harness::test(|site| {
                Box::pin(async move {
                    $test(site).await;
                    None
                })
            }),
        )
    };
}
pub(crate) use tests;

pub(crate) struct Trials {
    trials: Vec<Trial>,
    postgres: Option<String>,
}

impl Trials {
    pub(crate) fn new() -> Self {
        let postgres = std::env::var(URL).ok().filter(|url| !url.is_empty());
        if postgres.is_none() {
            eprintln!("no PostgreSQL: {HOW}");
        }
        Self { trials: Vec::new(), postgres }
    }

    pub(crate) fn on_both<T: OnBoth>(&mut self) {
        for (name, test) in T::list::<Sqlite>() {
            self.sqlite(name, test);
        }
        for (name, test) in T::list::<Pg>() {
            self.postgres(name, test);
        }
    }

    pub(crate) fn sqlite(&mut self, name: &str, test: Test) {
        let name = format!("{}::{name}", Sqlite::NAME);
        self.trials.push(Trial::ignorable_test(name, move || run(Site::folder(), &test)));
    }

    pub(crate) fn postgres(&mut self, name: &str, test: Test) {
        let name = format!("{}::{name}", Pg::NAME);
        let url = self.postgres.clone();
        self.trials.push(Trial::ignorable_test(name, move || match url {
            Some(url) => run(Site::server(url), &test),
            None if std::env::var(REQUIRED).is_ok_and(|required| required == "1") => {
                Err(Failed::from(format!("PostgreSQL is required and not there: {HOW}")))
            }
            None => Ok(Completion::ignored_with(HOW)),
        }));
    }

    pub(crate) fn into_vec(self) -> Vec<Trial> {
        self.trials
    }
}

/// Runs a test with a limit that only a hang reaches, and cleans up whatever became of it.
fn run(site: Site, test: &Test) -> Result<Completion, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limited = async { tokio::time::timeout(Duration::from_secs(120), test(&site)).await };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(limited)));
    runtime.block_on(site.clean_up());
    match outcome {
        Ok(Ok(None)) => Ok(Completion::Completed),
        Ok(Ok(Some(reason))) => Ok(Completion::ignored_with(reason)),
        Ok(Err(_)) => Err("it hangs".into()),
        Err(panic) => panic::resume_unwind(panic),
    }
}
