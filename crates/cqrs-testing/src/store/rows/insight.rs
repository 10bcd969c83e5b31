//! What operators are told.

use std::time::Duration;

use tokio::time::sleep;

use crate::store::bench::{Bench, Checked, LONG, Table, ensure, ensure_eq, event, fail, skip};
use crate::store::{Oldest, StoreUnderTest};

/// Far longer than a clock's tick.
const MOMENT: Duration = Duration::from_millis(30);

/// By which the clock of a database and ours may be apart over such a time.
const TICK: Duration = Duration::from_millis(5);

/// The age of the oldest event; that there is one is what was asked for.
pub(super) async fn age<S: StoreUnderTest>(
    bench: &Bench<'_, S>,
    table: &Table<S>,
) -> Checked<Option<Duration>> {
    match bench.adapter.oldest_waiting(&table.store).await? {
        Oldest::Waits(age) => Ok(Some(age)),
        Oldest::Nothing => fail("an event waits, and nothing is told to"),
        Oldest::Unsupported => Ok(None),
    }
}

pub(super) async fn oldest<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let oldest =
        async || Ok::<_, crate::store::bench::Stop>(bench.adapter.oldest_waiting(&owner.table.store).await?);
    match oldest().await? {
        Oldest::Unsupported => return skip("this store does not tell (`StoreUnderTest::oldest_waiting`)"),
        told => ensure_eq("the oldest of none", told, Oldest::Nothing)?,
    }
    owner.commit([event(Some("a"), "first")]).await?;
    sleep(MOMENT + TICK).await;
    let first = age(bench, &owner.table).await?;
    ensure(first >= Some(MOMENT), || format!("after {MOMENT:?} the age is {first:?}"))?;
    owner.commit([event(Some("b"), "second")]).await?;
    sleep(MOMENT + TICK).await;
    let older = age(bench, &owner.table).await?;
    ensure(older >= first.map(|first| first + MOMENT), || {
        format!("the age was {first:?}, and is {older:?} after {MOMENT:?}")
    })?;
    // Aside it waits on.
    owner.park(&owner.find("first").await?, LONG).await?;
    let aside = age(bench, &owner.table).await?;
    ensure(aside.map(|aside| aside + TICK) >= older, || {
        format!("the age was {older:?}, and is {aside:?} where it stands aside")
    })?;
    owner.settle(owner.read().await?).await?;
    ensure(age(bench, &owner.table).await?.map(|age| age + TICK) >= aside, || {
        "the one aside does not count".to_owned()
    })?;

    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "only")]).await?;
    sleep(MOMENT).await;
    owner.settle(owner.read().await?).await?;
    ensure_eq(
        "the oldest when all are sent",
        bench.adapter.oldest_waiting(&owner.table.store).await?,
        Oldest::Nothing,
    )
}
