//! A run: both services, and what there is to do while they are at work.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use tokio::sync::oneshot;

use super::audit::Auditor;
use super::job::{End, Job};
use super::report::{Observed, Report};
use super::storage::Storage;
use super::{attendance, journal, rooms};
use crate::broker::Broker;
use crate::input::Input;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::stopwatch::Stopwatch;
use crate::{Args, failed, print, say};

/// Runs the example to its end, and gives its exit code.
pub(crate) async fn example(args: &Args, input: Input) -> ExitCode {
    match prepare(args, input).await {
        Ok((input, storage, broker)) => {
            run(args, input, storage, broker).await.unwrap_or_else(|error| failed(1, &error))
        }
        Err(error) => failed(2, &error),
    }
}

/// Opens everything, and finds the place in the input where an earlier process was stopped.
async fn prepare(args: &Args, mut input: Input) -> anyhow::Result<(Input, Storage, Broker)> {
    // What is wrong with the URL is told before anything is begun.
    Broker::open(&args.broker, "", args.redeliver_every)?;
    let storage = Storage::open(&args.database, args.fresh).await?;
    if let Some(done) = storage.resumed
        && !input.skip_to(done).await?
    {
        bail!(
            "{} holds an unfinished run of other input, executed up to line {}: finish that first, or forget it with \
             --fresh",
            args.database(),
            done.line
        );
    }
    let broker = Broker::open(&args.broker, &storage.run, args.redeliver_every)?;
    broker.broker.check().await?;
    broker.declare(attendance::GROUP).await?;
    let storage = storage.with_topic_prefix(&broker.topic_prefix);
    Ok((input, storage, broker))
}

async fn run(args: &Args, mut input: Input, storage: Storage, broker: Broker) -> anyhow::Result<ExitCode> {
    if let Some(done) = storage.resumed {
        say(&format!("going on behind line {}, where an earlier process was stopped", done.line));
    }
    let stopwatch = Stopwatch::default();
    let topic = broker.topic();
    let rooms = rooms::service(storage.rooms.clone(), broker.broker.clone()).await?;
    let attendance =
        attendance::service(storage.projection.clone(), broker.broker.clone(), &topic, stopwatch.clone())
            .await?;
    let mut auditor = Auditor::new(&storage).await?;
    let executed_earlier = journal::count(&mut auditor.rooms).await?;
    let started = Instant::now();

    let mut job = Job {
        rooms: &rooms,
        outbox: &storage.rooms,
        stopwatch: &stopwatch,
        interrupt: Interrupt::listen(),
        progress: Progress::new(&input, args.verbose > 0),
        timeout: args.timeout,
    };
    // The first service runs until the job is done, and the second one until the first has stopped: its relay finishes
    // what is under way, and that has to be handled.
    let mut end = None;
    let (no_more_events, drained) = oneshot::channel::<()>();
    tokio::try_join!(
        async {
            rooms.run_until(async { end = Some(job.run(&mut input, &mut auditor).await) }).await?;
            drop(no_more_events);
            anyhow::Ok(())
        },
        async { Ok(attendance.run_until(async { drop(drained.await) }).await?) },
    )?;
    broker.broker.close().await?;

    match end.context("the relay ended before the work was done")?? {
        End::Interrupted => {
            let line = journal::last(&mut auditor.rooms).await?.map_or(0, |place| place.line);
            say(&format!(
                "stopped behind line {line} of {}; nothing is lost: start again with the same input and --database {} \
                 to go on",
                input.name(),
                args.database()
            ));
            Ok(ExitCode::from(130))
        }
        End::Finished => {
            storage.finish().await?;
            let observed = Observed {
                input: input.name(),
                executed_earlier,
                duplicates_dropped: attendance.consumer_stats().duplicates,
                elapsed: started.elapsed(),
                stopwatch,
            };
            let report = Report::gather(observed, &mut auditor).await?;
            print(&if args.json { serde_json::to_string_pretty(&report)? } else { report.to_string() })?;
            Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
