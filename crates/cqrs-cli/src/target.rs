//! Which database and which broker, and how long to wait for them.

use std::time::Duration;

use cqrs::Result;
use cqrs_outbox_diesel::TableNames;

use crate::database::{self, Connecting, Database};
use crate::settings::Span;

/// The database of the outbox.
#[derive(Debug, clap::Args)]
pub(crate) struct DatabaseArgs {
    /// The database of the outbox: postgres://user:password@host:port/database, mysql://.., sqlite://path/to/file
    #[arg(long, value_name = "URL", env = "CQRS_DATABASE_URL", hide_env_values = true)]
    pub(crate) database: String,

    /// What the names of the outbox's tables begin with, in place of `cqrs_`
    #[arg(long, value_name = "PREFIX", env = "CQRS_TABLE_PREFIX")]
    table_prefix: Option<String>,

    /// The schema of the outbox's tables; on MySQL another database. By default where the database looks first
    #[arg(long, value_name = "NAME", env = "CQRS_SCHEMA")]
    schema: Option<String>,
}

impl DatabaseArgs {
    /// How the tables are called.
    pub(crate) fn names(&self) -> TableNames {
        let names = self.table_prefix.iter().fold(TableNames::new(), TableNames::prefix);
        self.schema.iter().fold(names, TableNames::schema)
    }
}

/// The database, for a command that is over soon.
#[derive(Debug, clap::Args)]
pub(crate) struct PatientDatabaseArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// How long to wait for a database that cannot be reached
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
        let (url, names) = (&self.database.database, self.database.names());
        let how = Connecting { connections: 2, notifications: false, keep_sent: false, create, names };
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
pub(crate) async fn connect(url: &str, how: &Connecting) -> Result<Box<dyn Database>> {
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
