//! How events led to one another, for the error that says so when they do it without end.

use crate::error::{Error, ErrorKind};

/// The events whose handlers said more.
#[derive(Default)]
pub(crate) struct Path {
    steps: Vec<Step>,
}

struct Step {
    event: &'static str,
    because_of: Option<usize>,
}

/// So many events are shown of a path that is longer.
const SHOWN: usize = 8;

impl Path {
    /// Adds an event whose handler said something, and gives its place. Handlers of one event share it.
    pub(crate) fn step(&mut self, event: &'static str, because_of: Option<usize>) -> usize {
        match self.steps.last() {
            Some(last) if last.event == event && last.because_of == because_of => {}
            _ => self.steps.push(Step { event, because_of }),
        }
        self.steps.len() - 1
    }

    #[cold]
    pub(crate) fn flood(&self, last: &str, because_of: Option<usize>, max_events: usize) -> Error {
        let mut names = vec![last];
        let mut at = because_of;
        while let Some(step) = at.and_then(|at| self.steps.get(at)) {
            names.push(step.event);
            at = step.because_of;
        }
        let ancestors = names.len() - 1;
        let path = if ancestors == 0 {
            format!("`{last}` the last, said by the request itself")
        } else {
            let more = if names.len() > SHOWN { "… → " } else { "" };
            names.truncate(SHOWN);
            names.reverse();
            let others = if ancestors == 1 { "other" } else { "others" };
            format!("`{last}` the last, behind {ancestors} {others}: {more}{}", names.join(" → "))
        };
        Error::new(
            ErrorKind::EventFlood,
            format!(
                "one request led to more than {max_events} events, {path}. If its handlers say events that lead to themselves, end \
                 that; else raise the limit with `EventEmitter::with_max_events`"
            ),
        )
    }
}
