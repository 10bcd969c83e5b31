//! What happened, in its order.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::codec::Encoder;
use crate::message::Message;
use crate::outgoing::Outgoing;

/// Where a sent request is kept, if it is. It needs no `Sync`.
pub(super) type Slot<R> = OnceLock<Mutex<R>>;

pub(crate) struct Recorder {
    entries: Mutex<Vec<Entry>>,
    keepers: Keepers,
    encoder: Encoder,
}

pub(super) enum Entry {
    Sent { request: TypeId, name: &'static str, slot: Arc<dyn Any + Send + Sync> },
    Emitted { name: &'static str, event: Arc<dyn Any + Send + Sync> },
    Published(Box<Outgoing>),
}

/// How requests are kept that belong to a handler: by a clone, and only those that were asked for.
#[derive(Default)]
pub(super) struct Keepers(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Keepers {
    pub(super) fn add<R: Clone + 'static>(&mut self) {
        let clone: fn(&R) -> R = R::clone;
        self.0.insert(TypeId::of::<R>(), Box::new(clone));
    }

    fn keep<R: 'static>(&self, request: &R) -> Option<R> {
        let clone = self.0.get(&TypeId::of::<R>())?.downcast_ref::<fn(&R) -> R>()?;
        Some(clone(request))
    }
}

impl Recorder {
    pub(super) fn new(keepers: Keepers, encoder: Encoder) -> Self {
        Self { entries: Mutex::default(), keepers, encoder }
    }

    /// A request reached its handler.
    pub(crate) fn sent<R: Send + 'static>(&self, name: &'static str, request: &R) {
        let slot = self.begun::<R>(name);
        if let Some(kept) = self.keepers.keep(request) {
            slot.get_or_init(|| Mutex::new(kept));
        }
    }

    /// A request reached a script, which puts it into the slot when it is done with it.
    pub(super) fn begun<R: Send + 'static>(&self, name: &'static str) -> Arc<Slot<R>> {
        let slot = Arc::new(Slot::<R>::new());
        self.entries().push(Entry::Sent { request: TypeId::of::<R>(), name, slot: slot.clone() });
        slot
    }

    pub(crate) fn emitted(&self, name: &'static str, event: Arc<dyn Any + Send + Sync>) {
        self.entries().push(Entry::Emitted { name, event });
    }

    pub(crate) fn published(&self, outgoing: Outgoing) {
        self.entries().push(Entry::Published(Box::new(outgoing)));
    }

    pub(super) fn forget(&self) {
        self.entries().clear();
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.entries().iter().map(Entry::to_string).collect();
        f.debug_tuple("Recorder").field(&lines).finish()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { name, .. } => write!(f, "sent {name}"),
            Self::Emitted { name, .. } => write!(f, "emitted {name}"),
            Self::Published(outgoing) => {
                let Message { name, topic, key, payload, .. } = &outgoing.message;
                write!(f, "published {name} to {topic}")?;
                match key {
                    Some(key) => write!(f, " with the key \"{}\"", key.escape_ascii())?,
                    None => write!(f, " without a key")?,
                }
                match payload {
                    Some(payload) => write!(f, ": {}", String::from_utf8_lossy(payload)),
                    None => write!(f, ": a tombstone"),
                }
            }
        }
    }
}
