//! The engine by hand: what it does after what it was told.

use std::time::Duration;

use bytes::Bytes;
use cqrs_core::Message;
use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::engine::{Action, Engine, Failed, Input, PublishFailure};
use cqrs_outbox::{
    Fenced, GroupNo, Heartbeat, Lane, LaterEvents, Lease, OutboxRow, Ownership, Place, Promoted, ReadRequest,
    Rejection, RelaySettings, Unordered, Verdict,
};
use uuid::Uuid;

const GROUP: GroupNo = GroupNo(0);
const NONE: [i64; 0] = [];

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn settings() -> RelaySettings {
    let mut settings = RelaySettings::default();
    settings.lease = ms(1_000);
    settings.lease_margin = ms(200);
    settings.heartbeat_interval = ms(300);
    settings.publish_timeout = ms(600);
    settings.settle_linger = Duration::ZERO;
    settings.backoff = ms(100);
    settings.max_backoff = ms(10_000);
    settings.max_attempts = 2;
    settings
}

fn lease(group: i32, epoch: i64) -> Lease {
    Lease { group: GroupNo(group), epoch }
}

fn ownership(leases: &[Lease], groups: usize, relays: usize) -> Input {
    Input::Heartbeat(Ok(Ownership { leases: leases.to_vec(), groups, relays, ..Ownership::default() }))
}

fn row(id: i64, key: &str, topic: &str, place: Place) -> OutboxRow {
    let event_id = Uuid::from_u128(id as u128);
    let mut message = Message::new(topic, ".");
    message.key = Some(Bytes::copy_from_slice(key.as_bytes()));
    let lane = Lane::of(Some(key.as_bytes()), event_id);
    OutboxRow {
        id,
        event_id,
        group: GROUP,
        lane,
        attempts: 0,
        size: message.size(),
        place,
        defect: None,
        message,
    }
}

fn hot(id: i64, key: &str) -> OutboxRow {
    row(id, key, "t", Place::Hot)
}

/// An engine whose actions wait here until the test has dealt with them.
struct Desk {
    engine: Engine,
    now: Duration,
    open: Vec<Action>,
    /// Nothing is scheduled, and that is said at once.
    nothing_scheduled: bool,
    /// What the store was told of suspects. It knows at once, if it does.
    suspects: Vec<Vec<i64>>,
    records_suspects: bool,
}

impl Desk {
    fn new(settings: RelaySettings) -> Self {
        let mut desk = Self {
            engine: Engine::new(settings),
            now: Duration::ZERO,
            open: Vec::new(),
            nothing_scheduled: true,
            suspects: Vec::new(),
            records_suspects: true,
        };
        desk.poll();
        desk
    }

    /// It owns the one group that there is, and has the window wide open.
    fn owner(settings: RelaySettings) -> Self {
        let mut desk = Self::new(settings);
        desk.heartbeat();
        desk.hear(ownership(&[lease(0, 1)], 1, 1));
        // The first publish is a probe; five more receipts open the window to 64.
        for id in 1..=6 {
            desk.read(vec![hot(id, &format!("warm {id}"))]);
            assert_eq!(desk.published(), [id]);
            desk.receipt(id);
            desk.settled();
        }
        desk
    }

    fn poll(&mut self) {
        while let Some(action) = self.engine.poll(self.now) {
            match action {
                Action::Promote { .. } if self.nothing_scheduled => {
                    self.engine.step(self.now, Input::Promoted(Ok(Promoted::default())));
                }
                Action::RecordSuspects(ids) => {
                    self.suspects.push(ids);
                    if self.records_suspects {
                        self.engine.step(self.now, Input::SuspectsRecorded(Ok(())));
                    }
                }
                action => self.open.push(action),
            }
        }
        assert!(self.engine.deadline().is_none_or(|at| at > self.now), "it would spin");
    }

    fn hear(&mut self, input: Input) {
        self.engine.step(self.now, input);
        self.poll();
    }

    fn wait(&mut self, millis: u64) {
        self.now += ms(millis);
        self.poll();
    }

    fn take<T>(&mut self, what: impl Fn(&Action) -> Option<T>) -> Option<T> {
        let at = self.open.iter().position(|action| what(action).is_some())?;
        what(&self.open.remove(at))
    }

    fn heartbeat(&mut self) -> Heartbeat {
        self.take(|action| match action {
            Action::Heartbeat(heartbeat) => Some(heartbeat.clone()),
            _ => None,
        })
        .expect("a heartbeat is due")
    }

    fn beats(&mut self, leases: &[Lease]) {
        self.heartbeat();
        self.hear(ownership(leases, 1, 1));
    }

    fn reading(&mut self) -> Option<ReadRequest> {
        self.take(|action| match action {
            Action::Read(request) => Some(request.clone()),
            _ => None,
        })
    }

    fn reading_parked(&mut self) -> Option<ReadRequest> {
        self.take(|action| match action {
            Action::ReadParked(request) => Some(request.clone()),
            _ => None,
        })
    }

    /// Answers a read with these rows; side tables are empty.
    fn read(&mut self, rows: Vec<OutboxRow>) {
        self.hear(Input::Woken);
        while self.reading_parked().is_some() {
            self.hear(Input::ReadParked(Ok(Vec::new())));
        }
        self.reading().expect("it reads");
        self.hear(Input::Read(Ok(rows)));
    }

    /// Answers a look into the side tables, with nothing new in the hot table.
    fn read_parked(&mut self, rows: Vec<OutboxRow>) {
        if self.reading().is_some() {
            self.hear(Input::Read(Ok(Vec::new())));
        }
        self.reading_parked().expect("it looks into the side tables");
        self.hear(Input::ReadParked(Ok(rows)));
    }

    /// Answers what it reads now with nothing.
    fn read_nothing(&mut self) {
        loop {
            if self.reading().is_some() {
                self.hear(Input::Read(Ok(Vec::new())));
            } else if self.reading_parked().is_some() {
                self.hear(Input::ReadParked(Ok(Vec::new())));
            } else {
                return;
            }
        }
    }

    fn promoting(&mut self) -> Option<Vec<Lease>> {
        self.take(|action| match action {
            Action::Promote { leases, .. } => Some(leases.clone()),
            _ => None,
        })
    }

    fn promoted(&mut self, moved: usize, next_due: Option<u64>) {
        self.hear(Input::Promoted(Ok(Promoted { moved, next_due: next_due.map(ms) })));
    }

    fn published(&mut self) -> Vec<i64> {
        let mut ids = Vec::new();
        while let Some(id) = self.take(|action| match action {
            Action::Publish(row) | Action::PublishInSession { row, .. } => Some(row.id),
            _ => None,
        }) {
            ids.push(id);
        }
        ids
    }

    fn receipt(&mut self, id: i64) {
        self.hear(Input::Published { id, outcome: Ok(Receipt::new()) });
    }

    fn fail(&mut self, id: i64, class: ErrorClass) {
        let failure = PublishFailure { class, error: "no".to_owned() };
        self.hear(Input::Published { id, outcome: Err(failure) });
    }

    fn settling(&mut self) -> Option<Vec<i64>> {
        self.take(|action| match action {
            Action::Settle(confirmed) => Some(confirmed.iter().map(|one| one.id()).collect()),
            _ => None,
        })
    }

    fn settled(&mut self) -> Vec<i64> {
        let ids = self.settling().expect("it settles");
        self.hear(Input::Settled(Ok(())));
        ids
    }

    fn rejection(&mut self) -> Option<Rejection> {
        self.take(|action| match action {
            Action::Reject(rejection) => Some(rejection.clone()),
            _ => None,
        })
    }

    fn setting_aside(&mut self) -> Option<Vec<i64>> {
        self.take(|action| match action {
            Action::SetAside { ids, .. } => Some(ids.clone()),
            _ => None,
        })
    }

    fn opens_gate(&mut self) -> bool {
        self.take(|action| matches!(action, Action::OpenGate { .. }).then_some(())).is_some()
    }

    fn leaves(&mut self) -> bool {
        self.take(|action| matches!(action, Action::Leave).then_some(())).is_some()
    }
}

#[test]
fn one_row_of_a_lane_is_in_flight_and_the_next_goes_with_its_receipt() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b")]);
    assert_eq!(desk.published(), [11, 13]);
    desk.receipt(11);
    assert_eq!(desk.published(), [12], "the receipt is enough: row 11 is not settled yet");
    assert_eq!(desk.settling(), Some(vec![11]));
    desk.receipt(12);
    assert_eq!(desk.settling(), None, "one settle at a time");
    desk.hear(Input::Settled(Err(Failed)));
    assert_eq!(desk.settling(), None, "it backs off");
    desk.wait(100);
    let mut both = desk.settling().unwrap();
    both.sort();
    assert_eq!(both, [11, 12]);
}

#[test]
fn an_unknown_outcome_is_sent_again_and_holds_its_lane_only() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b"), hot(14, "b")]);
    assert_eq!(desk.published(), [11, 13]);
    desk.fail(11, ErrorClass::Unknown);
    assert_eq!(desk.published(), NONE);
    desk.receipt(13);
    assert_eq!(desk.published(), [14]);
    desk.wait(99);
    assert_eq!(desk.published(), NONE);
    desk.wait(1);
    assert_eq!(desk.published(), [11]);
    assert_eq!(desk.engine.stats().failed_unknown, 1);
}

#[test]
fn an_outage_leaves_one_probe_and_ends_with_a_ramp() {
    let mut desk = Desk::owner(settings());
    desk.read((11..=30).map(|id| hot(id, &format!("k{id}"))).collect());
    assert_eq!(desk.published().len(), 20);
    for id in 11..=30 {
        desk.fail(id, ErrorClass::Outage);
    }
    assert_eq!(desk.published(), NONE, "what failed together counts once, and is not sent again at once");
    desk.wait(100);
    let probe = desk.published();
    assert_eq!(probe.len(), 1);
    // A login that is refused while it runs is no other.
    desk.fail(probe[0], ErrorClass::Login);
    desk.wait(199);
    assert_eq!(desk.published(), NONE, "the wait doubles");
    desk.wait(1);
    let mut sent = desk.published();
    assert_eq!(sent.len(), 1);
    for window in [2, 4, 8] {
        while let Some(id) = sent.pop() {
            desk.receipt(id);
        }
        sent = desk.published();
        assert!(sent.len() >= window, "{} for a window of {window}", sent.len());
    }
    assert_eq!(desk.rejection(), None, "an outage is nobody's fault");
}

#[test]
fn a_suspended_destination_holds_its_topic_and_costs_no_attempts() {
    let mut desk = Desk::owner(settings());
    let bad = |id: i64, key: &str| row(id, key, "bad", Place::Hot);
    desk.read(vec![bad(11, "a"), bad(12, "b"), bad(13, "c"), hot(14, "a"), hot(15, "d")]);
    assert_eq!(desk.published(), [11, 12, 13, 15]);
    for id in [11, 12, 13] {
        desk.fail(id, ErrorClass::Destination);
    }
    assert_eq!(desk.engine.stats().suspended_destinations, 1);
    desk.read(vec![hot(16, "e"), bad(17, "f")]);
    assert_eq!(desk.published(), [16]);
    desk.wait(100);
    let probe = desk.published();
    assert_eq!(probe.len(), 1, "one probe");
    desk.fail(probe[0], ErrorClass::Destination);
    desk.wait(199);
    assert_eq!(desk.published(), NONE);
    desk.wait(1);
    let probe = desk.published();
    assert_eq!(probe.len(), 1);
    desk.receipt(probe[0]);
    assert_eq!(desk.engine.stats().suspended_destinations, 0);
    assert_eq!(desk.published().len(), 3 + usize::from(probe[0] == 11), "the others go on");
    assert_eq!(desk.rejection(), None);
}

#[test]
fn a_destination_that_only_one_waits_for_is_probed_less_and_less() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![row(11, "a", "bad", Place::Hot)]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Destination);
    for backoff in [100, 200] {
        desk.wait(backoff - 1);
        assert_eq!(desk.published(), NONE, "after {backoff} ms");
        desk.wait(1);
        assert_eq!(desk.published(), [11], "after {backoff} ms");
        desk.fail(11, ErrorClass::Destination);
    }
    desk.wait(400);
    assert_eq!(desk.published(), [11]);
    desk.receipt(11);
    assert_eq!(desk.engine.stats().suspended_destinations, 0);
}

#[test]
fn what_waits_for_a_suspended_destination_makes_room_for_the_others() {
    let mut settings = settings();
    settings.max_rows = 8;
    let mut desk = Desk::owner(settings);
    let bad = |id: i64, key: &str| row(id, key, "bad", Place::Hot);
    desk.read((11..18).map(|id| bad(id, &format!("k{id}"))).chain([bad(18, "k11")]).collect());
    assert_eq!(desk.published(), [11, 12, 13, 14, 15, 16, 17]);
    for id in 11..18 {
        desk.fail(id, ErrorClass::Destination);
    }
    let mut aside = Vec::new();
    while let Some(rejection) = desk.rejection() {
        assert_eq!((rejection.attempts, rejection.verdict), (0, Verdict::Park { retry_in: ms(10_000) }));
        assert!(rejection.error.contains("`bad`"), "{}", rejection.error);
        aside.push(rejection.id);
        desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
        desk.read_nothing();
    }
    // Those that failed first filled half of the memory.
    aside.sort_unstable();
    assert_eq!(aside, [11, 12, 13]);
    desk.read(vec![row(18, "k11", "bad", Place::Gated), hot(19, "d")]);
    assert_eq!(desk.published(), [19]);
    assert_eq!(desk.setting_aside(), Some(vec![18]));
    desk.hear(Input::SetAside(Ok(Fenced::Done(true))));
    // One of those that are still in memory is the probe, and its receipt lets the others go.
    desk.wait(300);
    let probe = desk.published();
    assert_eq!(probe.len(), 1);
    desk.receipt(probe[0]);
    assert_eq!(desk.published().len(), 3);
    // Those aside go on when their gates are due, in their order.
    desk.beats(&[lease(0, 1)]);
    let parked = |id: i64| row(id, "k11", "bad", Place::Parked);
    desk.read_parked(vec![parked(11), parked(18)]);
    assert_eq!(desk.published(), [11]);
    desk.receipt(11);
    assert_eq!(desk.published(), [18]);
}

#[test]
fn a_suspended_destination_with_little_in_memory_waits_there() {
    let mut settings = settings();
    settings.max_rows = 8;
    let mut desk = Desk::owner(settings);
    let rows = [row(11, "a", "bad", Place::Hot), row(12, "b", "bad", Place::Hot)];
    desk.read(rows.into_iter().chain((13..19).map(|id| hot(id, &format!("k{id}")))).collect());
    assert_eq!(desk.published(), [11, 12, 13, 14, 15, 16, 17, 18]);
    desk.fail(11, ErrorClass::Destination);
    desk.fail(12, ErrorClass::Destination);
    desk.hear(Input::Woken);
    assert_eq!((desk.reading(), desk.rejection()), (None, None));
}

#[test]
fn a_destination_that_never_comes_fills_the_dead_letters_if_it_is_asked_for() {
    let mut settings = settings();
    settings.destination_timeout = Some(ms(1_000));
    settings.lease = ms(60_000);
    let mut desk = Desk::owner(settings);
    let bad = |id: i64, key: &str| row(id, key, "bad", Place::Hot);
    let dies = |desk: &mut Desk, id: i64| {
        desk.fail(id, ErrorClass::Destination);
        let rejection = desk.rejection().unwrap_or_else(|| panic!("{id} waits on"));
        let later = LaterEvents::Wait;
        assert_eq!((rejection.id, rejection.attempts, rejection.verdict), (id, 1, Verdict::Bury { later }));
        desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
        desk.read_nothing();
    };
    desk.read(vec![bad(11, "a"), bad(12, "b"), bad(13, "c"), hot(14, "a")]);
    assert_eq!(desk.published(), [11, 12, 13]);
    for id in [11, 12, 13] {
        desk.fail(id, ErrorClass::Destination);
    }
    for wait in [100, 200, 400] {
        desk.wait(wait);
        let probe = desk.published();
        assert_eq!(probe.len(), 1, "one probe after {wait} ms");
        desk.fail(probe[0], ErrorClass::Destination);
        assert_eq!(desk.rejection(), None, "it has not been long enough");
    }
    // Before the next probe, for which it would be time in 800 ms.
    desk.wait(299);
    assert_eq!(desk.published(), NONE);
    desk.wait(1);
    let probe = desk.published();
    assert_eq!(probe.len(), 1, "one more, and the others go when it has said that nothing has changed");
    dies(&mut desk, probe[0]);
    let mut tried = desk.published();
    tried.extend(&probe);
    tried.sort_unstable();
    assert_eq!(tried, [11, 12, 13], "none dies that was not tried");
    for id in tried.into_iter().filter(|id| *id != probe[0]) {
        dies(&mut desk, id);
    }
    // One that comes later is tried, too, and waits no second time.
    desk.wait(5_000);
    desk.beats(&[lease(0, 1)]);
    desk.read(vec![bad(15, "d"), hot(16, "d")]);
    assert_eq!(desk.published(), [15]);
    dies(&mut desk, 15);
    // Until the topic takes one.
    desk.read(vec![bad(17, "e"), bad(18, "f")]);
    assert_eq!(desk.published(), [17, 18]);
    desk.receipt(17);
    desk.fail(18, ErrorClass::Destination);
    assert_eq!(desk.rejection(), None, "a new suspension has its own end");
    assert_eq!(desk.engine.stats().suspended_destinations, 1);
}

/// Eight events for a topic that is not there fill the memory, are put aside, and nothing is for the topic for so long. Then one
/// comes back, and its topic refuses it twice, 150 ms apart.
fn one_comes_back_after(millis: u64) -> (Desk, Option<Verdict>) {
    let mut settings = settings();
    settings.max_rows = 8;
    settings.destination_timeout = Some(ms(250));
    settings.lease = ms(60_000);
    let mut desk = Desk::owner(settings);
    let bad = |id: i64, key: &str| row(id, key, "bad", Place::Hot);
    desk.read((11..19).map(|id| bad(id, &format!("k{id}"))).collect());
    for id in desk.published() {
        desk.fail(id, ErrorClass::Destination);
    }
    while let Some(rejection) = desk.rejection() {
        assert_eq!(rejection.verdict, Verdict::Park { retry_in: ms(10_000) });
        desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
        desk.read_nothing();
    }
    desk.wait(millis);
    desk.beats(&[lease(0, 1)]);
    assert_eq!(desk.published(), NONE);
    desk.read_parked(vec![row(11, "k11", "bad", Place::Parked)]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Destination);
    assert_eq!(desk.rejection(), None, "it has not waited for so long");
    desk.wait(150);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Destination);
    let verdict = desk.rejection().map(|rejection| rejection.verdict);
    (desk, verdict)
}

#[test]
fn a_suspension_outlasts_those_who_wait_aside() {
    let (_, verdict) = one_comes_back_after(16_000);
    assert_eq!(verdict, Some(Verdict::Bury { later: LaterEvents::Wait }));
}

#[test]
fn a_suspension_is_forgotten_when_nothing_was_for_its_topic_for_long() {
    let (mut desk, verdict) = one_comes_back_after(21_000);
    assert_eq!(verdict, None, "it began anew");
    desk.wait(150);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Destination);
    let verdict = desk.rejection().map(|rejection| rejection.verdict);
    assert_eq!(verdict, Some(Verdict::Bury { later: LaterEvents::Wait }));
}

#[test]
fn what_nobody_could_try_is_no_time_that_a_destination_was_away() {
    let mut settings = settings();
    settings.destination_timeout = Some(ms(250));
    settings.lease = ms(60_000);
    let mut desk = Desk::owner(settings);
    desk.read(vec![row(11, "a", "bad", Place::Hot), hot(12, "b")]);
    assert_eq!(desk.published(), [11, 12]);
    desk.fail(11, ErrorClass::Destination);
    desk.fail(12, ErrorClass::Outage);
    for _ in 0..4 {
        desk.wait(2_000);
        desk.beats(&[lease(0, 1)]);
        let probe = desk.published();
        assert_eq!(probe.len(), 1);
        desk.fail(probe[0], ErrorClass::Outage);
    }
    desk.wait(2_000);
    desk.beats(&[lease(0, 1)]);
    // One after the other, until both have said something.
    let (mut refused, mut settled) = (0, false);
    while !settled || refused < 2 {
        let sent = desk.published();
        for id in &sent {
            if *id == 12 {
                desk.receipt(12);
                settled = true;
            } else {
                refused += 1;
                desk.fail(11, ErrorClass::Destination);
            }
        }
        let verdict = desk.rejection().map(|rejection| rejection.verdict);
        let end = Some(Verdict::Bury { later: LaterEvents::Wait });
        assert_eq!(verdict, if refused < 2 { None } else { end }, "its probes have waited for 250 ms then");
        if sent.is_empty() {
            desk.wait(150);
        }
    }
}

#[test]
fn a_suspended_destination_is_probed_though_others_are_always_ready() {
    let mut settings = settings();
    settings.max_in_flight = 2;
    let mut desk = Desk::owner(settings);
    let others = |ids: std::ops::RangeInclusive<i64>| ids.map(|id| hot(id, &format!("k{id}")));
    desk.read([row(11, "a", "bad", Place::Hot)].into_iter().chain(others(12..=16)).collect());
    assert_eq!(desk.published(), [11, 12]);
    desk.fail(11, ErrorClass::Destination);
    assert_eq!(desk.published(), [13]);
    desk.wait(100);
    desk.receipt(12);
    assert_eq!(desk.published(), [14]);
    desk.read(others(17..=20).collect());
    for (confirmed, next) in [(13, 15), (14, 16), (15, 11)] {
        desk.receipt(confirmed);
        assert_eq!(desk.published(), [next]);
    }
}

#[test]
fn a_refused_event_parks_with_back_off_and_then_dies() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b"), hot(14, "b")]);
    assert_eq!(desk.published(), [11, 13]);
    desk.fail(11, ErrorClass::Event);
    let rejection = desk.rejection().unwrap();
    assert_eq!((rejection.id, rejection.verdict), (11, Verdict::Park { retry_in: ms(100) }));
    desk.receipt(13);
    assert_eq!(desk.published(), [14], "others go on");
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    assert_eq!(desk.published(), NONE);
    desk.read(vec![row(12, "a", "t", Place::Gated)]);
    assert_eq!(desk.setting_aside(), Some(vec![12]));
    desk.hear(Input::SetAside(Ok(Fenced::Done(true))));
    desk.wait(100);
    let again = OutboxRow { attempts: 1, ..row(11, "a", "t", Place::Parked) };
    desk.read_parked(vec![again]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Event);
    assert_eq!(desk.rejection().unwrap().verdict, Verdict::Bury { later: LaterEvents::Wait });
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    assert_eq!((desk.engine.stats().parked, desk.engine.stats().dead_lettered), (1, 1));
}

#[test]
fn a_due_gate_drains_in_order_before_it_opens() {
    let mut desk = Desk::owner(settings());
    let parked = |id| row(id, "a", "t", Place::Parked);
    desk.beats_when_due();
    desk.read_parked(vec![parked(11), parked(12)]);
    assert_eq!(desk.published(), [11]);
    desk.read(vec![row(13, "a", "t", Place::Gated)]);
    assert_eq!(desk.setting_aside(), Some(vec![13]), "what comes meanwhile goes to the end");
    desk.hear(Input::SetAside(Ok(Fenced::Done(true))));
    desk.receipt(11);
    assert_eq!(desk.published(), [12]);
    desk.settled();
    assert!(!desk.opens_gate());
    desk.receipt(12);
    assert!(!desk.opens_gate(), "row 12 still stands aside");
    desk.settled();
    assert!(desk.opens_gate());
    desk.hear(Input::GateOpened(Ok(Fenced::Done(false))));
    desk.read_parked(vec![parked(13)]);
    assert_eq!(desk.published(), [13]);
    desk.receipt(13);
    desk.settled();
    assert!(desk.opens_gate());
    desk.hear(Input::GateOpened(Ok(Fenced::Done(true))));
    assert_eq!(desk.engine.stats().closed_gates, 0);
    desk.read(vec![hot(14, "a")]);
    assert_eq!(desk.published(), [14]);
}

#[test]
fn a_late_committer_with_a_smaller_id_is_read_and_goes_first() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(15, "a"), hot(17, "a")]);
    assert_eq!(desk.published(), [15]);
    desk.hear(Input::Woken);
    let request = desk.reading().unwrap();
    assert_eq!(request.known, [15, 17], "no high-water mark");
    desk.hear(Input::Read(Ok(vec![hot(12, "b"), hot(16, "a")])));
    assert_eq!(desk.published(), [12]);
    desk.receipt(15);
    assert_eq!(desk.published(), [16]);
}

#[test]
fn a_stop_drains_and_leaves() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.hear(Input::Stop);
    if desk.reading().is_some() {
        desk.hear(Input::Read(Ok(Vec::new())));
    }
    assert!(!desk.leaves());
    desk.receipt(11);
    assert_eq!(desk.published(), NONE, "nothing new is begun");
    assert!(!desk.leaves());
    desk.settled();
    assert!(desk.leaves());
    assert!(!desk.engine.is_finished());
    desk.hear(Input::Left);
    assert!(desk.engine.is_finished());
    assert_eq!(desk.engine.deadline(), None);
}

#[test]
fn giving_up_waits_for_no_broker_and_tries_the_store_once() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "b"), hot(13, "c"), hot(14, "d")]);
    assert_eq!(desk.published(), [11, 12, 13, 14]);
    desk.receipt(11);
    desk.fail(12, ErrorClass::Event);
    desk.fail(13, ErrorClass::Event);
    desk.settling().unwrap();
    desk.hear(Input::Settled(Err(Failed)));
    desk.rejection().unwrap();
    desk.hear(Input::Rejected(Err(Failed)));
    desk.hear(Input::GiveUp);
    if desk.reading().is_some() {
        desk.hear(Input::Read(Err(Failed)));
    }
    // Without a wait: the back-off is for those who stay.
    desk.settling().unwrap();
    desk.hear(Input::Settled(Err(Failed)));
    desk.rejection().unwrap();
    desk.hear(Input::Rejected(Err(Failed)));
    assert!(desk.leaves(), "{:?}", desk.open);
}

#[test]
fn nothing_is_published_past_the_margin_of_the_lease() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.wait(300);
    desk.heartbeat();
    desk.hear(Input::Heartbeat(Err(Failed)));
    desk.wait(499);
    desk.receipt(11);
    assert_eq!(desk.published(), [12], "the lease is good for 800 ms");
    desk.wait(1);
    desk.read_nothing();
    desk.fail(12, ErrorClass::Unknown);
    desk.wait(5_000);
    assert_eq!(desk.published(), NONE);
    assert_eq!(desk.reading(), None, "what it read it could not send");
    // A heartbeat counts from when it was sent, and this one was under way for too long.
    desk.beats(&[lease(0, 1)]);
    assert_eq!(desk.published(), NONE);
    desk.beats(&[lease(0, 1)]);
    assert_eq!(desk.published(), [12], "the same epoch: nobody else has had the group");
}

#[test]
fn a_lost_lease_keeps_receipts_and_drops_the_rest() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b"), hot(14, "c")]);
    assert_eq!(desk.published(), [11, 13, 14]);
    desk.wait(300);
    desk.heartbeat();
    desk.hear(ownership(&[], 1, 2));
    assert_eq!(desk.engine.stats().in_memory, 3, "what is in flight");
    desk.receipt(11);
    assert_eq!(desk.published(), NONE);
    assert_eq!(desk.settled(), [11], "a receipt is a receipt");
    desk.fail(13, ErrorClass::Event);
    desk.fail(14, ErrorClass::Unknown);
    assert_eq!(desk.rejection(), None, "that is for the new owner to find out");
    assert_eq!(desk.engine.stats().in_memory, 0);
}

#[test]
fn groups_are_shared_fairly_and_given_when_nothing_is_in_flight() {
    let mut desk = Desk::new(settings());
    assert_eq!(desk.heartbeat().take, usize::MAX);
    let all: Vec<Lease> = (0..4).map(|group| lease(group, 1)).collect();
    desk.hear(ownership(&all, 4, 1));
    let busy = OutboxRow { group: GroupNo(3), ..hot(11, "a") };
    let waiting = OutboxRow { group: GroupNo(3), ..hot(12, "a") };
    desk.read(vec![busy, waiting]);
    assert_eq!(desk.published(), [11]);
    desk.wait(300);
    assert_eq!(desk.heartbeat().take, 0);
    desk.hear(ownership(&all, 4, 2));
    let released = desk.heartbeat();
    assert_eq!((groups(&released), released.take), (vec![GroupNo(2)], 0), "group 3 has a row in flight");
    desk.hear(ownership(&[all[0], all[1], all[3]], 4, 2));
    desk.receipt(11);
    assert_eq!(desk.published(), NONE, "row 12 is for the next owner");
    desk.settled();
    assert_eq!(groups(&desk.heartbeat()), [GroupNo(3)], "at once");
    desk.hear(ownership(&all[..2], 4, 2));
    desk.wait(300);
    desk.heartbeat();
    desk.hear(ownership(&all[..2], 4, 1));
    desk.wait(300);
    assert_eq!(desk.heartbeat().take, 2, "the other one has gone");
}

#[test]
fn a_hold_stops_reading_and_publishing_and_settles_on() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.wait(300);
    desk.read_nothing();
    desk.heartbeat();
    let held =
        Ownership { leases: vec![lease(0, 1)], groups: 1, relays: 1, hold: true, ..Ownership::default() };
    desk.hear(Input::Woken);
    assert!(desk.reading().is_some());
    desk.hear(Input::Heartbeat(Ok(held)));
    desk.hear(Input::Read(Ok(vec![hot(13, "b")])));
    desk.receipt(11);
    assert_eq!(desk.published(), NONE);
    assert_eq!(desk.settled(), [11]);
    assert_eq!(desk.engine.stats().in_memory, 0, "an earlier state of the database may be brought back");
    desk.hear(Input::Woken);
    assert_eq!((desk.reading(), desk.reading_parked()), (None, None));
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    assert_eq!(desk.published(), NONE);
    desk.read(vec![hot(12, "c")]);
    assert_eq!(desk.published(), [12], "as it is then");
}

/// What is with the broker when a hold begins, and is not confirmed: a restore may bring another event under its id.
#[test]
fn a_hold_forgets_what_is_not_confirmed_meanwhile() {
    let classes = [ErrorClass::Unknown, ErrorClass::Outage, ErrorClass::Event, ErrorClass::Destination];
    for (class, per_key) in classes.into_iter().flat_map(|class| [(class, 1), (class, 4)]) {
        let mut settings = settings();
        settings.max_in_flight_per_key = per_key;
        let mut desk = Desk::owner(settings);
        desk.read((11..=14).map(|id| hot(id, "a")).collect());
        let mut sent = desk.published();
        if per_key > 1 {
            // Alone, then first in a session, then together.
            for id in [11, 12] {
                assert_eq!(sent, [id]);
                desk.receipt(id);
                sent = desk.published();
            }
            assert_eq!(sent, [13, 14]);
        }
        desk.wait(300);
        desk.heartbeat();
        let held =
            Ownership { leases: vec![lease(0, 1)], groups: 1, relays: 1, hold: true, ..Ownership::default() };
        desk.hear(Input::Heartbeat(Ok(held)));
        for id in &sent {
            desk.fail(*id, class);
        }
        assert_eq!(desk.rejection(), None, "{class}: it may be another event's by then");
        while desk.settling().is_some() {
            desk.hear(Input::Settled(Ok(())));
        }
        assert_eq!(desk.engine.stats().in_memory, 0, "{class}, {per_key} of a key");
        desk.wait(300);
        desk.beats(&[lease(0, 1)]);
        desk.read(vec![hot(sent[0], "b")]);
        assert_eq!(desk.published(), [sent[0]], "{class}, {per_key} of a key");
    }
}

// --- a read that is under way while its rows are forgotten ---

#[test]
fn a_read_across_two_leases_is_not_believed() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.hear(Input::Woken);
    assert_eq!(desk.reading().unwrap().known, [11, 12]);
    desk.wait(300);
    // Another relay has had the group meanwhile.
    desk.beats(&[lease(0, 3)]);
    desk.receipt(11);
    desk.hear(Input::Read(Ok(vec![hot(13, "a")])));
    assert_eq!(desk.published(), NONE, "row 12 was forgotten, and is not in the answer");
    desk.settled();
    desk.read(vec![hot(12, "a"), hot(13, "a")]);
    assert_eq!(desk.published(), [12]);
}

#[test]
fn rows_that_were_read_under_an_earlier_lease_are_read_again() {
    let mut desk = Desk::owner(settings());
    desk.hear(Input::Woken);
    assert_eq!(desk.reading().unwrap().known, NONE);
    desk.wait(300);
    desk.beats(&[lease(0, 3)]);
    desk.hear(Input::Read(Ok(vec![hot(11, "a")])));
    assert_eq!(desk.published(), NONE, "the owner in between may have sent it");
    desk.read(vec![hot(12, "a")]);
    assert_eq!(desk.published(), [12]);
}

#[test]
fn a_read_from_before_a_refusal_moves_nothing_aside() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.hear(Input::Woken);
    assert_eq!(desk.reading().unwrap().known, [11, 12]);
    desk.fail(11, ErrorClass::Event);
    desk.rejection().unwrap();
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    desk.hear(Input::Read(Ok(vec![hot(13, "a")])));
    assert_eq!(desk.setting_aside(), None, "row 13 would stand aside before row 12");
    let gated = |id| row(id, "a", "t", Place::Gated);
    desk.read(vec![gated(12), gated(13)]);
    assert_eq!(desk.setting_aside(), Some(vec![12, 13]));
}

#[test]
fn rows_behind_a_refused_one_wait_although_their_gate_was_due() {
    let mut desk = Desk::owner(settings());
    let parked = |id| row(id, "a", "t", Place::Parked);
    desk.beats_when_due();
    desk.read_parked(vec![parked(11), parked(12)]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Event);
    desk.rejection().unwrap();
    // The gate is due until the rejection is written.
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.read_parked(vec![parked(12)]);
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    assert_eq!(desk.published(), NONE);
}

#[test]
fn rows_behind_an_opened_gate_are_read_again_from_the_first() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![row(11, "a", "t", Place::Gated)]);
    assert_eq!(desk.setting_aside(), Some(vec![11]));
    desk.hear(Input::Woken);
    assert_eq!(desk.reading().unwrap().known, [11]);
    desk.hear(Input::SetAside(Ok(Fenced::Done(false))));
    desk.hear(Input::Read(Ok(vec![hot(12, "a")])));
    assert_eq!(desk.published(), NONE, "row 11 still stands in the table");
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
}

#[test]
fn a_rejection_that_came_to_nothing_keeps_its_place() {
    let mut settings = settings();
    settings.max_attempts = 1;
    settings.later_events = LaterEvents::GoOn;
    let mut desk = Desk::owner(settings);
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Event);
    assert_eq!(desk.rejection().unwrap().verdict, Verdict::Bury { later: LaterEvents::GoOn });
    desk.wait(300);
    desk.beats(&[lease(0, 3)]);
    desk.read(vec![hot(12, "a"), hot(13, "a")]);
    desk.hear(Input::Rejected(Ok(Fenced::LeaseLost)));
    assert_eq!(desk.published(), NONE, "row 11 was not buried");
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "a")]);
    assert_eq!(desk.published(), [11]);
}

#[test]
fn lanes_that_lost_their_rows_leave_no_deadline_behind() {
    let mut desk = Desk::owner(settings());
    desk.read((11..15).map(|id| row(id, &format!("k{id}"), "bad", Place::Hot)).collect());
    assert_eq!(desk.published(), [11, 12, 13, 14]);
    for id in 11..15 {
        desk.fail(id, ErrorClass::Destination);
    }
    desk.wait(300);
    // `poll` asserts that the deadline lies ahead.
    let probe = desk.published();
    assert_eq!(probe.len(), 1);
    desk.heartbeat();
    desk.hear(ownership(&[], 1, 2));
    desk.wait(10_000);
    desk.fail(probe[0], ErrorClass::Destination);
    desk.wait(1);
    assert_eq!(desk.engine.stats().suspended_destinations, 0);
}

impl Desk {
    /// A heartbeat makes it look into the side tables.
    fn beats_when_due(&mut self) {
        self.wait(300);
        self.beats(&[lease(0, 1)]);
    }
}

fn groups(heartbeat: &Heartbeat) -> Vec<GroupNo> {
    heartbeat.release.iter().map(|lease| lease.group).collect()
}

#[test]
fn it_takes_nothing_for_empty_while_others_may_be_dead() {
    let all: Vec<Lease> = (0..4).map(|group| lease(group, 2)).collect();
    let mut desk = Desk::new(settings());
    desk.heartbeat();
    // One that was killed still counts as alive, and holds two groups whose rows nobody sends.
    desk.hear(ownership(&all[..2], 4, 2));
    desk.read(vec![]);
    desk.read_nothing();
    assert!(!desk.engine.is_idle(), "half of the groups are somebody's who may be dead");
    desk.wait(300);
    desk.heartbeat();
    desk.hear(ownership(&all[..2], 4, 1));
    desk.read(vec![]);
    desk.read_nothing();
    assert!(!desk.engine.is_idle(), "alone, and not yet the owner of all");
    desk.wait(300);
    desk.heartbeat();
    desk.hear(ownership(&all, 4, 1));
    desk.read(vec![]);
    desk.read_nothing();
    assert!(desk.engine.is_idle());
}

#[test]
fn it_takes_nothing_for_empty_by_a_count_from_before_the_dead_were_missed() {
    let all: Vec<Lease> = (0..4).map(|group| lease(group, 2)).collect();
    let mut desk = Desk::new(settings());
    desk.heartbeat();
    desk.wait(50);
    desk.hear(ownership(&all[..2], 4, 2));
    for _ in 0..3 {
        desk.wait(300);
        desk.heartbeat();
        desk.hear(ownership(&all[..2], 4, 2));
        desk.read(vec![]);
        desk.read_nothing();
    }
    // The lease of one that died before the first answer has expired, but the last count is older.
    desk.wait(150);
    assert!(desk.now >= ms(1_000));
    assert!(!desk.engine.is_idle(), "the count is from before the lease expired");
    // This one was sent behind it.
    desk.wait(150);
    desk.heartbeat();
    desk.hear(ownership(&all[..2], 4, 2));
    desk.read(vec![]);
    desk.read_nothing();
    assert!(desk.engine.is_idle(), "the other one is alive");
}

#[test]
fn slow_looks_aside_keep_nothing_from_being_read() {
    let mut desk = Desk::owner(settings());
    let mut reads = 0;
    for _ in 0..10 {
        // With the answer to each read, both are due again.
        desk.wait(600);
        if desk.take(|action| matches!(action, Action::Heartbeat(_)).then_some(())).is_some() {
            desk.hear(ownership(&[lease(0, 1)], 1, 1));
        }
        if desk.reading().is_some() {
            reads += 1;
            desk.hear(Input::Read(Ok(Vec::new())));
        } else if desk.reading_parked().is_some() {
            desk.hear(Input::ReadParked(Ok(Vec::new())));
        }
    }
    assert!(reads >= 4, "the outbox was read {reads} times");
}

#[test]
fn a_full_memory_keeps_no_parked_rows_from_being_read() {
    let mut settings = settings();
    settings.max_rows = 8;
    let mut desk = Desk::owner(settings);
    let keys: Vec<String> = (0..60).map(|key| format!("key {key}")).collect();
    let rows = |ids: std::ops::Range<usize>| -> Vec<OutboxRow> {
        ids.map(|id| hot(100 + id as i64, &keys[id])).collect()
    };
    desk.read(rows(0..8));
    desk.beats_when_due();
    let (mut next, mut looks_aside) = (8, 0);
    for _ in 0..10 {
        desk.published();
        desk.wait(25);
        // There is room for one, and the hot table has as much as one likes.
        desk.receipt(100 + next as i64 - 8);
        desk.settled();
        if desk.reading_parked().is_some() {
            looks_aside += 1;
            desk.hear(Input::ReadParked(Ok(Vec::new())));
        }
        desk.reading().expect("there is room");
        desk.hear(Input::Read(Ok(rows(next..next + 1))));
        next += 1;
    }
    assert_eq!(looks_aside, 1, "it owes one");
}

#[test]
fn it_takes_nothing_for_empty_before_it_has_looked_aside() {
    let mut desk = Desk::new(settings());
    desk.heartbeat();
    desk.hear(ownership(&[lease(0, 1)], 1, 1));
    desk.reading_parked().expect("it looks aside first");
    desk.wait(600);
    desk.hear(Input::ReadParked(Err(Failed)));
    desk.wait(100);
    desk.reading().expect("it reads in turns");
    // By now its lease has run out, and there is nothing that it may read.
    desk.wait(110);
    desk.hear(Input::Read(Ok(Vec::new())));
    assert!(!desk.engine.is_idle(), "nobody knows yet what waits in the side tables");
    desk.beats(&[lease(0, 1)]);
    desk.read_parked(vec![row(1, "k", "t", Place::Parked)]);
    assert_eq!(desk.published(), [1]);
}

/// A relay whose lease has ended, and does not know it, looks aside: there stands by now what it is about to move there
/// itself, and so does what comes behind.
#[test]
fn rows_aside_do_not_pass_those_that_are_about_to_be_moved_there() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![row(20, "k", "t", Place::Gated), row(21, "k", "t", Place::Gated)]);
    assert_eq!(desk.setting_aside(), Some(vec![20, 21]));
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.read_parked(vec![row(10, "k", "t", Place::Parked), row(22, "k", "t", Place::Parked)]);
    assert_eq!(desk.published(), [10], "that one comes before");
    desk.receipt(10);
    desk.settled();
    assert_eq!(desk.published(), NONE);
    desk.hear(Input::SetAside(Ok(Fenced::Done(true))));
    desk.read_nothing();
    assert!(desk.opens_gate());
    desk.hear(Input::GateOpened(Ok(Fenced::Done(false))));
    desk.read_parked([20, 21, 22].map(|id| row(id, "k", "t", Place::Parked)).to_vec());
    assert_eq!(desk.published(), [20]);
}

#[test]
fn few_receipts_wait_for_more_but_not_for_long() {
    let mut settings = settings();
    settings.settle_linger = ms(5);
    settings.batch = 8;
    let mut desk = Desk::owner(settings);
    desk.read((11..16).map(|id| hot(id, &format!("k{id}"))).collect());
    assert_eq!(desk.published(), [11, 12, 13, 14, 15]);
    desk.receipt(11);
    assert_eq!(desk.settling(), None, "others are on their way");
    desk.wait(4);
    assert_eq!(desk.settling(), None);
    desk.wait(1);
    assert_eq!(desk.settling(), Some(vec![11]), "long enough");
    desk.hear(Input::Settled(Ok(())));
    desk.receipt(12);
    desk.receipt(13);
    assert_eq!(desk.settling(), Some(vec![12, 13]), "a quarter of a batch");
    desk.hear(Input::Settled(Ok(())));
    desk.receipt(14);
    desk.receipt(15);
    assert_eq!(desk.settling(), Some(vec![14, 15]), "nothing else is on its way");
}

#[test]
fn the_receipts_of_a_single_key_wait_for_each_other() {
    let mut settings = settings();
    settings.settle_linger = ms(5);
    settings.batch = 12;
    let mut desk = Desk::owner(settings);
    desk.read((11..15).map(|id| hot(id, "k")).collect());
    for id in 11..13 {
        assert_eq!(desk.published(), [id]);
        desk.receipt(id);
        assert_eq!(desk.settling(), None, "the next of the key is on its way");
    }
    assert_eq!(desk.published(), [13]);
    desk.receipt(13);
    assert_eq!(desk.settling(), Some(vec![11, 12, 13]), "a quarter of a batch");
    desk.hear(Input::Settled(Ok(())));
    desk.published();
    desk.receipt(14);
    assert_eq!(desk.settling(), Some(vec![14]), "nothing else is on its way");
}

#[test]
fn with_much_in_memory_a_read_waits_for_room_but_not_for_long() {
    let mut settings = settings();
    settings.batch = 8;
    settings.max_rows = 16;
    let mut desk = Desk::owner(settings);
    let rows = |ids: std::ops::Range<i64>| ids.map(|id| hot(id, &format!("k{id}"))).collect();
    desk.read(rows(11..19));
    desk.reading().expect("half of the memory is free");
    desk.hear(Input::Read(Ok(rows(19..27))));
    assert_eq!(desk.reading(), None, "there is no room at all");
    desk.published();
    for id in 11..15 {
        desk.receipt(id);
        desk.settled();
    }
    assert_eq!(desk.reading(), None, "there is room for four");
    assert_eq!(desk.engine.deadline(), Some(desk.now + ms(25)), "it comes back although nothing happens");
    desk.wait(24);
    assert_eq!(desk.reading(), None);
    desk.wait(1);
    assert_eq!(desk.reading().map(|request| request.limit), Some(4), "the others may be slow");
    desk.hear(Input::Read(Ok(rows(27..31))));
    for id in 15..22 {
        desk.receipt(id);
        desk.settled();
    }
    assert_eq!(desk.reading(), None);
    desk.receipt(22);
    desk.settled();
    assert_eq!(desk.reading().map(|request| request.limit), Some(8), "half of the memory is free");
}

/// An owner that is asked what is scheduled, when its next heartbeat was answered.
fn scheduler() -> Desk {
    let mut desk = Desk::owner(settings());
    desk.nothing_scheduled = false;
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk
}

#[test]
fn what_is_due_is_moved_when_it_is_due_and_read_at_once() {
    let mut desk = scheduler();
    desk.read_nothing();
    assert_eq!(desk.promoting(), Some(vec![lease(0, 1)]), "it looks with each heartbeat");
    desk.promoted(0, Some(70));
    desk.wait(69);
    assert_eq!(desk.promoting(), None);
    desk.wait(1);
    assert_eq!(desk.promoting(), Some(vec![lease(0, 1)]), "it knows when the next one is due");
    desk.promoted(3, Some(0));
    desk.reading().expect("something was moved");
    desk.promoting().expect("more are due than one call takes");
    desk.promoted(0, None);
    desk.wait(100);
    assert_eq!(desk.promoting(), None, "nothing more is known of");
    assert_eq!(desk.engine.stats().promoted, 3);
}

#[test]
fn a_wake_may_be_about_something_that_is_due_before_the_next_heartbeat() {
    let mut settings = settings();
    settings.poll_interval = ms(50);
    let mut desk = Desk::owner(settings);
    desk.nothing_scheduled = false;
    desk.hear(Input::Woken);
    desk.read_nothing();
    desk.wait(49);
    desk.hear(Input::Woken);
    assert_eq!(desk.promoting(), None, "most often it is not, so not with every wake");
    desk.wait(1);
    desk.promoting().expect("within a poll interval of the first wake");
    desk.hear(Input::Woken);
    desk.promoted(0, Some(400));
    desk.wait(50);
    desk.promoting().expect("what was written meanwhile is not in the answer");
    desk.promoted(0, Some(20));
    desk.hear(Input::Woken);
    desk.wait(20);
    desk.promoting().expect("a wake puts nothing off");
}

#[test]
fn what_is_due_and_held_by_a_writer_is_not_asked_for_without_a_pause() {
    let mut desk = scheduler();
    desk.promoting().unwrap();
    desk.promoted(0, Some(0));
    assert_eq!(desk.promoting(), None);
    desk.wait(200);
    desk.beats_when_due();
    desk.promoting().expect("at the latest with the next heartbeat");
}

#[test]
fn a_look_for_scheduled_events_that_failed_is_repeated() {
    let mut desk = scheduler();
    desk.promoting().unwrap();
    desk.hear(Input::Promoted(Err(Failed)));
    assert_eq!(desk.promoting(), None, "the store has failed");
    assert!(!desk.engine.is_idle(), "nobody knows yet what is due");
    desk.wait(100);
    desk.promoting().expect("it looks again");
}

#[test]
fn nothing_is_moved_on_hold_or_without_a_lease_or_behind_a_stop() {
    let mut desk = scheduler();
    desk.promoting().unwrap();
    desk.promoted(0, Some(350));
    desk.wait(300);
    desk.heartbeat();
    let leases = vec![lease(0, 1)];
    desk.hear(Input::Heartbeat(Ok(Ownership {
        leases,
        groups: 1,
        relays: 1,
        hold: true,
        ..Ownership::default()
    })));
    desk.wait(200);
    assert_eq!(desk.promoting(), None, "on hold");

    let mut desk = scheduler();
    desk.promoting().unwrap();
    desk.promoted(0, Some(350));
    desk.wait(300);
    desk.heartbeat();
    desk.hear(ownership(&[], 1, 2));
    desk.wait(200);
    assert_eq!(desk.promoting(), None, "of another relay's groups");

    let mut desk = scheduler();
    desk.promoting().unwrap();
    desk.read_nothing();
    desk.hear(Input::Stop);
    assert!(!desk.open.contains(&Action::Leave), "it waits for the answer");
    desk.promoted(1, Some(0));
    assert_eq!(desk.promoting(), None, "it stops");
    assert!(desk.open.contains(&Action::Leave));
}

/// It takes a group over whose last owner ended without a word while it was sending these suspects.
fn successor(settings: RelaySettings, suspects: &[i64]) -> Desk {
    let mut desk = Desk::new(settings);
    desk.hear(Input::BrokerAnswers);
    desk.heartbeat();
    let dirty = [(GROUP, suspects.to_vec())].into();
    let leases = vec![lease(0, 1)];
    desk.hear(Input::Heartbeat(Ok(Ownership {
        leases,
        groups: 1,
        relays: 1,
        dirty,
        ..Ownership::default()
    })));
    desk
}

fn widen(desk: &mut Desk) {
    for id in 1..=3 {
        desk.read(vec![hot(id, &format!("warm {id}"))]);
        assert_eq!(desk.published(), [id]);
        desk.receipt(id);
        desk.settled();
    }
    desk.suspects.clear();
}

#[test]
fn what_a_dead_relay_left_is_sent_when_the_store_knows_of_it() {
    let mut desk = successor(settings(), &[]);
    widen(&mut desk);
    desk.records_suspects = false;
    desk.read(vec![hot(11, "a"), hot(12, "b"), hot(13, "a")]);
    assert_eq!(desk.suspects, [vec![11, 12]], "of each key one");
    assert_eq!(desk.published(), NONE);
    desk.hear(Input::SuspectsRecorded(Err(Failed)));
    assert_eq!(desk.published(), NONE);
    desk.wait(100);
    assert_eq!(desk.suspects, [[11, 12], [11, 12]], "it is told once more");
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!(desk.published(), [11, 12]);
    desk.suspects.clear();
    desk.receipt(11);
    assert_eq!(desk.suspects, [vec![12, 13]], "with what is still on its way");
    assert_eq!(desk.published(), NONE);
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!(desk.published(), [13]);
    desk.receipt(12);
    desk.suspects.clear();
    desk.receipt(13);
    assert_eq!(desk.suspects, [NONE], "it is over");
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!([desk.settled(), desk.settled()], [vec![11], vec![12, 13]]);
    desk.read_nothing();

    // All that waited when the group was taken over has gone.
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.suspects.clear();
    desk.wait(500);
    desk.read(vec![hot(14, "a")]);
    assert_eq!(desk.published(), [14]);
    assert!(desk.suspects.is_empty());
}

#[test]
fn suspicion_ends_with_as_many_events_as_the_dead_relay_can_have_had() {
    let mut settings = settings();
    settings.max_rows = 5;
    let mut desk = successor(settings, &[]);
    widen(&mut desk);
    for id in 11..13 {
        desk.read(vec![hot(id, "a")]);
        assert_eq!(desk.published(), [id]);
        desk.receipt(id);
        desk.settled();
    }
    assert_eq!(desk.suspects, [vec![11], vec![], vec![12], vec![]]);
    desk.read(vec![hot(13, "a")]);
    assert_eq!(desk.published(), [13]);
    assert_eq!(desk.suspects.len(), 4);
}

#[test]
fn each_of_several_suspects_goes_alone_and_nothing_waits_for_that() {
    let mut desk = successor(settings(), &[11, 12]);
    widen(&mut desk);
    desk.read(vec![hot(10, "x"), hot(11, "a"), hot(12, "b"), hot(13, "c")]);
    assert_eq!(desk.published(), [13, 10, 11]);
    desk.read(vec![hot(14, "d")]);
    assert_eq!(desk.published(), [14]);
    desk.fail(11, ErrorClass::Unknown);
    assert_eq!(desk.suspects, [vec![11], vec![]], "something is wrong with the broker");
    assert_eq!(desk.published(), [12], "and so it goes as any other");
    desk.receipt(12);
    desk.wait(100);
    assert_eq!(desk.published(), [11]);
    assert_eq!(desk.suspects, [vec![11], vec![], vec![11]], "this process has outlived it once");
}

#[test]
fn suspects_for_a_suspended_destination_are_probed_one_at_a_time() {
    let mut desk = successor(settings(), &[]);
    widen(&mut desk);
    let bad = |id: i64| row(id, &format!("k{id}"), "bad", Place::Hot);
    desk.read((11..16).map(bad).collect());
    assert_eq!(desk.published(), [11, 12, 13, 14, 15]);
    for id in 11..16 {
        desk.fail(id, ErrorClass::Destination);
    }
    for wait in [100, 200] {
        desk.wait(wait);
        let probe = desk.published();
        assert_eq!(probe.len(), 1, "{probe:?}");
        assert_eq!(desk.engine.stats().suspended_destinations, 1);
        desk.fail(probe[0], ErrorClass::Destination);
    }
}

/// Then it is not one at a time any more, and one of them may have ended the process.
#[test]
fn suspects_for_a_destination_that_is_given_up_are_known_before_they_go() {
    let mut settings = settings();
    settings.destination_timeout = Some(Duration::ZERO);
    let mut desk = successor(settings, &[]);
    widen(&mut desk);
    let bad = |id: i64| row(id, &format!("k{id}"), "bad", Place::Hot);
    desk.read(vec![bad(11)]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Destination);
    assert!(matches!(desk.rejection().unwrap().verdict, Verdict::Bury { .. }));
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    desk.suspects.clear();
    desk.records_suspects = false;
    desk.read(vec![bad(12), bad(13)]);
    assert_eq!((desk.published(), &desk.suspects[..]), (vec![], &[vec![12, 13]][..]));
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!(desk.published(), [12, 13]);
}

#[test]
fn what_is_known_of_an_end_stays_until_a_look_has_ended() {
    let mut desk = successor(settings(), &[11]);
    if desk.reading_parked().is_some() {
        desk.hear(Input::ReadParked(Ok(Vec::new())));
    }
    assert!(desk.reading().is_some(), "a long one");
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.hear(Input::Read(Ok(vec![hot(11, "a")])));
    assert_eq!(desk.rejection().unwrap().attempts, 1);
}

#[test]
fn a_hold_keeps_the_gate_that_is_closing() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b")]);
    assert_eq!(desk.published(), [11, 13]);
    desk.fail(11, ErrorClass::Event);
    assert_eq!(desk.rejection().unwrap().id, 11);
    desk.fail(13, ErrorClass::Event);
    desk.wait(300);
    desk.heartbeat();
    let (leases, none) = (vec![lease(0, 1)], Ownership::default());
    desk.hear(Input::Heartbeat(Ok(Ownership { leases, groups: 1, relays: 1, hold: true, ..none })));
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.read(vec![hot(12, "a"), hot(13, "b")]);
    assert_eq!(desk.published(), [13], "its refusal was not written, and is forgotten");
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    assert_eq!(desk.published(), NONE, "row 11 stands aside, and 12 is to go behind it");
    assert_eq!(desk.setting_aside(), Some(vec![12]));
}

/// As after the database's clock was set back, just when the lease had ended.
#[test]
fn a_lease_that_comes_back_finds_no_refusal_of_before() {
    let mut desk = Desk::owner(settings());
    desk.read(vec![hot(11, "a"), hot(12, "a"), hot(13, "b"), hot(14, "b")]);
    assert_eq!(desk.published(), [11, 13]);
    desk.fail(11, ErrorClass::Event);
    assert_eq!(desk.rejection().unwrap().id, 11);
    desk.fail(13, ErrorClass::Event);
    desk.wait(300);
    desk.beats(&[]);
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.read(vec![hot(12, "a"), hot(13, "b"), hot(14, "b")]);
    assert_eq!(desk.published(), [13], "its refusal was not written, and is forgotten");
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    assert_eq!(desk.rejection(), None);
    assert_eq!(desk.setting_aside(), Some(vec![12]), "row 11 stands aside, and 12 is to go behind it");
    desk.receipt(13);
    assert_eq!(desk.published(), [14]);
}

#[test]
fn what_was_chosen_is_not_held_against_it_by_a_stop() {
    let mut desk = successor(settings(), &[]);
    widen(&mut desk);
    desk.records_suspects = false;
    desk.read(vec![hot(11, "a")]);
    desk.hear(Input::Stop);
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!(desk.suspects, [vec![11], vec![]]);
    assert!(!desk.open.contains(&Action::Leave));
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert!(desk.open.contains(&Action::Leave));
}

#[test]
fn an_event_that_was_alone_when_a_process_ended_is_put_aside_and_dies_at_the_third_time() {
    let mut settings = settings();
    settings.max_attempts = 9;
    let mut desk = successor(settings.clone(), &[11]);
    widen(&mut desk);
    desk.read(vec![hot(11, "a"), hot(12, "b"), hot(13, "a")]);
    let rejection = desk.rejection().unwrap();
    assert_eq!((rejection.id, rejection.attempts), (11, 3));
    assert!(matches!(rejection.verdict, Verdict::Park { .. }));
    assert!(rejection.error.contains("ended"), "{}", rejection.error);
    assert_eq!(desk.published(), [12], "another key goes on");
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    desk.receipt(12);
    desk.settled();
    assert_eq!(desk.published(), NONE);

    // It is held against it only once.
    let parked = |attempts| OutboxRow { attempts, ..row(11, "a", "t", Place::Parked) };
    desk.suspects.clear();
    desk.wait(500);
    desk.read_parked(vec![parked(3)]);
    assert_eq!(desk.published(), [11]);
    assert_eq!(desk.suspects, [[11]], "one that was refused before is one, whoever had the group");

    let mut desk = successor(settings, &[11]);
    desk.read_parked(vec![parked(6)]);
    assert_eq!(desk.rejection().unwrap().verdict, Verdict::Bury { later: LaterEvents::Wait });
}

#[test]
fn nothing_is_held_against_an_event_while_the_broker_may_be_away() {
    let mut desk = Desk::new(settings());
    desk.heartbeat();
    let leases = vec![lease(0, 1)];
    let dirty = [(GROUP, vec![])].into();
    desk.hear(Input::Heartbeat(Ok(Ownership {
        leases,
        groups: 1,
        relays: 1,
        dirty,
        ..Ownership::default()
    })));
    desk.read(vec![hot(11, "a"), hot(12, "b"), hot(13, "c")]);
    assert_eq!(desk.published(), [11], "a probe, as ever");
    desk.fail(11, ErrorClass::Outage);
    desk.wait(100);
    assert_eq!(desk.published().len(), 1);
    assert!(desk.suspects.is_empty(), "nobody knows that the broker is there");

    let mut desk = successor(settings(), &[]);
    widen(&mut desk);
    desk.read(vec![hot(11, "a"), hot(12, "b")]);
    assert_eq!(desk.published(), [11, 12]);
    desk.fail(11, ErrorClass::Outage);
    desk.fail(12, ErrorClass::Outage);
    assert_eq!(desk.suspects, [vec![11, 12], vec![]], "it may be restarted for want of the broker");
    desk.wait(100);
    assert_eq!(desk.published().len(), 1);
    assert_eq!(desk.suspects.len(), 2);
}

#[test]
fn a_suspect_whose_group_was_lost_before_it_was_sent_is_not_sent() {
    let mut desk = successor(settings(), &[]);
    widen(&mut desk);
    desk.records_suspects = false;
    desk.read(vec![hot(11, "a"), hot(12, "a")]);
    desk.wait(300);
    desk.beats(&[]);
    desk.hear(Input::SuspectsRecorded(Ok(())));
    assert_eq!(desk.published(), NONE);
    assert_eq!(desk.engine.stats().in_memory, 0);
}

#[test]
fn polls_grow_rare_while_nothing_is_found_where_all_commits_are_told() {
    let mut settings = settings();
    (settings.lease, settings.heartbeat_interval) = (ms(100_000), ms(40_000));
    let mut desk = Desk::owner(settings);
    desk.read_nothing();
    let polls = |desk: &mut Desk, gaps: &[u64]| {
        for gap in gaps {
            desk.wait(gap - 1);
            assert_eq!(desk.reading(), None, "before {gap} ms");
            desk.wait(1);
            desk.reading().unwrap_or_else(|| panic!("after {gap} ms"));
            desk.hear(Input::Read(Ok(Vec::new())));
        }
    };
    polls(&mut desk, &[500, 500, 500]);
    desk.hear(Input::Hears(true));
    polls(&mut desk, &[500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    // What a poll brings, nobody told of: there may be more of it.
    desk.wait(5_000);
    desk.reading().unwrap();
    desk.hear(Input::Read(Ok(vec![hot(11, "a")])));
    assert_eq!(desk.published(), [11]);
    desk.receipt(11);
    desk.settled();
    polls(&mut desk, &[500, 1_000, 2_000]);
    desk.hear(Input::Woken);
    desk.read_nothing();
    polls(&mut desk, &[1_000, 2_000, 4_000]);
    // With the connection gone it polls as one that was never told.
    desk.hear(Input::Hears(false));
    polls(&mut desk, &[500, 500]);
}

#[test]
fn polls_grow_rare_as_far_as_they_are_told_to() {
    let mut settings = settings();
    (settings.lease, settings.heartbeat_interval) = (ms(100_000), ms(40_000));
    settings.idle_poll_interval = Some(ms(1_500));
    let mut desk = Desk::owner(settings);
    desk.read(vec![]);
    for gap in [1_000, 1_500, 1_500] {
        desk.wait(gap - 1);
        assert_eq!(desk.reading(), None, "before {gap} ms");
        desk.wait(1);
        desk.reading().unwrap_or_else(|| panic!("after {gap} ms"));
        desk.hear(Input::Read(Ok(Vec::new())));
    }
}

/// What a store answers that knows of nothing aside, or scheduled.
fn nothing_else(leases: &[Lease]) -> Input {
    let leases = leases.to_vec();
    let (nothing_aside, nothing_scheduled) = (true, true);
    let ownership =
        Ownership { leases, groups: 1, relays: 1, nothing_aside, nothing_scheduled, ..Ownership::default() };
    Input::Heartbeat(Ok(ownership))
}

#[test]
fn side_tables_are_looked_at_only_where_there_may_be_something() {
    let mut desk = Desk::owner(settings());
    desk.nothing_scheduled = false;
    desk.beats_when_due();
    assert!(desk.reading_parked().is_some() && desk.promoting().is_some(), "nothing is known");
    desk.hear(Input::ReadParked(Ok(Vec::new())));
    desk.promoted(0, None);
    // A look that is due already is not called off.
    desk.wait(300);
    desk.heartbeat();
    desk.hear(nothing_else(&[lease(0, 1)]));
    desk.read_nothing();
    for _ in 0..5 {
        desk.wait(300);
        desk.heartbeat();
        desk.hear(nothing_else(&[lease(0, 1)]));
        if desk.reading().is_some() {
            desk.hear(Input::Read(Ok(Vec::new())));
        }
        assert_eq!((desk.reading_parked(), desk.promoting()), (None, None));
    }
    // A gate that it closes itself it knows, whatever an answer says that is older.
    desk.read(vec![hot(11, "a")]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Event);
    desk.rejection().unwrap();
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    desk.wait(100);
    desk.reading_parked().expect("row 11 is due");
    desk.hear(Input::ReadParked(Ok(Vec::new())));
    desk.wait(200);
    desk.heartbeat();
    desk.hear(nothing_else(&[lease(0, 1)]));
    desk.wait(100);
    desk.reading_parked().expect("its gate is closed still");
    desk.hear(Input::ReadParked(Ok(Vec::new())));
    // What others did, the next answer tells.
    desk.beats_when_due();
    if desk.reading().is_some() {
        desk.hear(Input::Read(Ok(Vec::new())));
    }
    assert!(desk.reading_parked().is_some() && desk.promoting().is_some());
}

#[test]
fn events_of_an_unordered_topic_wait_for_nobody() {
    let mut settings = settings();
    settings.unordered = Unordered::Topics(["clicks".to_owned()].into());
    let mut desk = Desk::owner(settings);
    let click = |id| row(id, "a", "clicks", Place::Hot);
    desk.read(vec![click(11), hot(12, "a"), click(13), hot(14, "a")]);
    assert_eq!(desk.published(), [11, 12, 13]);
    desk.fail(11, ErrorClass::Event);
    let own = Lane::of(None, Uuid::from_u128(11));
    let rejection = desk.rejection().unwrap();
    assert_eq!((&rejection.lane, rejection.attempts), (&own, 1));
    desk.hear(Input::Rejected(Ok(Fenced::Done(()))));
    desk.receipt(12);
    assert_eq!(desk.published(), [14], "an event of the other topic");
    // Its key waits for another event, and not for this one.
    desk.read(vec![row(15, "b", "clicks", Place::Gated), row(16, "b", "t", Place::Gated)]);
    assert_eq!(desk.published(), [15]);
    assert_eq!(desk.setting_aside(), Some(vec![16]));
    // It comes back in the lane in which it went, and nothing waits for it when it is given up.
    desk.hear(Input::SetAside(Ok(Fenced::Done(true))));
    desk.wait(300);
    desk.beats(&[lease(0, 1)]);
    desk.read_parked(vec![OutboxRow { lane: own, attempts: 1, ..row(11, "a", "clicks", Place::Parked) }]);
    assert_eq!(desk.published(), [11]);
    desk.fail(11, ErrorClass::Event);
    assert_eq!(desk.rejection().unwrap().verdict, Verdict::Bury { later: LaterEvents::GoOn });
}

#[test]
fn no_more_are_sent_than_are_asked_for() {
    let mut desk = Desk::new(settings());
    desk.engine = Engine::new(settings()).with_limit(3);
    desk.open.clear();
    desk.poll();
    desk.heartbeat();
    desk.hear(ownership(&[lease(0, 1)], 1, 1));
    desk.read((1..=9).map(|id| hot(id, &format!("k{id}"))).collect());
    let mut confirmed = 0;
    while !desk.engine.has_sent_all() {
        let sent = desk.published();
        assert!(!sent.is_empty() && confirmed + sent.len() <= 3, "{sent:?} after {confirmed}");
        let (first, rest) = sent.split_first().unwrap();
        // What failed is sent again, or another in its place.
        rest.iter().for_each(|id| desk.fail(*id, ErrorClass::Unknown));
        desk.receipt(*first);
        confirmed += 1;
    }
    assert_eq!((confirmed, desk.published().len()), (3, 0));
    desk.wait(100);
    assert_eq!(desk.published(), NONE);
}
