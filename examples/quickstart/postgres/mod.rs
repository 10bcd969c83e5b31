//! The example on PostgreSQL: the same files as on the other databases, with another `Db`.

pub(crate) use cqrs::sql::Pg as Db;

pub(crate) type Connection = <Db as cqrs::sql::Backend>::Connection;

#[path = "../attendance.rs"]
pub(crate) mod attendance;
#[path = "../audit.rs"]
pub(crate) mod audit;
#[path = "../server.rs"]
pub(crate) mod database;
pub(crate) mod dialect;
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
