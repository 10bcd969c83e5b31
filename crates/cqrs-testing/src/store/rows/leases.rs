//! Who may send what, and until when.

use std::collections::BTreeMap;
use std::time::Duration;

use cqrs_core::{Deliver, Outgoing};
use cqrs_outbox::{GroupNo, LaterEvents, Lease, Ownership};
use futures_util::future;
use tokio::time::{self, Instant};

use crate::store::bench::{Bench, Checked, LONG, Owner, ensure, ensure_eq, event, fail, skip};
use crate::store::{Asked, Request, StoreUnderTest};

const NONE: [GroupNo; 0] = [];

fn higher(new: &[Lease], old: &[Lease]) -> Checked {
    for old in old {
        let new = new.iter().find(|new| new.group == old.group);
        ensure(new.is_some_and(|new| new.epoch > old.epoch), || {
            format!("the epoch did not rise with the change of the owner: {new:?} after {old:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn take<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let table = bench.open().await?;
    let mut relay = table.relay("a");
    let nothing = relay.beat(LONG, 0, Vec::new()).await?;
    ensure_eq("leases without asking for any", relay.owned(), NONE)?;
    ensure(nothing.groups > 0, || "there are no groups".to_owned())?;
    relay.beat(LONG, 1, Vec::new()).await?;
    ensure_eq("the number of leases after taking one", relay.leases.len(), 1)?;
    let first = relay.leases.clone();
    relay.beat(LONG, 1, Vec::new()).await?;
    ensure_eq("the number of leases after another", relay.leases.len(), nothing.groups.min(2))?;
    ensure(relay.leases.contains(&first[0]), || {
        format!("the lease {:?} became another one by a heartbeat: {:?}", first[0], relay.leases)
    })?;
    relay.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("the number of leases after taking all", relay.leases.len(), nothing.groups)?;
    let (lease, group) = (relay.leases[0], relay.leases[0].group);
    relay.beat(LONG, 0, vec![lease]).await?;
    ensure(!relay.owned().contains(&group), || format!("group {group} was given back and is still leased"))?;
    ensure_eq("the number of leases after giving one back", relay.leases.len(), nothing.groups - 1)?;

    // The same once more, late, when the relay has the group again.
    relay.beat(LONG, 1, Vec::new()).await?;
    let again = relay.leases.clone();
    higher(&again, &[lease])?;
    relay.beat(LONG, 0, vec![lease]).await?;
    ensure_eq("the leases after one of before was given back", &relay.leases, &again)
}

pub(super) async fn exclusive<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut one = bench.owned().await?;
    let mut two = one.table.relay("two");
    let before = one.leases.clone();
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the second relay has while the first has all", two.owned(), NONE)?;
    // Only the owner can give a group back.
    two.beat(LONG, usize::MAX, one.leases.clone()).await?;
    ensure_eq("what the second relay has after it released what it does not own", two.owned(), NONE)?;

    let group = before[0].group;
    one.beat(LONG, 0, vec![before[0]]).await?;
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the second relay has of what the first has given back", two.owned(), [group])?;
    higher(&two.leases, &before[..1])?;
    one.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the first relay still has", &one.leases, &before[1..])?;

    // A relay of the same name that was started anew has nothing of its former life.
    let mut again = one.table.relay("owner");
    again.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what a relay of the same name has", again.owned(), NONE)
}

pub(super) async fn race<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let table = bench.open().await?;
    for _ in 0..5 {
        let mut relays: Vec<Owner<S>> = (0..8).map(|nth| table.relay(&format!("relay {nth}"))).collect();
        let beats = relays.iter_mut().map(|relay| relay.beat(LONG, usize::MAX, Vec::new()));
        let mut groups = 0;
        for ownership in future::join_all(beats).await {
            groups = ownership?.groups;
        }
        let mut taken: Vec<GroupNo> = relays.iter().flat_map(Owner::owned).collect();
        let all = taken.len();
        taken.sort();
        taken.dedup();
        ensure(taken.len() == all, || format!("{} groups went to more than one relay", all - taken.len()))?;
        ensure_eq("the number of groups that were taken", all, groups)?;
        for relay in &relays {
            relay.leave().await?;
        }
    }
    Ok(())
}

pub(super) async fn renewal<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let lease = bench.settings.lease;
    // On a busy machine a heartbeat may come too late by itself; then nothing is known, and it is tried again.
    for _ in 0..10 {
        let table = bench.open().await?;
        let (mut one, mut two) = (table.relay("one"), table.relay("two"));
        let begun = Instant::now();
        one.beat(lease, usize::MAX, Vec::new()).await?;
        let before = one.leases.clone();
        time::sleep(lease * 6 / 10).await;
        let renewed = Instant::now();
        one.beat(lease, 0, Vec::new()).await?;
        let in_time = begun.elapsed() < lease;
        time::sleep(lease * 6 / 10).await;
        two.beat(lease, usize::MAX, Vec::new()).await?;
        if in_time && renewed.elapsed() < lease {
            ensure_eq("the renewed leases", &one.leases, &before)?;
            return ensure_eq("what a second relay has of them", two.owned(), NONE);
        }
    }
    fail("ten times in a row the machine was too slow to renew a lease in time (`Settings::lease`)")
}

pub(super) async fn expiry<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let lease = bench.settings.lease;
    let table = bench.open().await?;
    let (mut one, mut two) = (table.relay("one"), table.relay("two"));
    one.beat(lease, usize::MAX, Vec::new()).await?;
    let before = one.leases.clone();
    ensure(!before.is_empty(), || "no group was leased".to_owned())?;
    time::sleep(lease + lease / 10).await;
    // Without asking for it, an expired lease does not come back.
    one.beat(lease, 0, Vec::new()).await?;
    ensure_eq("what the first relay has after its leases expired", one.owned(), NONE)?;
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("the number of groups that the second relay took over", two.leases.len(), before.len())?;
    higher(&two.leases, &before)?;
    one.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the first relay has afterwards", one.owned(), NONE)?;

    // A relay that was late itself gets its groups as new ones.
    let mut late = bench.open().await?.relay("late");
    late.beat(lease, usize::MAX, Vec::new()).await?;
    let before = late.leases.clone();
    time::sleep(lease + lease / 10).await;
    late.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("the number of groups that a late relay took again", late.leases.len(), before.len())?;
    higher(&late.leases, &before)
}

pub(super) async fn clock<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let one = bench.owned().await?;
    let mut two = one.table.relay("two");
    two.beat(LONG * 6 / 10, usize::MAX, Vec::new()).await?;
    ensure_eq("what the second relay has of leases that end within two of its own", two.owned(), NONE)?;
    two.beat(LONG / 10, usize::MAX, Vec::new()).await?;
    ensure_eq("the number of leases that end too far ahead and were taken", two.leases.len(), one.groups)?;
    higher(&two.leases, &one.leases)
}

pub(super) async fn census<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let lease = bench.settings.lease;
    let table = bench.open().await?;
    let (mut one, mut two): (Owner<S>, Owner<S>) = (table.relay("one"), table.relay("two"));
    ensure_eq("relays with the first", one.beat(LONG, 1, Vec::new()).await?.relays, 1)?;
    ensure_eq("relays with the second, which has nothing", two.beat(LONG, 0, Vec::new()).await?.relays, 2)?;
    ensure_eq("relays as the first sees it", one.beat(LONG, 0, Vec::new()).await?.relays, 2)?;
    two.leave().await?;
    ensure_eq("relays after the second left", one.beat(LONG, 0, Vec::new()).await?.relays, 1)?;
    ensure_eq("relays when it comes back", two.beat(LONG, 0, Vec::new()).await?.relays, 2)?;
    time::sleep(lease + Duration::from_millis(50)).await;
    ensure_eq("relays after the second fell silent", one.beat(lease, 0, Vec::new()).await?.relays, 1)
}

/// What is due there, or was asked for, a relay would miss.
pub(super) async fn side_tables<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut owner = bench.owned().await?;
    owner.commit([event(Some("a"), "1"), event(Some("a"), "2")]).await?;
    let row = owner.find("1").await?;
    owner.park(&row, LONG).await?;
    let beaten = owner.beat(LONG, 0, Vec::new()).await?;
    ensure(!beaten.nothing_aside, || "a gate was closed, and nothing stands aside".to_owned())?;
    // Nothing of it is aside before the heartbeat that carries the request out.
    let mut owner = bench.owned().await?;
    owner.commit([event(Some("a"), "1")]).await?;
    let row = owner.find("1").await?;
    owner.bury(&row, LaterEvents::GoOn, "not readable").await?;
    let asked = bench.adapter.request(&owner.table.store, Request::Replay, row.event_id).await?;
    if asked == Asked::Accepted {
        let beaten = owner.beat(LONG, 0, Vec::new()).await?;
        ensure(!beaten.nothing_aside, || "a dead letter went back, and nothing stands aside".to_owned())?;
    }
    let mut owner = bench.owned().await?;
    let mut later = Outgoing::from(event(Some("a"), "later"));
    later.options.deliver = Some(Deliver::After(LONG));
    let Ok(_) = owner.table.add([later]).await else { return Ok(()) };
    let beaten = owner.beat(LONG, 0, Vec::new()).await?;
    ensure(!beaten.nothing_scheduled, || "an event is scheduled, and is not seen".to_owned())
}

pub(super) async fn leave<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let one = bench.owned().await?;
    let mut two = one.table.relay("two");
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the second relay has before the first leaves", two.owned(), NONE)?;
    two.leave().await?;
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("what the second relay has after it left itself", two.owned(), NONE)?;
    one.leave().await?;
    two.beat(LONG, usize::MAX, Vec::new()).await?;
    ensure_eq("the number of groups that the second relay has then", two.leases.len(), one.groups)?;
    higher(&two.leases, &one.leases)?;
    one.leave().await?;
    let before = two.leases.clone();
    two.beat(LONG, 0, Vec::new()).await?;
    ensure_eq("its leases after the first left once more", &two.leases, &before)
}

pub(super) async fn suspects<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let lease = bench.settings.lease;
    let table = bench.open().await?;
    let dirty = |ownership: &Ownership| ownership.dirty.clone();
    let (mut one, mut two) = (table.relay("one"), table.relay("two"));
    ensure_eq(
        "dirty groups at first",
        dirty(&one.beat(lease, usize::MAX, Vec::new()).await?),
        BTreeMap::new(),
    )?;
    one.record_suspects(&[7, 8]).await?;
    one.record_suspects(&[9, i64::MAX]).await?;
    two.beat(LONG, 0, Vec::new()).await?;
    two.record_suspects(&[5]).await?;
    time::sleep(lease + lease / 10).await;
    // For longer than a lease it was not seen.
    let begun = Instant::now();
    let taken = two.beat(lease, usize::MAX, Vec::new()).await?;
    let of_one: BTreeMap<_, _> = two.owned().into_iter().map(|group| (group, vec![9, i64::MAX])).collect();
    ensure(!of_one.is_empty(), || "nothing was taken over".to_owned())?;
    ensure_eq("what was left of the relay that died", dirty(&taken), of_one.clone())?;
    let again = two.beat(lease, 0, Vec::new()).await?;
    // Unless the machine was too slow to answer in time.
    if begun.elapsed() < lease {
        ensure_eq("the same in the next answer", dirty(&again), of_one)?;
    }

    // Its own lease lapses: nothing has ended, so nothing is held against anything for a second time.
    time::sleep(lease + lease / 10).await;
    let lapsed = two.beat(LONG, usize::MAX, Vec::new()).await?;
    let told: BTreeMap<_, _> = two.owned().into_iter().map(|group| (group, Vec::new())).collect();
    ensure_eq("the same after a lapse of its own", dirty(&lapsed), told)?;

    // A relay that leaves has sent all that it had to.
    two.leave().await?;
    let mut three = table.relay("three");
    let taken = three.beat(lease, usize::MAX, Vec::new()).await?;
    ensure_eq("dirty groups after one left", dirty(&taken), BTreeMap::new())?;

    // One that was late itself was not ended by what it was sending; one that had recorded nothing left nothing.
    three.record_suspects(&[11]).await?;
    time::sleep(lease + lease / 10).await;
    let late = three.beat(lease, usize::MAX, Vec::new()).await?;
    ensure_eq("dirty groups of one that was late itself", dirty(&late), BTreeMap::new())?;
    three.record_suspects(&[]).await?;
    time::sleep(lease + lease / 10).await;
    let mut four = table.relay("four");
    let taken = four.beat(LONG, usize::MAX, Vec::new()).await?;
    let nothing: BTreeMap<_, _> = four.owned().into_iter().map(|group| (group, Vec::new())).collect();
    ensure_eq("what was left of one that was sending nothing", dirty(&taken), nothing)
}

pub(super) async fn suspended<S: StoreUnderTest>(bench: &Bench<'_, S>) -> Checked {
    let mut one = bench.open().await?.relay("one");
    ensure(!one.record_suspended(&["rooms"]).await?, || {
        "recorded of a relay that was never there".to_owned()
    })?;
    one.beat(LONG, 0, Vec::new()).await?;
    if !one.record_suspended(&["rooms", "halls"]).await? {
        return skip("this store does not record which topics are suspended");
    }
    for topics in [&["rooms", "halls"][..], &[], &[]] {
        ensure(one.record_suspended(topics).await?, || format!("{topics:?} were not recorded"))?;
    }
    one.leave().await?;
    ensure(!one.record_suspended(&["rooms"]).await?, || "recorded of a relay that has left".to_owned())
}
