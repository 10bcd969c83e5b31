//! Whether a connection may be lent again.

use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};
use diesel_async::{AsyncConnection, AsyncMysqlConnection};

use crate::error::is_unanswered;

/// The client library does not notice that a query was dropped half-way, by a time-out for example: the next one would
/// take the answer for its own. So it is noted which query began and did not end. Nor does it tell that the server has closed
/// the connection, which each further query would find out anew; so it is noted, too, that the last one had no answer, or one that
/// may say this. (Of one whose answer breaks off between its rows nothing is heard here.)
struct Watch {
    /// What the application has asked diesel for.
    next: Option<Box<dyn Instrumentation>>,
    in_query: bool,
    in_doubt: bool,
}

impl Instrumentation for Watch {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.in_query = true,
            InstrumentationEvent::FinishQuery { error, .. } => {
                self.in_query = false;
                self.in_doubt = error.is_some_and(is_unanswered);
            }
            _ => {}
        }
        if let Some(next) = &mut self.next {
            next.on_connection_event(event);
        }
    }
}

/// From now on it is noted.
pub(super) fn watch(conn: &mut AsyncMysqlConnection) {
    conn.set_instrumentation(Watch { next: get_default_instrumentation(), in_query: false, in_doubt: false });
}

/// Whether nothing is under way, as far as one can tell: of a connection that was given another instrumentation, one cannot.
pub(super) fn is_at_rest(conn: &mut AsyncMysqlConnection) -> bool {
    conn.instrumentation().downcast_ref::<Watch>().is_some_and(|watch| !watch.in_query)
}

/// Whether the server may have closed it, as far as the last answer tells: it may have ended the statement only.
pub(super) fn is_in_doubt(conn: &mut AsyncMysqlConnection) -> bool {
    conn.instrumentation().downcast_ref::<Watch>().is_none_or(|watch| watch.in_doubt)
}
