//! From the type of a request to its handler, and into it: what every send goes through.

use std::any::{Any, TypeId};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::request_mediator::Core;
use super::type_hash::hash_of;
use crate::context::{Context, Origin};
use crate::middleware::Next;
use crate::request::{Reply, Request};

/// Bound handlers by their type, which is that of their request or event.
///
/// A hash table with open addressing, of which at most an eighth is in use. It holds no keys: a [`TypeId`] says where
/// to begin, and the downcast, which there has to be anyway, says whether this is the one.
#[derive(Default)]
pub(super) struct Handlers {
    /// As many as a power of two.
    pub(super) slots: Vec<Option<Box<dyn Any + Send + Sync>>>,
    len: usize,
    /// Where in a hash the bits are that say where to begin.
    shift: u32,
    #[cfg(feature = "testing")]
    pub(super) records: Vec<super::recorded::Record>,
}

impl Handlers {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get<B: Any>(&self) -> Option<&B> {
        let mut at = self.begin(TypeId::of::<B>());
        loop {
            // The bits beyond the size of the table are not looked at.
            let bound = self.slots.get(at & self.slots.len().wrapping_sub(1))?.as_ref()?;
            if let Some(bound) = bound.downcast_ref::<B>() {
                return Some(bound);
            }
            at = at.wrapping_add(1);
        }
    }

    pub(super) fn get_mut<B: Any>(&mut self) -> Option<&mut B> {
        self.get::<B>()?;
        self.slots.iter_mut().flatten().find_map(|bound| bound.downcast_mut::<B>())
    }

    /// Adds one whose request or event has none.
    pub(super) fn insert<B: Any + Send + Sync>(&mut self, bound: B) {
        self.len += 1;
        if self.slots.len() < self.len * 8 {
            let grown = (self.len * 16).next_power_of_two();
            let bound = std::mem::take(&mut self.slots);
            self.slots.resize_with(grown, || None);
            bound.into_iter().flatten().for_each(|bound| self.put(bound));
        }
        self.put(Box::new(bound));
    }

    /// Takes those bits of the hashes by which most are found where their search begins: all of them, unless they are many.
    pub(super) fn settle(&mut self) {
        let hashes: Vec<u64> =
            self.slots.iter().flatten().map(|bound| hash_of((**bound).type_id())).collect();
        let mask = self.slots.len().saturating_sub(1) as u64;
        let beginnings =
            |shift: &u32| hashes.iter().map(|hash| (hash >> shift) & mask).collect::<HashSet<_>>().len();
        self.shift = (0..mask.leading_zeros()).max_by_key(beginnings).unwrap_or(0);
        let bound = std::mem::take(&mut self.slots);
        self.slots.resize_with(bound.len(), || None);
        bound.into_iter().flatten().for_each(|bound| self.put(bound));
    }

    fn begin(&self, id: TypeId) -> usize {
        (hash_of(id) >> self.shift) as usize
    }

    fn put(&mut self, bound: Box<dyn Any + Send + Sync>) {
        let mask = self.slots.len() - 1;
        let mut at = self.begin((*bound).type_id()) & mask;
        while self.slots[at].is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Some(bound);
    }
}

/// The handler of a request.
pub(super) struct Bound<R: Request>(pub(super) Arc<dyn Call<R>>);

/// A handler within its middlewares: the one place where a future is boxed.
pub(super) trait Call<R: Request>: Send + Sync {
    fn call<'a>(
        &'a self,
        request: R,
        core: &'a Core,
        origin: Origin<'a>,
    ) -> Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>;
}

impl<R: Request, N: Next<R>> Call<R> for N {
    fn call<'a>(
        &'a self,
        request: R,
        core: &'a Core,
        origin: Origin<'a>,
    ) -> Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>> {
        boxed_in_place(move || {
            // Made out here and not moved again.
            let mut cx = Context::of_request(core, origin);
            async move {
                let reply = self.run(request, &cx).await;
                if reply.is_ok()
                    && let Some(said) = cx.take_own_said()
                {
                    core.emitter().emit_of_request(&cx, said).await?;
                }
                reply
            }
        })
    }
}

/// The same as `Box::pin(make())`, but the future is made where it stays. With `Box::pin` it is on the stack, to be
/// dropped if the allocation panics, and so is copied from there, all of it: a third of what a send costs.
fn boxed_in_place<'a, F: Future + Send + 'a>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = F::Output> + Send + 'a>> {
    let room = Box::<F>::new_uninit();
    let made = Box::write(room, make());
    Box::into_pin(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbered<const N: usize>(usize);

    macro_rules! for_each {
        ($each:ident: $($number:literal)*) => {$( $each!($number); )*};
    }

    #[test]
    fn all_are_found_where_they_are_looked_for_first_and_what_is_not_there_is_not() {
        let mut handlers = Handlers::default();
        handlers.settle();
        assert!(handlers.get::<Numbered<0>>().is_none());
        macro_rules! insert {
            ($number:literal) => {
                handlers.insert(Numbered::<$number>($number));
            };
        }
        macro_rules! find {
            ($number:literal) => {
                assert_eq!(handlers.get::<Numbered<$number>>().unwrap().0, $number);
                let at = handlers.begin(TypeId::of::<Numbered<$number>>()) & (handlers.slots.len() - 1);
                assert!(handlers.slots[at].as_ref().unwrap().is::<Numbered<$number>>());
            };
        }
        for_each!(insert: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
        handlers.settle();
        for_each!(find: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
        assert!(handlers.get::<Numbered<20>>().is_none());
    }
}
