//! Who was at work when the time of a received message was up.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::{mem, ptr};

use super::{Context, Narrowed, Origin};

/// How many are named: those that were cut off first, and what waits for others is cut off behind them.
const NAMED: usize = 3;

/// Handlers that were dropped before they had done, when the time of their message was up.
#[derive(Default)]
pub(crate) struct AtWork(Mutex<Cut>);

#[derive(Default)]
struct Cut {
    names: Vec<String>,
    count: usize,
    /// In which contexts, by their addresses, or within which a transaction to begin was waited for.
    waited: Vec<usize>,
}

impl AtWork {
    fn add(&self, cx: &Context<'_>, name: &str) {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_waited = cut.waited.contains(&address(cx));
        let waited = if has_waited { " (which waited for a transaction to begin)" } else { "" };
        cut.count += 1;
        if cut.names.len() < NAMED {
            cut.names.push(format!("`{name}`{waited}"));
        }
    }

    /// Whether there is one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count == 0
    }
}

fn address(cx: &Context<'_>) -> usize {
    ptr::from_ref(cx).addr()
}

/// From here a middleware cannot be told from the handler that it stands around.
impl fmt::Display for AtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = cut.names.join(", ");
        match cut.count - cut.names.len() {
            0 if cut.count == 1 => write!(f, "the handler {names} or a middleware around it was at work"),
            0 => write!(f, "the handlers {names} or middlewares around them were at work"),
            more => write!(f, "the handlers {names} and {more} more or middlewares around them were at work"),
        }
    }
}

/// A handler at work. Nothing is noted while it is: only when this is dropped before it has done.
#[must_use = "a handler is at work until this is dropped, or told that it has done"]
pub(crate) struct Unfinished<'a, N: Fn() -> &'a str> {
    cx: &'a Context<'a>,
    name: N,
}

impl<'a, N: Fn() -> &'a str> Unfinished<'a, N> {
    pub(crate) fn has_done(self) {
        // It has nothing to give back.
        mem::forget(self);
    }
}

impl<'a, N: Fn() -> &'a str> Drop for Unfinished<'a, N> {
    fn drop(&mut self) {
        if let Some(at_work) = self.cx.cut_off() {
            at_work.add(self.cx, (self.name)());
        }
    }
}

/// A handler that has not begun: another one has what it needs for its transaction.
pub(crate) struct Waiting<'a>(&'a Context<'a>);

impl Waiting<'_> {
    pub(crate) fn ends(self) {
        mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(at_work) = self.0.cut_off() {
            let waited = self.0.outwards().map(address);
            at_work.0.lock().unwrap_or_else(PoisonError::into_inner).waited.extend(waited);
        }
    }
}

impl Context<'_> {
    /// From now on a transaction is waited for. What is dropped meanwhile has done nothing that could hang.
    pub(crate) fn wait_for_transaction(&self) -> Waiting<'_> {
        Waiting(self)
    }

    /// A handler begins to work here, which is named where the time of the message that led here is up before it has done. No future
    /// around its own: that was 36 instructions more for each handler of an event, and this is 7.
    pub(crate) fn begin_work<'a, N: Fn() -> &'a str>(&'a self, name: N) -> Unfinished<'a, N> {
        Unfinished { cx: self, name }
    }

    /// Where to name what is cut off here, if it is the end of the message's time that does so, and nothing within.
    #[cold]
    fn cut_off(&self) -> Option<&AtWork> {
        self.outwards().find_map(|cx| match cx.origin {
            Origin::Narrowed(narrowed @ Narrowed { received: Some(received), .. }) => {
                narrowed.is_over().then_some(&received.at_work)
            }
            _ => None,
        })
    }
}
