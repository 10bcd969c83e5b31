//! What PostgreSQL calls things.

use cqrs::Result;
use cqrs::sql::{Outbox, Pg};

pub(crate) async fn connect(url: &str) -> Result<Outbox<Pg>> {
    Outbox::<Pg>::builder(url).max_connections(16).connect().await
}

/// What it says of a database that does not exist.
pub(crate) const UNKNOWN_DATABASE: &str = "does not exist";

/// A database that everyone can connect to.
pub(crate) const ADMINISTRATION: &str = "postgres";

pub(crate) fn create(name: &str) -> String {
    format!("CREATE DATABASE \"{name}\"")
}

pub(crate) const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('cqrs quickstart')) AS locked";

pub(crate) const TABLES: &str =
    "SELECT table_name::text AS name FROM information_schema.tables WHERE table_schema = current_schema()";
