//! What a read brings, and what settling takes away.

use std::collections::BTreeSet;
use std::time::Duration;

use cqrs_outbox::{Fenced, OutboxRow, ReadRequest};

use crate::store::StoreUnderTest;
use crate::store::bench::{Bench, Checked, ensure, ensure_eq, event, labels};

fn ids(rows: &[OutboxRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

pub(super) async fn order<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let names: Vec<String> = (0..30).map(|nth| nth.to_string()).collect();
    for some in names.chunks(10) {
        owner
            .commit(
                some.iter()
                    .enumerate()
                    .map(|(nth, name)| event(Some(["a", "b", "c", "d", "e"][nth % 5]), name)),
            )
            .await?;
    }
    let rows = owner.read().await?;
    ensure_eq("all rows", &labels(&rows), &names)?;
    let (known, others): (Vec<i64>, Vec<i64>) = ids(&rows).into_iter().partition(|id| id % 2 == 0);
    ensure_eq("those that are not known", ids(&owner.read_as(&owner.request(&known)).await?), others)?;
    ensure_eq("with all of them known", ids(&owner.read_as(&owner.request(&ids(&rows))).await?), [0; 0])?;
    let gone = [rows[0].id - 1, rows[29].id + 1];
    ensure_eq("with others known", labels(&owner.read_as(&owner.request(&gone)).await?), names)
}

pub(super) async fn limits<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let payload = "x".repeat(1_000);
    owner.commit((0..10).map(|nth| event(Some(&nth.to_string()), &payload))).await?;
    let rows = owner.read().await?;
    ensure(rows.len() == 10, || format!("{} of 10 rows were read", rows.len()))?;
    ensure(rows.iter().all(|row| row.size >= 1_001), || {
        "a row says that it is smaller than its payload and key".to_owned()
    })?;
    let all = ids(&rows);
    let size = |count: usize| rows.iter().take(count).map(|row| row.size).sum::<usize>();
    let request = owner.request(&[]);

    for limit in [1, 3, 10] {
        let read = owner.read_as(&ReadRequest { limit, ..request.clone() }).await?;
        ensure_eq("the first rows", ids(&read), &all[..limit])?;
    }
    for (max_bytes, count) in [(1, 1), (size(1), 1), (size(2) - 1, 1), (size(2), 2), (size(5) + 1, 5)] {
        let read = owner.read_as(&ReadRequest { max_bytes, ..request.clone() }).await?;
        ensure_eq(&format!("the first {max_bytes} bytes"), ids(&read), &all[..count])?;
    }
    let next = ReadRequest { known: all[..3].to_vec(), limit: 2, ..request };
    ensure_eq("the next two", ids(&owner.read_as(&next).await?), &all[3..5])?;

    // Of one group only, whatever a store asks of each.
    owner.commit((0..50).map(|_| event(Some("hot"), "."))).await?;
    let hot: Vec<i64> = ids(&owner.read().await?).into_iter().filter(|id| !all.contains(id)).collect();
    let request = ReadRequest { limit: 40, ..owner.request(&all) };
    ensure_eq("the rows of one key", ids(&owner.read_as(&request).await?), &hot[..40])
}

pub(super) async fn groups<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    // Two of each, and keys enough that most groups have some.
    let names: Vec<String> = (0..100).map(|nth| format!("room {nth}")).collect();
    for half in ["one", "two"] {
        owner.commit(names.iter().map(|name| event(Some(name), half))).await?;
    }
    let rows = owner.read().await?;
    ensure(rows.len() == 200, || format!("{} of 200 rows were read", rows.len()))?;
    for row in &rows {
        let other = rows.iter().find(|other| other.lane == row.lane && other.id != row.id);
        ensure(other.is_some_and(|other| other.group == row.group), || {
            format!("the rows of {:?} are not of one lane and group", row.message.key)
        })?;
    }
    let nothing = ReadRequest { leases: Vec::new(), ..owner.request(&[]) };
    ensure_eq("read without a lease", ids(&owner.read_as(&nothing).await?), [0; 0])?;
    let mut read = BTreeSet::new();
    for lease in &owner.leases {
        let request = ReadRequest { leases: vec![*lease], ..owner.request(&[]) };
        let some = owner.read_as(&request).await?;
        ensure(some.iter().all(|row| row.group == lease.group), || {
            format!("rows of other groups were read with a lease of group {} alone", lease.group)
        })?;
        read.extend(ids(&some));
    }
    ensure_eq("read group by group", read.into_iter().collect::<Vec<_>>(), ids(&rows))
}

pub(super) async fn settle<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    let names = [("a", "a"), ("b", "b"), ("c", "c"), ("b", "b, again")];
    owner.commit(names.map(|(key, name)| event(Some(key), name))).await?;
    owner.commit([event(Some("p"), "p"), event(Some("q"), "q")]).await?;
    for name in ["p", "q"] {
        owner.park(&owner.find(name).await?, Duration::ZERO).await?;
    }
    let (hot, parked) = (owner.read().await?, owner.parked().await?);
    ensure_eq("the hot rows", labels(&hot), ["a", "b", "c", "b, again"])?;
    ensure_eq("the parked rows", labels(&parked), ["p", "q"])?;
    let confirmed = vec![hot[1].clone(), parked[0].clone()];
    for time in ["once", "twice"] {
        owner.settle(confirmed.clone()).await?;
        ensure_eq(
            &format!("the hot rows, settled {time}"),
            labels(&owner.read().await?),
            ["a", "c", "b, again"],
        )?;
        ensure_eq(&format!("the parked rows, settled {time}"), labels(&owner.parked().await?), ["q"])?;
    }
    owner.settle(Vec::new()).await?;
    // It is right whoever owns the group now.
    owner.leave().await?;
    let other = owner.table.owner("other").await?;
    owner.settle(vec![hot[0].clone()]).await?;
    ensure_eq("the hot rows, settled by the last owner", labels(&other.read().await?), ["c", "b, again"])
}

/// As by a call that its relay took for failed, and that was carried out all the same.
pub(super) async fn settle_moved<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let owner = bench.owned().await?;
    owner.commit([event(Some("a"), "a1"), event(Some("a"), "a2"), event(Some("a"), "a3")]).await?;
    let rows = owner.read().await?;
    owner.park(&rows[0], Duration::ZERO).await?;
    let answer = owner.set_aside(owner.lease_of(&rows[1])?, &rows[1].lane, &[rows[1].id]).await?;
    ensure_eq("setting aside", answer, Fenced::Done(true))?;
    owner.settle(vec![rows[1].clone(), rows[2].clone()]).await?;
    ensure_eq("the hot rows", labels(&owner.read().await?), [""; 0])?;
    ensure_eq("the rows aside", labels(&owner.parked().await?), ["a1"])
}
