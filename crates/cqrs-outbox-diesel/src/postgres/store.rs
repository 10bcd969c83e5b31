use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cqrs_outbox::{
    Confirmed, Fenced, GroupNo, Heartbeat, Lane, Lease, OutboxRow, OutboxStore, Ownership, Place,
    ReadRequest, Rejection, RelayId, StoreError, Verdict,
};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::{Exists, Pg, sql};
use crate::error::store_error;
use crate::outbox::{Outbox, commit, give_up};
use crate::record::Record;
use crate::tx::Tx;

#[derive(QueryableByName)]
struct PgRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
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
    #[diesel(sql_type = Timestamptz)]
    occurred_at: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    size: i32,
    #[diesel(sql_type = Integer)]
    group_no: i32,
    #[diesel(sql_type = Bool)]
    gated: bool,
}

impl PgRow {
    fn into_row(self, free: Place) -> OutboxRow {
        Record {
            id: self.id,
            event_id: self.event_id,
            event_name: self.event_name,
            event_kind: self.event_kind,
            event_version: self.event_version,
            topic: self.topic,
            message_key: self.message_key,
            headers: self.headers,
            content_type: self.content_type,
            payload: self.payload,
            payload_text: self.payload_text,
            occurred_at: Some(self.occurred_at),
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

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

async fn exists(conn: &mut AsyncPgConnection, query: &'static str, lane: &Lane) -> QueryResult<bool> {
    let exists: Exists = sql_query(query).bind::<Binary, _>(lane.as_bytes()).get_result(conn).await?;
    Ok(exists.found)
}

/// Locks the lease's row; `false` if it is no longer of this epoch.
async fn fence(conn: &mut AsyncPgConnection, lease: Lease) -> QueryResult<bool> {
    let row: Option<Exists> = sql_query(sql::FENCE)
        .bind::<Integer, _>(lease.group.0)
        .bind::<BigInt, _>(lease.epoch)
        .get_result(conn)
        .await
        .optional()?;
    Ok(row.is_some())
}

impl Outbox<Pg> {
    /// A transaction of the store's own.
    async fn begin_short(&self) -> Result<Tx<Pg>, StoreError> {
        let mut tx = self.begin_write().await?;
        tx.batch_execute(sql::SHORT_TRANSACTION).await.map_err(store_error)?;
        Ok(tx)
    }

    async fn read_rows(
        &self,
        query: &'static str,
        request: &ReadRequest,
        free: Place,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let groups: Vec<i32> = request.leases.iter().map(|lease| lease.group.0).collect();
        let mut guard = self.acquire_for_call().await?;
        let rows: Vec<PgRow> = sql_query(query)
            .bind::<Array<Integer>, _>(groups)
            .bind::<Array<BigInt>, _>(&request.known)
            .bind::<BigInt, _>(limit(request.limit))
            .bind::<BigInt, _>(limit(request.max_bytes))
            .load(&mut guard)
            .await
            .map_err(store_error)?;
        guard.give_back();
        Ok(rows.into_iter().map(|row| row.into_row(free)).collect())
    }
}

async fn carry_out_requests(conn: &mut AsyncPgConnection, groups: &[i32]) -> QueryResult<()> {
    let open: Exists = sql_query(sql::OPEN_REQUESTS).get_result(conn).await?;
    if open.found {
        sql_query(sql::REPLAY).bind::<Array<Integer>, _>(groups).execute(conn).await?;
        sql_query(sql::DISCARD).bind::<Array<Integer>, _>(groups).execute(conn).await?;
        sql_query(sql::REQUESTS_DONE).execute(conn).await?;
    }
    Ok(())
}

async fn beat(conn: &mut AsyncPgConnection, relay: &RelayId, beat: &Heartbeat) -> QueryResult<Ownership> {
    let (me, lease) = (relay.incarnation, seconds(beat.lease));
    sql_query(sql::SEEN)
        .bind::<SqlUuid, _>(me)
        .bind::<Text, _>(&relay.name)
        .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
        .execute(conn)
        .await?;
    sql_query(sql::FORGET_RELAYS).bind::<Double, _>(lease).execute(conn).await?;
    if !beat.release.is_empty() {
        let (groups, epochs): (Vec<i32>, Vec<i64>) =
            beat.release.iter().map(|lease| (lease.group.0, lease.epoch)).unzip();
        sql_query(sql::RELEASE)
            .bind::<SqlUuid, _>(me)
            .bind::<Array<Integer>, _>(groups)
            .bind::<Array<BigInt>, _>(epochs)
            .execute(conn)
            .await?;
    }
    sql_query(sql::RENEW).bind::<SqlUuid, _>(me).bind::<Double, _>(lease).execute(conn).await?;
    if beat.take > 0 {
        sql_query(sql::TAKE)
            .bind::<SqlUuid, _>(me)
            .bind::<Text, _>(&relay.name)
            .bind::<Double, _>(lease)
            .bind::<BigInt, _>(limit(beat.take))
            .execute(conn)
            .await?;
    }
    let leases: Vec<LeaseRow> = sql_query(sql::LEASES).bind::<SqlUuid, _>(me).load(conn).await?;
    let groups: Vec<i32> = leases.iter().map(|lease| lease.group_no).collect();
    carry_out_requests(conn, &groups).await?;
    sql_query(sql::SWEEP_GATES).bind::<Array<Integer>, _>(groups).execute(conn).await?;
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

async fn reject(conn: &mut AsyncPgConnection, rejection: &Rejection) -> QueryResult<()> {
    let (hot, again, closed_for) = match rejection.verdict {
        Verdict::Park { retry_in } => (sql::PARK_HOT, sql::PARK_AGAIN, Some(Some(seconds(retry_in)))),
        Verdict::Bury { lane_waits } => (sql::BURY_HOT, sql::BURY_PARKED, lane_waits.then_some(None)),
    };
    let attempts = i32::try_from(rejection.attempts).unwrap_or(i32::MAX);
    let mut moved = 0;
    for query in [hot, again] {
        if moved == 0 {
            moved = sql_query(query)
                .bind::<BigInt, _>(rejection.id)
                .bind::<Binary, _>(rejection.lane.as_bytes())
                .bind::<Text, _>(&rejection.error)
                .bind::<Integer, _>(attempts)
                .execute(conn)
                .await?;
        }
    }
    if let Some(seconds) = closed_for.filter(|_| moved > 0) {
        sql_query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<BigInt, _>(rejection.id)
            .bind::<Nullable<Double>, _>(seconds)
            .bind::<Text, _>(&rejection.error)
            .execute(conn)
            .await?;
    }
    Ok(())
}

#[async_trait]
impl OutboxStore for Outbox<Pg> {
    async fn check(&self) -> Result<(), StoreError> {
        self.try_check_schema().await
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        let mut tx = self.begin_short().await?;
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
        let mut guard = self.acquire_for_call().await?;
        for (query, rows) in [(sql::SETTLE_HOT, hot), (sql::SETTLE_PARKED, parked)] {
            if !rows.is_empty() {
                let ids: Vec<i64> = rows.into_iter().map(Confirmed::id).collect();
                sql_query(query)
                    .bind::<Array<BigInt>, _>(ids)
                    .execute(&mut guard)
                    .await
                    .map_err(store_error)?;
            }
        }
        guard.give_back();
        Ok(())
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        let mut tx = self.begin_short().await?;
        if !fence(&mut tx, rejection.lease).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::LeaseLost);
        }
        reject(&mut tx, rejection).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(()))
    }

    async fn set_aside(&self, lease: Lease, lane: &Lane, ids: &[i64]) -> Result<Fenced<bool>, StoreError> {
        let mut tx = self.begin_short().await?;
        if !fence(&mut tx, lease).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::LeaseLost);
        }
        if !exists(&mut tx, sql::GATE_CLOSED, lane).await.map_err(store_error)? {
            give_up(tx).await;
            return Ok(Fenced::Done(false));
        }
        sql_query(sql::SET_ASIDE)
            .bind::<Array<BigInt>, _>(ids)
            .bind::<Binary, _>(lane.as_bytes())
            .execute(&mut tx)
            .await
            .map_err(store_error)?;
        commit(tx).await?;
        Ok(Fenced::Done(true))
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        let mut tx = self.begin_short().await?;
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
        let mut tx = self.begin_short().await?;
        for query in [sql::LEAVE_GROUPS, sql::LEAVE] {
            sql_query(query)
                .bind::<SqlUuid, _>(relay.incarnation)
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
