//! Trials on each database.

use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::time::Duration;

use cqrs_outbox_diesel::{MySql, Pg, Sqlite};
use cqrs_testing::services::{trial, trial_with_own};
use libtest_mimic::{Completion, Failed, Trial};

use crate::backend::{Db, Site};
use crate::events::{Statements, record_in};

pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

/// Tests that run on every database.
pub(crate) trait OnEach {
    fn list<D: Db>() -> Vec<(&'static str, Test)>;
}

/// A test; what it returns is why it was ignored, on a database that has no server.
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

#[derive(Default)]
pub(crate) struct Trials(Vec<Trial>);

impl Trials {
    /// On every database.
    pub(crate) fn on_each<T: OnEach>(&mut self) {
        self.on::<Sqlite>(T::list::<Sqlite>());
        self.on::<Pg>(T::list::<Pg>());
        self.on::<MySql>(T::list::<MySql>());
    }

    /// On one database.
    pub(crate) fn on<D: Db>(&mut self, tests: Vec<(&str, Test)>) {
        for (name, test) in tests {
            let name = format!("{}::{name}", D::NAME);
            self.0.push(match D::SERVICE {
                Some(service) => trial(service, name, move |url| run(D::site(url), &test).map(drop)),
                None => Trial::ignorable_test(name, move || run(D::site(String::new()), &test)),
            });
        }
    }

    /// On one database, for tests that start a server of their own.
    pub(crate) fn on_own<D: Db>(&mut self, tests: Vec<(&str, Test)>) {
        let service = D::SERVICE.unwrap();
        for (name, test) in tests {
            let run = move || run(D::site(service.given().unwrap()), &test).map(drop);
            self.0.push(trial_with_own(&[service], &[service], format!("{}::{name}", D::NAME), run));
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Trial> {
        self.0
    }
}

/// Runs a test with a limit that only a hang reaches, and cleans up whatever became of it.
fn run(site: Site, test: &Test) -> Result<Completion, Failed> {
    let statements = Statements::default();
    record_in(&statements);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || record_in(&statements))
        .build()?;
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
