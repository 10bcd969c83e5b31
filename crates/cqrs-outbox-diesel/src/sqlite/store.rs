use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cqrs_outbox::{
    Confirmed, Fenced, GroupNo, Heartbeat, Lane, Lease, OutboxRow, OutboxStore, Ownership, Place,
    ReadRequest, Rejection, RelayId, StoreError, Verdict,
};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{Connection, Exists, Sqlite, sql};
use crate::error::store_error;
use crate::outbox::{Outbox, commit, give_up};
use crate::record::Record;

#[derive(QueryableByName)]
struct SqliteRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    event_name: String,
    #[diesel(sql_type = Text)]
    event_kind: String,
    #[diesel(sql_type = Integer)]
    event_version: i32,
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = Nullable<Binary>)]
    message_key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    headers: Option<String>,
    #[diesel(sql_type = Text)]
    content_type: String,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    payload_text: Option<String>,
    #[diesel(sql_type = Text)]
    occurred_at: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    size: i32,
    #[diesel(sql_type = Integer)]
    group_no: i32,
    #[diesel(sql_type = Bool)]
    gated: bool,
}

impl SqliteRow {
    fn into_row(self, free: Place) -> OutboxRow {
        Record {
            id: self.id,
            // The table takes nothing else.
            event_id: Uuid::try_parse(&self.event_id.replace('-', "")).unwrap_or_default(),
            event_name: self.event_name,
            event_kind: self.event_kind,
            event_version: self.event_version,
            topic: self.topic,
            message_key: self.message_key,
            headers: self.headers,
            content_type: self.content_type,
            payload: self.payload,
            payload_text: self.payload_text,
            occurred_at: DateTime::parse_from_rfc3339(&self.occurred_at)
                .ok()
                .map(|at| at.with_timezone(&Utc)),
            attempts: self.attempts,
            size: self.size,
            group: self.group_no,
            place: if self.gated { Place::Gated } else { free },
        }
        .into_row()
    }
}

#[derive(QueryableByName)]
struct LeaseRow {
    #[diesel(sql_type = Integer)]
    group_no: i32,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

#[derive(QueryableByName)]
struct Census {
    #[diesel(sql_type = BigInt)]
    all_groups: i64,
    #[diesel(sql_type = BigInt)]
    relays: i64,
    #[diesel(sql_type = Bool)]
    hold: bool,
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Numbers as JSON, for `json_each`.
fn array<T: std::fmt::Display>(numbers: &[T]) -> String {
    let numbers: Vec<String> = numbers.iter().map(T::to_string).collect();
    format!("[{}]", numbers.join(","))
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

async fn exists(conn: &mut Connection, query: &'static str, lane: &Lane) -> QueryResult<bool> {
    let exists: Exists = sql_query(query).bind::<Binary, _>(lane.as_bytes()).get_result(conn).await?;
    Ok(exists.found)
}

/// Whether the lease is still of this epoch. The transaction is immediate: nobody else writes.
async fn fence(conn: &mut Connection, lease: Lease) -> QueryResult<bool> {
    let exists: Exists = sql_query(sql::FENCE)
        .bind::<Integer, _>(lease.group.0)
        .bind::<BigInt, _>(lease.epoch)
        .get_result(conn)
        .await?;
    Ok(exists.found)
}

impl Outbox<Sqlite> {
    async fn read_rows(
        &self,
        query: &'static str,
        request: &ReadRequest,
        free: Place,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let groups: Vec<i32> = request.leases.iter().map(|lease| lease.group.0).collect();
        let mut guard = self.acquire_for_call().await?;
        let rows: Vec<SqliteRow> = sql_query(query)
            .bind::<Text, _>(array(&groups))
            .bind::<Text, _>(array(&request.known))
            .bind::<BigInt, _>(limit(request.limit))
            .bind::<BigInt, _>(limit(request.max_bytes))
            .load(&mut guard)
            .await
            .map_err(store_error)?;
        guard.give_back();
        Ok(rows.into_iter().map(|row| row.into_row(free)).collect())
    }
}

async fn carry_out_requests(conn: &mut Connection) -> QueryResult<()> {
    let open: Exists = sql_query(sql::OPEN_REQUESTS).get_result(conn).await?;
    if open.found {
        for query in sql::REPLAY.into_iter().chain(sql::DISCARD).chain([sql::REQUESTS_DONE]) {
            sql_query(query).execute(conn).await?;
        }
    }
    Ok(())
}

async fn beat(conn: &mut Connection, relay: &RelayId, beat: &Heartbeat) -> QueryResult<Ownership> {
    let (me, lease) = (relay.incarnation.to_string(), seconds(beat.lease));
    sql_query(sql::SEEN)
        .bind::<Text, _>(&me)
        .bind::<Text, _>(&relay.name)
        .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
        .execute(conn)
        .await?;
    sql_query(sql::FORGET_RELAYS).bind::<Double, _>(lease).execute(conn).await?;
    if !beat.release.is_empty() {
        let release: Vec<String> =
            beat.release.iter().map(|lease| format!("[{},{}]", lease.group, lease.epoch)).collect();
        sql_query(sql::RELEASE).bind::<Text, _>(&me).bind::<Text, _>(array(&release)).execute(conn).await?;
    }
    sql_query(sql::RENEW).bind::<Text, _>(&me).bind::<Double, _>(lease).execute(conn).await?;
    if beat.take > 0 {
        sql_query(sql::TAKE)
            .bind::<Text, _>(&me)
            .bind::<Text, _>(&relay.name)
            .bind::<Double, _>(lease)
            .bind::<BigInt, _>(limit(beat.take))
            .execute(conn)
            .await?;
    }
    let leases: Vec<LeaseRow> = sql_query(sql::LEASES).bind::<Text, _>(&me).load(conn).await?;
    if !leases.is_empty() {
        carry_out_requests(conn).await?;
        sql_query(sql::SWEEP_GATES).execute(conn).await?;
    }
    let census: Census = sql_query(sql::CENSUS).bind::<Double, _>(lease).get_result(conn).await?;
    Ok(Ownership {
        leases: leases
            .into_iter()
            .map(|lease| Lease { group: GroupNo(lease.group_no), epoch: lease.epoch })
            .collect(),
        groups: usize::try_from(census.all_groups).unwrap_or(0),
        relays: usize::try_from(census.relays).unwrap_or(1),
        hold: census.hold,
    })
}

async fn reject(conn: &mut Connection, rejection: &Rejection) -> QueryResult<()> {
    let (steps, closed_for) = match rejection.verdict {
        Verdict::Park { retry_in } => {
            ([(sql::PARK_HOT, Some(sql::DELETE_HOT)), (sql::PARK_AGAIN, None)], Some(Some(seconds(retry_in))))
        }
        Verdict::Bury { lane_waits } => {
            let steps =
                [(sql::BURY_HOT, Some(sql::DELETE_HOT)), (sql::BURY_PARKED, Some(sql::DELETE_PARKED))];
            (steps, lane_waits.then_some(None))
        }
    };
    let attempts = i32::try_from(rejection.attempts).unwrap_or(i32::MAX);
    let mut moved = 0;
    for (query, delete) in steps {
        if moved == 0 {
            moved = sql_query(query)
                .bind::<BigInt, _>(rejection.id)
                .bind::<Binary, _>(rejection.lane.as_bytes())
                .bind::<Text, _>(&rejection.error)
                .bind::<Integer, _>(attempts)
                .execute(conn)
                .await?;
            if let Some(delete) = delete.filter(|_| moved > 0) {
                sql_query(delete).bind::<BigInt, _>(rejection.id).execute(conn).await?;
            }
        }
    }
    if let Some(seconds) = closed_for.filter(|_| moved > 0) {
        sql_query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<Double>, _>(seconds)
            .bind::<Text, _>(&rejection.error)
            .execute(conn)
            .await?;
    }
    Ok(())
}

#[async_trait]
impl OutboxStore for Outbox<Sqlite> {
    async fn check(&self) -> Result<(), StoreError> {
        self.try_check_schema().await
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        let mut tx = self.begin_write().await?;
        let ownership = beat(&mut tx, relay, heartbeat).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(ownership)
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.read_rows(sql::READ, request, Place::Hot).await
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.read_rows(sql::READ_PARKED, request, Place::Parked).await
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        let (parked, hot): (Vec<_>, Vec<_>) =
            confirmed.iter().partition(|confirmed| confirmed.place() == Place::Parked);
        let mut tx = self.begin_write().await?;
        for (query, rows) in [(sql::SETTLE_HOT, hot), (sql::SETTLE_PARKED, parked)] {
            if !rows.is_empty() {
                let ids: Vec<i64> = rows.into_iter().map(Confirmed::id).collect();
                sql_query(query).bind::<Text, _>(array(&ids)).execute(&mut tx).await.map_err(store_error)?;
            }
        }
        commit(tx).await
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        let mut tx = self.begin_write().await?;
        if !fence(&mut tx, rejection.lease).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::LeaseLost);
        }
        reject(&mut tx, rejection).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(()))
    }

    async fn set_aside(&self, lease: Lease, lane: &Lane, ids: &[i64]) -> Result<Fenced<bool>, StoreError> {
        let mut tx = self.begin_write().await?;
        if !fence(&mut tx, lease).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::LeaseLost);
        }
        if !exists(&mut tx, sql::GATE_CLOSED, lane).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::Done(false));
        }
        sql_query(sql::SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(&mut tx)
            .await
            .map_err(store_error)?;
        for id in ids {
            sql_query(sql::DELETE_HOT).bind::<BigInt, _>(id).execute(&mut tx).await.map_err(store_error)?;
        }
        commit(tx).await?;
        Ok(Fenced::Done(true))
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        let mut tx = self.begin_write().await?;
        if !fence(&mut tx, lease).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::LeaseLost);
        }
        if exists(&mut tx, sql::PARKED_LEFT, lane).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::Done(false));
        }
        sql_query(sql::OPEN_GATE)
            .bind::<Binary, _>(lane.as_bytes())
            .execute(&mut tx)
            .await
            .map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(true))
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        let mut tx = self.begin_write().await?;
        for query in [sql::LEAVE_GROUPS, sql::LEAVE] {
            sql_query(query)
                .bind::<Text, _>(relay.incarnation.to_string())
                .execute(&mut tx)
                .await
                .map_err(store_error)?;
        }
        commit(tx).await
    }

    async fn changed(&self) {
        self.woken().await;
    }
}
