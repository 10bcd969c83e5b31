//! What `use cqrs::*` brings into scope hides no crate that a user of it has beside it. That it compiles is the test.
#![allow(unused_imports)]

use cqrs::*;
use diesel::sql_query;
use diesel_async::RunQueryDsl;
use serde::Serialize;
use tokio::time;
use uuid::Uuid;

#[test]
fn all_of_it_can_be_used_beside_the_crates_below() {
    assert!(std::any::type_name::<sql::Sqlite>().ends_with("Sqlite"));
}
