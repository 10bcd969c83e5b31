//! The rows of the suite.

mod content;
mod dead_letters;
mod delivery;
mod errors;
mod formats;
mod groups;
mod lifecycle;
mod sessions;
mod volume;

use std::future::Future;
use std::pin::Pin;

use super::bench::{Bench, Checked};

/// A row: its name, what a broker promises by it, and how that is put to the test.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) run: for<'a> fn(&'a Bench<'a>) -> Pin<Box<dyn Future<Output = Checked> + Send + 'a>>,
}

macro_rules! rows {
    ($($name:literal, $promise:literal => $run:path;)*) => {
        &[$(Entry { name: $name, promise: $promise, run: |bench| Box::pin($run(bench)) }),*]
    };
}

pub(super) const ALL: &[Entry] = rows! {
    "envelope", "id, name, kind, version, time and content type come back through the codec" => content::envelope;
    "formats", "an event comes back in every wire format of the core" => formats::all;
    "dead-letters", "a dead letter tells its event, whatever its wire format is" => dead_letters::tell_their_event;
    "headers", "headers arrive identical: unicode, empty, binary, special characters" => content::headers;
    "keys", "keys arrive identical: none, empty, unicode, binary, long" => content::keys;
    "payloads", "payloads arrive identical: empty, binary, large" => content::payloads;
    "tombstones", "a message without a payload stays one" => content::tombstones;

    "many-to-many", "of many messages by many publishers to many consumers none is lost" => volume::many_to_many;
    "cross-talk", "a message comes from its topic and from no other" => volume::cross_talk;
    "order-per-key", "messages of a key arrive in their order, with concurrent publishers and several consumers" => volume::order_per_key;

    "release", "a message that was released comes again, before the later ones of its key" => delivery::release;
    "attempts", "a message that comes again has a higher attempt" => delivery::attempts;
    "acknowledged", "a message that was acknowledged does not come again" => delivery::acknowledged;
    "prefetch", "no more messages are delivered unacknowledged than the prefetch says" => delivery::prefetch;
    "stale-tag", "an acknowledgement that comes too late is stale and does no harm" => delivery::stale_tag;
    "lost", "a delivery whose subscription has ended says that it is lost" => delivery::lost;
    "cancelled-next", "a dropped `next` takes no message" => delivery::cancelled_next;

    "groups", "every group gets every message" => groups::each_gets_all;
    "within-a-group", "within a group every message goes to one member, once" => groups::once_within;
    "late-group", "a group that joins later gets what was published before" => groups::late;

    "session-order", "several messages of a key in a session arrive in their order" => sessions::order;
    "session-gap", "nothing that was behind a refused message in its session arrives" => sessions::gap;
    "session-abort", "of a session that was aborted the first messages arrive, and none behind one that did not" => sessions::abort;

    "reopen", "what was not acknowledged comes again after a reopen, what was does not" => lifecycle::reopen;
    "reopen-mid-stream", "nothing is lost by closing and opening again in the middle of a stream" => lifecycle::reopen_mid_stream;
    "consumers-closing", "nothing is lost by ten consumers that close at once" => lifecycle::consumers_closing;
    "publisher-closed", "of a publisher that is closed while it publishes, every Ok arrives and every loss is an error" => lifecycle::publisher_closed;
    "closed", "a closed connection publishes nothing, ends its subscriptions and is not well" => lifecycle::closed;
    "restart", "nothing is lost by restarts of the broker in the middle of a stream" => lifecycle::restart;

    "oversize", "a message that is too large is refused for good, and the error names the limit" => errors::oversize;
    "missing-destination", "a message to a topic that does not exist is an error of that destination" => errors::missing_destination;
    "no-destination", "what names no topic or no group, or has room for no message, is an error of its destination, and the connection goes on" => errors::no_destination;
};
