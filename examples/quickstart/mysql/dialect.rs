//! What MariaDB and MySQL call things.

use cqrs::Result;
use cqrs::sql::{MySql, Outbox};

pub(crate) async fn connect(url: &str) -> Result<Outbox<MySql>> {
    Outbox::<MySql>::builder(url).max_connections(16).connect().await
}

/// What it says of a database that does not exist.
pub(crate) const UNKNOWN_DATABASE: &str = "Unknown database";

/// A database that everyone can connect to.
pub(crate) const ADMINISTRATION: &str = "information_schema";

/// With a collation that tells `r-1` from `R-1`, as the other databases do.
pub(crate) fn create(name: &str) -> String {
    format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
}

pub(crate) const LOCK: &str =
    "SELECT coalesce(GET_LOCK(concat('cqrs quickstart ', database()), 0), 0) = 1 AS locked";

pub(crate) const TABLES: &str =
    "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = database()";
