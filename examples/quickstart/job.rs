//! What there is to do while the services run: execute the input, and wait until everything has arrived.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cqrs::app::App;
use cqrs::sql::Outbox;
use cqrs::{Correlation, Request};
use tokio::time::{Instant, sleep};

use super::Db;
use super::audit::Auditor;
use super::journal::{self, Line, Outcome, Refusal};
use crate::domain::{Command, ReadMeeting, RoomError};
use crate::input::{self, Input, Place, Text};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::stopwatch::Stopwatch;

pub(crate) struct Job<'a> {
    pub(crate) rooms: &'a App,
    pub(crate) outbox: &'a Outbox<Db>,
    pub(crate) stopwatch: &'a Stopwatch,
    pub(crate) interrupt: Interrupt,
    pub(crate) progress: Progress,
    /// How long to wait while nothing moves.
    pub(crate) timeout: Duration,
}

/// How the job ended.
pub(crate) enum End {
    Finished,
    Interrupted,
}

impl Job<'_> {
    /// Executes the input, one line after the other, and waits until the second service has heard of everything.
    pub(crate) async fn run(&mut self, input: &mut Input, auditor: &mut Auditor) -> anyhow::Result<End> {
        tokio::select! {
            biased;
            () = self.interrupt.requested() => return Ok(End::Interrupted),
            ready = relay_is_ready(self.rooms) => ready?,
        }
        loop {
            let next = tokio::select! {
                biased;
                () = self.interrupt.requested() => return Ok(End::Interrupted),
                next = input.next() => next.context("the input broke off")?,
            };
            let Some((place, text)) = next else { break };
            self.execute(place, text).await.with_context(|| format!("line {}", place.line))?;
            self.progress.update(input, place.line);
        }
        tokio::select! {
            biased;
            () = self.interrupt.requested() => Ok(End::Interrupted),
            arrived = everything_arrived(auditor, self.timeout) => arrived.map(|()| End::Finished),
        }
    }

    /// Executes one line, and sees to it that its outcome is in the journal.
    async fn execute(&self, place: Place, text: Text) -> anyhow::Result<()> {
        let command = match text {
            Ok(text) => input::parse(&text),
            Err(unreadable) => Err(unreadable.to_owned()),
        };
        let outcome = match command {
            Ok(Command::ReadMeeting(query)) => self.ask(query).await,
            Ok(Command::OpenRoom(command)) => self.send(place, command).await,
            Ok(Command::JoinMeeting(command)) => self.send(place, command).await,
            Ok(Command::LeaveMeeting(command)) => self.send(place, command).await,
            Ok(Command::CloseRoom(command)) => self.send(place, command).await,
            Err(reason) => Ok(Outcome::Refused(Refusal { kind: "malformed", reason })),
        };
        let outcome = match outcome {
            Err(RoomError::Failed(error)) => return Err(error.into()),
            Err(refused) => Outcome::Refused(Refusal { kind: refused.kind(), reason: refused.to_string() }),
            Ok(outcome) => outcome,
        };
        if !matches!(outcome, Outcome::Done) {
            // What had an effect wrote its row with it.
            self.outbox.transaction(async |tx| journal::write(tx, place, &outcome).await).await?;
        }
        Ok(())
    }

    async fn send<C>(&self, place: Place, command: C) -> Result<Outcome, RoomError>
    where
        C: Request<Response = (), Error = RoomError>,
    {
        // The number of the line goes with the events that the command says, to the handlers in the other service.
        let conversation = Correlation::new(place.line.to_string());
        self.rooms.requests().send_correlated(Line { place, command }, &conversation).await?;
        self.stopwatch.committed(place.line);
        Ok(Outcome::Done)
    }

    async fn ask(&self, query: ReadMeeting) -> Result<Outcome, RoomError> {
        let meeting = self.rooms.requests().send(query).await?;
        Ok(Outcome::Answered(format!("{}: {}", meeting.link, meeting.participants.join(", "))))
    }
}

const POLL: Duration = Duration::from_millis(5);

/// Waits until the relay may send: a process that was killed has left a lease, which has to expire first.
async fn relay_is_ready(rooms: &App) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let began = Instant::now();
    while rooms.relay_stats().owned_groups == 0 {
        ensure!(began.elapsed() < PATIENCE, "the relay got no lease within {PATIENCE:?}; -v shows why");
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until nothing is in the outbox any more and the second service knows of everything.
async fn everything_arrived(auditor: &mut Auditor, timeout: Duration) -> anyhow::Result<()> {
    let mut last = (auditor.events().await?, Instant::now());
    while !last.0.all_arrived() {
        if last.1.elapsed() > timeout {
            let (waiting, consumed) = (last.0.waiting, last.0.consumed);
            bail!(
                "nothing has arrived for {timeout:?}: {consumed} events did before, {waiting} wait in the outbox; \
                 -v shows why. Nothing is lost: start again to go on"
            );
        }
        sleep(POLL).await;
        let now = auditor.events().await?;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(())
}
