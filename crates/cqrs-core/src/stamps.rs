//! Where the time and the id of an event come from.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

/// The system's clock and new ids (UUID version 7), unless others were given.
#[derive(Clone, Default)]
pub(crate) struct Stamps {
    pub(crate) clock: Option<Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>>,
    pub(crate) ids: Option<Arc<dyn Fn() -> Uuid + Send + Sync>>,
}

impl Stamps {
    /// In microseconds, which is what travels.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.as_ref().map_or_else(Utc::now, |clock| clock()).trunc_subsecs(6)
    }

    pub(crate) fn id(&self) -> Uuid {
        self.ids.as_ref().map_or_else(Uuid::now_v7, |ids| ids())
    }
}

impl fmt::Debug for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamps")
            .field("has_clock", &self.clock.is_some())
            .field("has_ids", &self.ids.is_some())
            .finish()
    }
}
