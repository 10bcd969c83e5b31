//! The example on SQLite: the same files as on the other databases, with another `Db`.

pub(crate) use cqrs::sql::Sqlite as Db;

pub(crate) type Connection = <Db as cqrs::sql::Backend>::Connection;

#[path = "../attendance.rs"]
pub(crate) mod attendance;
#[path = "../audit.rs"]
pub(crate) mod audit;
pub(crate) mod database;
#[path = "../job.rs"]
pub(crate) mod job;
#[path = "../journal.rs"]
pub(crate) mod journal;
#[path = "../report.rs"]
pub(crate) mod report;
#[path = "../rooms.rs"]
pub(crate) mod rooms;
#[path = "../run.rs"]
pub(crate) mod run;
#[path = "../storage.rs"]
pub(crate) mod storage;
