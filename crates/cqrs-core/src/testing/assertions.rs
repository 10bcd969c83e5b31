use std::any::{Any, TypeId};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::record::{Entry, Recorder, Slot};
use crate::codec::decode_payload;
use crate::error::WithCauses;
use crate::event::{DomainEvent, IntegrationEvent};
use crate::message::Message;
use crate::outgoing::Outgoing;

/// Requests that reached their handler or script; see [`TestMediator::sent`](super::TestMediator::sent).
pub struct Sent<R>(PhantomData<fn(R)>);

/// Domain events that went to their handlers; see [`TestMediator::emitted`](super::TestMediator::emitted).
pub struct Emitted<E>(PhantomData<fn(E)>);

/// Integration events that went out; see [`TestMediator::published`](super::TestMediator::published).
pub struct Published<E>(PhantomData<fn(E)>);

/// What a test looks at: [`Sent`], [`Emitted`] or [`Published`]. It is implemented here only.
pub trait Kind: sealed::Kind {}

/// What a test can look into. It is implemented here only: for requests, for domain events, and for integration events that
/// can be decoded.
pub trait Content: Kind + sealed::Content {}

mod sealed {
    use super::Recorder;

    pub trait Kind {
        /// What is recorded of it.
        type Record: Clone;
        const VERB: &'static str;
    }

    pub trait Content: Kind {
        type Value;

        #[allow(private_interfaces)]
        fn with<T>(
            record: &Self::Record,
            recorder: &Recorder,
            look: impl FnOnce(&Self::Value) -> T,
        ) -> Result<T, String>;
    }
}

/// What was recorded of one type, and has to be counted: [`once`](Self::once), [`times`](Self::times), [`never`](Self::never). What
/// is said before that narrows down what is counted; what is said behind it holds for each that was counted.
///
/// ```
/// # use cqrs_core::testing::TestMediator;
/// # use cqrs_core::{NotificationEvent, Result};
/// # #[derive(serde::Serialize, serde::Deserialize, NotificationEvent)]
/// # #[event(topic = "rooms", key = room)]
/// # struct RoomClosed { room: u32 }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// # let test = TestMediator::builder().build();
/// test.emit(RoomClosed { room: 5 }).await?;
/// test.emit(RoomClosed { room: 6 }).await?;
///
/// test.published::<RoomClosed>().with_key("5").once(); // of those with this key, there is one
/// test.published::<RoomClosed>().times(2).on_topic("rooms"); // there are two, and both on this topic
/// # Ok(()) }
/// ```
#[must_use = "nothing is asserted before it is counted: `.once()`, `.times(2)`, `.never()`"]
pub struct Found<'a, K: Kind> {
    recorder: &'a Recorder,
    /// Its name, and what it was narrowed down to.
    subject: String,
    records: Vec<K::Record>,
    /// What was not equal to what was looked for.
    others: Vec<String>,
}

/// What was counted, for whatever else is to hold for each of it.
pub struct Counted<'a, K: Kind>(Found<'a, K>);

impl<'a, K: Kind> Found<'a, K> {
    fn new(recorder: &'a Recorder, name: &str, find: impl Fn(&Entry) -> Option<K::Record>) -> Self {
        let records = recorder.entries().iter().filter_map(find).collect();
        Self { recorder, subject: format!("`{name}`"), records, others: Vec::new() }
    }

    /// There is exactly one.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    #[track_caller]
    pub fn once(self) -> Counted<'a, K> {
        self.times(1)
    }

    /// There are exactly so many.
    ///
    /// # Panics
    ///
    /// If there are more or less.
    #[track_caller]
    pub fn times(self, count: usize) -> Counted<'a, K> {
        if self.records.len() != count {
            let (wanted, found) = (in_words(count), in_words(self.records.len()));
            self.fail(format_args!("was to be {} {wanted}, and was {found}", K::VERB));
        }
        Counted(self)
    }

    /// There is none.
    ///
    /// # Panics
    ///
    /// If there is one.
    #[track_caller]
    pub fn never(self) {
        self.times(0);
    }

    /// How many there are, for what the others do not say.
    pub fn count(self) -> usize {
        self.records.len()
    }

    fn narrow(mut self, to: fmt::Arguments<'_>, holds: impl Fn(&K::Record) -> bool) -> Self {
        self.subject = format!("{} {to}", self.subject);
        self.records.retain(holds);
        self
    }

    #[track_caller]
    fn fail(&self, problem: fmt::Arguments<'_>) -> ! {
        let others: String = self.others.iter().map(|other| format!("\nnot equal: {other}")).collect();
        panic!("{} {problem}{others}\n{}", self.subject, journal(self.recorder))
    }

    /// All that were counted have to be left.
    #[track_caller]
    fn has_kept(&self, all: usize) {
        let left = self.records.len();
        if left != all {
            self.fail(format_args!("was to hold for all {all} that were {}, and holds for {left}", K::VERB));
        }
    }
}

impl<'a, K: Content> Found<'a, K> {
    /// For which the closure gives `true`.
    ///
    /// # Panics
    ///
    /// If one of them cannot be looked into: a payload that is not of this type, or a request that was not
    /// [kept](super::TestMediatorBuilder::keep).
    #[track_caller]
    pub fn matching(self, matches: impl Fn(&K::Value) -> bool) -> Self {
        self.keep(matches).narrow(format_args!("that matches"), |_| true)
    }

    #[track_caller]
    fn keep(mut self, matches: impl Fn(&K::Value) -> bool) -> Self {
        let mut matched = Vec::new();
        // Not in a closure, for which `track_caller` does nothing.
        for record in std::mem::take(&mut self.records) {
            if self.look(&record, &matches) {
                matched.push(record);
            }
        }
        self.records = matched;
        self
    }

    #[track_caller]
    fn equal(mut self, wanted: &K::Value) -> Self
    where
        K::Value: PartialEq + fmt::Debug,
    {
        let mut others = Vec::new();
        for record in &self.records {
            others.extend(self.look(record, |is| (is != wanted).then(|| format!("{is:?}"))));
        }
        self.others = others;
        self.keep(|is| is == wanted).narrow(format_args!("equal to {wanted:?}"), |_| true)
    }

    #[track_caller]
    fn look<T>(&self, record: &K::Record, look: impl FnOnce(&K::Value) -> T) -> T {
        match K::with(record, self.recorder, look) {
            Ok(seen) => seen,
            Err(problem) => self.fail(format_args!("cannot be looked into: {problem}")),
        }
    }
}

impl<E: IntegrationEvent> Found<'_, Published<E>> {
    /// With this key.
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.narrow(format_args!("with the key \"{}\"", key.escape_ascii()), |outgoing| {
            outgoing.message.key.as_ref() == Some(&key)
        })
    }

    /// Without a key.
    pub fn without_key(self) -> Self {
        self.narrow(format_args!("without a key"), |outgoing| outgoing.message.key.is_none())
    }

    /// With this header, be it the only one of its name or one of several.
    pub fn with_header(self, name: &str, value: impl Into<Bytes>) -> Self {
        let value = value.into();
        self.narrow(format_args!("with the header {name}: \"{}\"", value.escape_ascii()), |outgoing| {
            outgoing.message.headers.iter().any(|header| header == (name, &value))
        })
    }

    /// On this topic.
    pub fn on_topic(self, topic: &str) -> Self {
        self.narrow(format_args!("on the topic \"{topic}\""), |outgoing| outgoing.message.topic == topic)
    }

    /// That say the same as this one: compared as JSON, so the event needs neither `PartialEq` nor `Deserialize`.
    ///
    /// # Panics
    ///
    /// If the event cannot be serialised.
    #[track_caller]
    pub fn equal_to(self, event: &E) -> Self {
        let wanted = match serde_json::to_value(event) {
            Ok(wanted) => wanted,
            Err(error) => {
                self.fail(format_args!("is compared with an event that cannot be serialised: {error}"))
            }
        };
        let recorder = self.recorder;
        self.narrow(format_args!("equal to {wanted}"), |outgoing| {
            decoded(outgoing, recorder).is_ok_and(|is: serde_json::Value| is == wanted)
        })
    }
}

impl<E: DomainEvent + PartialEq + fmt::Debug> Found<'_, Emitted<E>> {
    /// That are equal to this one.
    #[track_caller]
    pub fn equal_to(self, event: &E) -> Self {
        self.equal(event)
    }
}

impl<R: PartialEq + fmt::Debug + Send + 'static> Found<'_, Sent<R>> {
    /// That are equal to this one.
    ///
    /// # Panics
    ///
    /// If the request was not [kept](super::TestMediatorBuilder::keep).
    #[track_caller]
    pub fn equal_to(self, request: &R) -> Self {
        self.equal(request)
    }
}

impl<'a, K: Kind> Counted<'a, K> {
    /// Narrows down, and fails if that leaves less.
    #[track_caller]
    fn each(self, narrow: impl FnOnce(Found<'a, K>) -> Found<'a, K>) -> Self {
        let all = self.0.records.len();
        let narrowed = narrow(self.0);
        narrowed.has_kept(all);
        Self(narrowed)
    }
}

impl<K: Content> Counted<'_, K> {
    /// For each the closure gives `true`.
    ///
    /// # Panics
    ///
    /// If it does not for one; or if one cannot be looked into, as for [`Found::matching`].
    #[track_caller]
    pub fn matching(self, matches: impl Fn(&K::Value) -> bool) -> Self {
        let all = self.0.records.len();
        let narrowed = self.0.matching(matches);
        narrowed.has_kept(all);
        Self(narrowed)
    }

    /// Shows each to the closure, for assertions of your own.
    ///
    /// # Panics
    ///
    /// If the closure does; or if one cannot be looked into, as for [`Found::matching`].
    #[track_caller]
    pub fn inspect(self, mut look: impl FnMut(&K::Value)) -> Self {
        for record in &self.0.records {
            self.0.look(record, &mut look);
        }
        self
    }

    /// Clones of all of them, in their order.
    ///
    /// # Panics
    ///
    /// If one cannot be looked into, as for [`Found::matching`].
    #[track_caller]
    pub fn cloned(&self) -> Vec<K::Value>
    where
        K::Value: Clone,
    {
        let mut values = Vec::new();
        for record in &self.0.records {
            values.push(self.0.look(record, K::Value::clone));
        }
        values
    }
}

impl<E: IntegrationEvent> Counted<'_, Published<E>> {
    /// Each has this key.
    ///
    /// # Panics
    ///
    /// If one has not.
    #[track_caller]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        self.each(|found| found.with_key(key))
    }

    /// None has a key.
    ///
    /// # Panics
    ///
    /// If one has.
    #[track_caller]
    pub fn without_key(self) -> Self {
        self.each(Found::without_key)
    }

    /// Each has this header, be it the only one of its name or one of several.
    ///
    /// # Panics
    ///
    /// If one has not.
    #[track_caller]
    pub fn with_header(self, name: &str, value: impl Into<Bytes>) -> Self {
        self.each(|found| found.with_header(name, value))
    }

    /// Each is on this topic.
    ///
    /// # Panics
    ///
    /// If one is not.
    #[track_caller]
    pub fn on_topic(self, topic: &str) -> Self {
        self.each(|found| found.on_topic(topic))
    }

    /// Each says the same as this one, as for [`Found::equal_to`].
    ///
    /// # Panics
    ///
    /// If one does not, or if the event cannot be serialised.
    #[track_caller]
    pub fn equal_to(self, event: &E) -> Self {
        self.each(|found| found.equal_to(event))
    }

    /// The events, decoded, in their order.
    ///
    /// # Panics
    ///
    /// If a payload is not of this type.
    #[track_caller]
    pub fn events(&self) -> Vec<E>
    where
        E: DeserializeOwned,
    {
        let mut events = Vec::new();
        for outgoing in &self.0.records {
            match decoded(outgoing, self.0.recorder) {
                Ok(event) => events.push(event),
                Err(problem) => self.0.fail(format_args!("cannot be looked into: {problem}")),
            }
        }
        events
    }

    /// The messages as they went to the broker or into the outbox, in their order.
    pub fn messages(&self) -> Vec<Message> {
        self.0.records.iter().map(|outgoing| outgoing.message.clone()).collect()
    }

    /// The same, with what an outbox was asked for: a time of delivery, a deduplication key, a version.
    pub fn outgoing(&self) -> Vec<Outgoing> {
        self.0.records.iter().map(|outgoing| Outgoing::clone(outgoing)).collect()
    }
}

impl<E: DomainEvent + PartialEq + fmt::Debug> Counted<'_, Emitted<E>> {
    /// Each is equal to this one.
    ///
    /// # Panics
    ///
    /// If one is not.
    #[track_caller]
    pub fn equal_to(self, event: &E) -> Self {
        self.each(|found| found.equal_to(event))
    }
}

impl<R: PartialEq + fmt::Debug + Send + 'static> Counted<'_, Sent<R>> {
    /// Each is equal to this one.
    ///
    /// # Panics
    ///
    /// If one is not; or if it was not [kept](super::TestMediatorBuilder::keep).
    #[track_caller]
    pub fn equal_to(self, request: &R) -> Self {
        self.each(|found| found.equal_to(request))
    }
}

impl<R> Kind for Sent<R> {}

impl<R> sealed::Kind for Sent<R> {
    type Record = Arc<dyn Any + Send + Sync>;
    const VERB: &'static str = "sent";
}

impl<R: Send + 'static> Content for Sent<R> {}

impl<R: Send + 'static> sealed::Content for Sent<R> {
    type Value = R;

    #[allow(private_interfaces)]
    fn with<T>(record: &Self::Record, _: &Recorder, look: impl FnOnce(&R) -> T) -> Result<T, String> {
        let kept = record.downcast_ref::<Slot<R>>().and_then(|slot| slot.get()).ok_or(
            "it went to a handler and was not kept; ask for it with `.keep::<..>()` of the builder, or script its answer",
        )?;
        Ok(look(&*kept.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<'a, R: Send + 'static> Found<'a, Sent<R>> {
    pub(super) fn sent(recorder: &'a Recorder, name: &str) -> Self {
        Self::new(recorder, name, |entry| match entry {
            Entry::Sent { request, slot, .. } if *request == TypeId::of::<R>() => Some(Arc::clone(slot)),
            _ => None,
        })
    }
}

impl<E> Kind for Emitted<E> {}

impl<E> sealed::Kind for Emitted<E> {
    type Record = Arc<dyn Any + Send + Sync>;
    const VERB: &'static str = "emitted";
}

impl<E: DomainEvent> Content for Emitted<E> {}

impl<E: DomainEvent> sealed::Content for Emitted<E> {
    type Value = E;

    #[allow(private_interfaces)]
    fn with<T>(record: &Self::Record, _: &Recorder, look: impl FnOnce(&E) -> T) -> Result<T, String> {
        // They were found by this type, so there is no other case.
        record.downcast_ref::<E>().map(look).ok_or_else(|| "it is of another type".to_owned())
    }
}

impl<'a, E: DomainEvent> Found<'a, Emitted<E>> {
    pub(super) fn emitted(recorder: &'a Recorder) -> Self {
        Self::new(recorder, E::NAME, |entry| match entry {
            Entry::Emitted { event, .. } if event.is::<E>() => Some(Arc::clone(event)),
            _ => None,
        })
    }
}

impl<E> Kind for Published<E> {}

impl<E> sealed::Kind for Published<E> {
    type Record = Box<Outgoing>;
    const VERB: &'static str = "published";
}

impl<E: IntegrationEvent + DeserializeOwned> Content for Published<E> {}

impl<E: IntegrationEvent + DeserializeOwned> sealed::Content for Published<E> {
    type Value = E;

    #[allow(private_interfaces)]
    fn with<T>(record: &Self::Record, recorder: &Recorder, look: impl FnOnce(&E) -> T) -> Result<T, String> {
        decoded(record, recorder).map(|event| look(&event))
    }
}

impl<'a, E: IntegrationEvent> Found<'a, Published<E>> {
    pub(super) fn published(recorder: &'a Recorder) -> Self {
        Self::new(recorder, E::NAME, |entry| match entry {
            Entry::Published(outgoing) if outgoing.message.name == E::NAME => Some(outgoing.clone()),
            _ => None,
        })
    }
}

/// What a consumer with the same encoder would read.
fn decoded<T: DeserializeOwned>(outgoing: &Outgoing, recorder: &Recorder) -> Result<T, String> {
    let message = recorder.encoder().decode(outgoing.message.clone());
    message.and_then(|message| decode_payload(&message)).map_err(|error| WithCauses(&*error).to_string())
}

fn in_words(times: usize) -> String {
    match times {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        more => format!("{more} times"),
    }
}

/// All that happened, for whoever reads why a test failed.
fn journal(recorder: &Recorder) -> String {
    let entries = recorder.entries();
    if entries.is_empty() {
        return "nothing happened".to_owned();
    }
    let lines = entries.iter().map(|entry| format!("\n  {entry}"));
    format!("what happened:{}", lines.collect::<String>())
}

impl<K: Kind> fmt::Debug for Found<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {} {}", self.subject, K::VERB, in_words(self.records.len()))
    }
}

impl<K: Kind> fmt::Debug for Counted<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! debug_by_name {
    ($($kind:ident)*) => {$(
        impl<T> fmt::Debug for $kind<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($kind))
            }
        }
    )*};
}

debug_by_name!(Sent Emitted Published);
