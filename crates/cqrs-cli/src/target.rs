//! Which database and which broker, and how long to wait for them.

use std::time::Duration;

use cqrs::{Result, without_password};
use cqrs_outbox_diesel::TableNames;
use uuid::Uuid;

use crate::database::{self, Connecting, Database};
use crate::failure::Failure;
use crate::settings::Span;

/// The database of the outbox.
#[derive(Debug, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// The database of the outbox: postgres://user:password@host:port/database, mysql://.., sqlite://path/to/file. A name before
    /// it, NAME=URL as `cqrs relay` takes it, does no harm
    #[arg(long, value_name = "URL", env = "CQRS_DATABASE_URL", hide_env_values = true, value_parser = one_url)]
    pub(crate) database: String,

    #[command(flatten)]
    pub(crate) names: NamesArgs,
}

/// The URL of one database, without the name that it may have.
fn one_url(text: &str) -> std::result::Result<String, &'static str> {
    match text.trim() {
        "" => Err("it is empty: give the URL of the outbox's database"),
        // In the variable that a relay shares.
        text if text.contains('\n') => {
            Err("there are several databases, one a line: give the one that is meant by `--database`")
        }
        text => Ok(NamedDatabase::parse(text).url),
    }
}

/// How the tables are called.
#[derive(Debug, clap::Args)]
pub(crate) struct NamesArgs {
    /// What the names of the outbox's tables begin with, in place of `cqrs_`
    #[arg(long, value_name = "PREFIX", env = "CQRS_TABLE_PREFIX")]
    table_prefix: Option<String>,

    /// The schema of the outbox's tables; on MySQL another database. By default where the database looks first
    #[arg(long, value_name = "NAME", env = "CQRS_SCHEMA")]
    schema: Option<String>,
}

impl NamesArgs {
    pub(crate) fn names(&self) -> TableNames {
        let names = self.table_prefix.iter().fold(TableNames::new(), TableNames::prefix);
        self.schema.iter().fold(names, TableNames::schema)
    }
}

/// The databases of a relay.
#[derive(Debug, clap::Args)]
pub(crate) struct NamedDatabases {
    /// The database of the outbox: postgres://user:password@host:port/database, mysql://.., sqlite://path/to/file. May be given
    /// several times (in the variable: one a line), and with a name before it, NAME=URL, by which the ready line, the log and
    /// the metrics know it; two schemas of one database want names
    #[arg(
        long = "database",
        value_name = "[NAME=]URL",
        env = "CQRS_DATABASE_URL",
        hide_env_values = true,
        required = true,
        value_delimiter = '\n'
    )]
    databases: Vec<String>,

    #[command(flatten)]
    names: NamesArgs,

    /// The installation that the database has to be, as `cqrs outbox status` shows it: of another one nothing is sent. A copy has the id
    /// of the original, and passes for it, until `cqrs outbox renew-id` gives it its own. With several databases NAME=UUID for each
    /// that is to be checked, in the variable one a line
    #[arg(
        long = "installation-id",
        value_name = "[NAME=]UUID",
        env = "CQRS_INSTALLATION_ID",
        value_delimiter = '\n'
    )]
    installation_ids: Vec<String>,
}

/// A database, and the name by which people know it.
pub(crate) struct NamedDatabase {
    pub(crate) name: String,
    pub(crate) url: String,
    /// Which installation it has to be.
    pub(crate) installation_id: Option<Uuid>,
    /// Whether it was given one, and is not called by its URL.
    is_named: bool,
}

impl NamedDatabase {
    fn parse(text: &str) -> Self {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        match text.split_once('=') {
            Some((name, url)) if is_name(name) => {
                Self { name: name.to_owned(), url: url.to_owned(), installation_id: None, is_named: true }
            }
            _ => Self {
                name: without_password(text),
                url: text.to_owned(),
                installation_id: None,
                is_named: false,
            },
        }
    }

    /// Its URL without the password, and its name if it has one of its own.
    pub(crate) fn shown(&self) -> String {
        let shown = without_password(&self.url);
        if shown == self.name { shown } else { format!("{} ({shown})", self.name) }
    }
}

fn no_installation_id() -> Failure {
    Failure::usage(
        "`--installation-id` is empty: leave it out, or give the UUID that `cqrs outbox status` shows",
    )
}

/// Which database is to be of which installation.
fn assigned<'a>(
    databases: &'a mut [NamedDatabase],
    text: &str,
) -> Result<(&'a mut NamedDatabase, Uuid), Failure> {
    let (name, id) = text.split_once('=').map_or((None, text), |(name, id)| (Some(name), id));
    if id.is_empty() {
        return Err(no_installation_id());
    }
    let id = Uuid::try_parse(id).map_err(|_| {
        Failure::usage(format!(
            "`--installation-id`: `{id}` is no UUID; `cqrs outbox status` shows the one of a database (of several in the variable: one a line)"
        ))
    })?;
    let what = match (name, databases) {
        (None, [only]) => return Ok((only, id)),
        (None, _) => "there are several databases: write NAME=UUID, with the name of one of them (`--database NAME=URL`)".to_owned(),
        (Some(name), databases) => {
            match databases.iter_mut().find(|database| database.is_named && database.name == name) {
                Some(database) => return Ok((database, id)),
                None => format!("no database is named `{name}`: `--database NAME=URL` names one"),
            }
        }
    };
    Err(Failure::usage(format!("`--installation-id`: {what}")))
}

impl NamedDatabases {
    /// The same for all of them.
    pub(crate) fn names(&self) -> TableNames {
        self.names.names()
    }

    pub(crate) fn parse(&self) -> Result<Vec<NamedDatabase>, Failure> {
        // What is mounted from a file ends with a line break.
        let given = self.databases.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let mut databases: Vec<_> = given.map(NamedDatabase::parse).collect();
        if databases.iter().any(|database| database.url.starts_with('=')) {
            return Err(Failure::usage(
                "the name before `=` is empty: `--database NAME=URL`, or the URL alone",
            ));
        }
        for (nth, NamedDatabase { name, is_named, .. }) in databases.iter().enumerate() {
            if databases[..nth].iter().any(|earlier| earlier.name == *name) {
                let what = if *is_named {
                    format!(
                        "the name `{name}` is given to two databases: it is there to tell them apart, so give each its own"
                    )
                } else {
                    format!(
                        "two of the databases are `{name}`: leave one out or, if it is two (schemas, say), name each: \
                         `--database NAME=URL`"
                    )
                };
                return Err(Failure::usage(what));
            }
        }
        if databases.is_empty() {
            return Err(Failure::usage("`--database` is empty: it is the URL of the outbox's database"));
        }
        // Of a file, too. One that is empty altogether does not switch this off: a variable of a script may not be set.
        let (ids, is_given) = (&self.installation_ids, !self.installation_ids.is_empty());
        let ids: Vec<_> = ids.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        if is_given && ids.is_empty() {
            return Err(no_installation_id());
        }
        for text in ids {
            let (database, id) = assigned(&mut databases, text)?;
            if database.installation_id.replace(id).is_some_and(|other| other != id) {
                return Err(Failure::usage(format!(
                    "`--installation-id` is given twice for `{}`",
                    database.name
                )));
            }
        }
        Ok(databases)
    }
}

/// The database, for a command that is over soon.
#[derive(Debug, clap::Args)]
pub(crate) struct PatientDatabaseArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// How long to wait for a database that cannot be reached; not for a lock that somebody has there
    #[arg(long, value_name = "TIME", env = "CQRS_WAIT", default_value_t = Span(Duration::ZERO))]
    wait: Span,
}

impl PatientDatabaseArgs {
    /// Connects to tables that this program knows.
    pub(crate) async fn open(&self) -> Result<Box<dyn Database>> {
        let database = self.connect(false).await?;
        database.check_schema().await?;
        Ok(database)
    }

    /// Connects, with few connections; makes a file of SQLite that is not there only if it is to.
    pub(crate) async fn connect(&self, create: bool) -> Result<Box<dyn Database>> {
        let url = &self.database.database;
        let how = Connecting {
            connections: 2,
            notifications: false,
            keep_sent: false,
            create,
            lazily: false,
            names: self.database.names.names(),
            installation_id: None,
        };
        if !self.wait.0.is_zero()
            && let Ok(connected) = tokio::time::timeout(self.wait.0, connect(url, &how)).await
        {
            return connected;
        }
        // What is wrong after the wait is what is worth telling.
        database::connect(url, &how).await
    }
}

/// Connects, and while that fails for a reason that passes, tries again.
async fn connect(url: &str, how: &Connecting) -> Result<Box<dyn Database>> {
    let mut wait = Duration::from_millis(250);
    loop {
        match database::connect(url, how).await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(error = %format!("{error:#}"), "the database cannot be reached; trying again in {wait:?}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
            connected => return connected,
        }
    }
}
