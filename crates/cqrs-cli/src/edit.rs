//! `cqrs outbox edit`

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::ArgGroup;
use cqrs_outbox_diesel::{Edit, Edited, Page, ParkedFilter, ScheduleFilter};
use serde_json::json;
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::Key;
use crate::print;
use crate::target::PatientDatabaseArgs;

const AFTER: &str = "\
An event that waits for its time goes as it is then; a dead letter as it is when `cqrs dead replay` has it sent again. What a relay may be
about to send is not changed. The payload and the headers are those that the broker is given, as `cqrs dead show` and `cqrs scheduled show`
have them; what they were before is not kept; who changed which of them is, and how many bytes each had: `cqrs dead requests`. Where the content type says
JSON, the payload has to be. A topic or a key is not changed, for it is an event's place in the order: discard the dead letter, and write another event.

  cqrs outbox edit 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11 --payload-file mended.json --header schema=rooms/2
  cqrs dead show 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11 --json | jq -cj '.payload | fromjson | .room = 5' |
    cqrs outbox edit 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11 --payload-file -";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER,
    group = ArgGroup::new("payloads").args(["payload", "payload_file", "tombstone"]),
    group = ArgGroup::new("what").required(true).multiple(true).args(
        ["payload", "payload_file", "tombstone", "header", "remove_header", "remove_headers", "standard_headers"]
    )
)]
pub(crate) struct Args {
    /// The event's id
    event_id: Uuid,

    /// Another payload, as text or as hex:00ff..
    #[arg(long, value_name = "TEXT")]
    payload: Option<Key>,
    /// Another payload: all that is in this file, or, with -, in standard input. There has to be something
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// No payload at all
    #[arg(long)]
    tombstone: bool,

    /// Sets a header in place of those of the same name; the value as text or as hex:00ff.. May be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, Key)>,
    /// Takes away every header of that name; there has to be one. May be given several times
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<String>,
    /// Takes away all headers but for those that are set: also those by which consumers know the event, `cqrs-id` for example
    #[arg(long)]
    remove_headers: bool,
    /// Puts the headers in their place that an event of plain SQL gets: its id, its name, its time, its content type, and so on
    #[arg(long, conflicts_with = "remove_headers")]
    standard_headers: bool,

    /// Who changes it
    #[arg(long, value_name = "NAME", env = "CQRS_REQUESTED_BY")]
    requested_by: Option<String>,

    #[command(flatten)]
    database: PatientDatabaseArgs,
}

fn header(text: &str) -> Result<(String, Key), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, or NAME= for an empty value")?;
    Ok((name.to_owned(), value.parse()?))
}

impl Args {
    fn edit(&self) -> Result<Edit, Failure> {
        let mut edit = Edit::new();
        if let Some(payload) = &self.payload {
            edit = edit.payload(payload.0.clone());
        }
        if let Some(file) = &self.payload_file {
            edit = edit.payload(read(file)?);
        }
        if self.tombstone {
            edit = edit.tombstone();
        }
        if self.remove_headers {
            edit = edit.without_headers();
        }
        if self.standard_headers {
            edit = edit.standard_headers();
        }
        let mut names = HashSet::new();
        if let Some((name, _)) = self.header.iter().find(|(name, _)| !names.insert(name)) {
            return Err(Failure::usage(format!(
                "the header `{name}` is set twice, and the last would be the only one"
            )));
        }
        edit = self.remove_header.iter().fold(edit, Edit::without_header);
        edit =
            self.header.iter().fold(edit, |edit, (name, value)| edit.header(name.clone(), value.0.clone()));
        Ok(self.requested_by.clone().or_else(crate::user).into_iter().fold(edit, Edit::requested_by))
    }
}

fn read(file: &PathBuf) -> Result<Bytes, Failure> {
    let mut payload = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().lock().read_to_end(&mut payload).map(drop),
        false => fs::read(file).map(|all| payload = all),
    };
    let file = file.display();
    read.map_err(|error| Failure::usage(format!("no payload can be read from `{file}`: {error}")))?;
    if payload.is_empty() {
        // As a rule that which should have written it has failed.
        return Err(Failure::usage(format!(
            "there is nothing in `{file}`: say --payload '' for an empty payload"
        )));
    }
    Ok(payload.into())
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let (event_id, edit) = (args.event_id, args.edit()?);
    let database = args.database.open().await?;
    let (what, then, defect) = match database.edit(event_id, &edit).await? {
        Edited::Scheduled => {
            let filter = ScheduleFilter::default().event_id(event_id).limit(1);
            let defect = database.scheduled(&filter).await?.pop().and_then(|event| event.defect);
            ("scheduled", "it goes so when its time has come", defect)
        }
        Edited::DeadLetter => {
            let defect = database.dead_letter(event_id).await?.and_then(|details| details.defect);
            ("dead_letter", "it goes so when it is replayed (`cqrs dead replay`)", defect)
        }
        Edited::TooLate => {
            let aside = database
                .parked(&ParkedFilter::new().event_id(event_id), Page::oldest_first().limit(1))
                .await?;
            return Err(Failure::nothing(if aside.is_empty() {
                format!(
                    "no event with the id {event_id} is scheduled or a dead letter: it may have been sent, or a relay may be about to \
                     send it. Nothing was changed"
                )
            } else {
                format!(
                    "the event {event_id} stands aside, and a relay may be about to send it: it can be changed when it is a dead letter. \
                     Nothing was changed"
                )
            }));
        }
    };
    print(&if json {
        json!({ "event_id": event_id.to_string(), "edited": what, "defect": defect }).to_string()
    } else if let Some(defect) = defect {
        format!("the event {event_id} was changed, and cannot be sent as it is: {defect}")
    } else {
        format!("the event {event_id} was changed: {then}")
    })
}
