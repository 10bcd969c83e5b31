//! Handlers that a test records or puts in place of others. Sends know nothing of it: what is bound is changed before there is a
//! mediator.

use std::any::Any;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};

use super::emitter::EventEmitter;
use super::handlers::{Bound, Call, Handlers};
use super::request_map::RequestMap;
use super::stream::{BoundStream, CallStream};
use crate::broker::MessageBroker;
use crate::context::{Context, Origin};
use crate::middleware::{MiddlewareStack, Next, NoMiddleware};
use crate::recording::Recording;
use crate::request::{Reply, Request, RequestHandler, StreamHandler, StreamRequest};
use crate::testing::{FixedClock, FixedIds, Recorder};

/// Puts a recorder around what is bound to one request, whose type it knows.
pub(super) type Record = fn(&mut Handlers, &Arc<Recorder>);

/// What is bound to a request, and can be recorded.
pub(super) trait Recordable: Any + Send + Sync {
    fn record(&mut self, recorder: &Arc<Recorder>);
}

impl Handlers {
    /// Remembers how to record it, while its type is known.
    pub(super) fn recordable<B: Recordable>(&mut self) {
        self.records.push(|handlers, recorder| {
            if let Some(bound) = handlers.get_mut::<B>() {
                bound.record(recorder);
            }
        });
    }

    fn set<B: Any + Send + Sync>(&mut self, bound: B) {
        match self.get_mut::<B>() {
            Some(place) => *place = bound,
            None => self.insert(bound),
        }
    }
}

impl RequestMap {
    /// Records what is bound so far.
    pub(crate) fn record(&mut self, recorder: &Arc<Recorder>) {
        for record in std::mem::take(&mut self.handlers.records) {
            record(&mut self.handlers, recorder);
        }
    }

    /// Binds it, in place of what is bound.
    pub(crate) fn set<R: Request>(&mut self, handler: impl RequestHandler<R>) {
        self.handlers.set(Bound::<R>(Arc::new(MiddlewareStack::<R>::bind(&NoMiddleware, handler))));
    }

    /// The same for a streaming request.
    pub(crate) fn set_stream<R: StreamRequest>(&mut self, handler: impl StreamHandler<R>) {
        self.handlers.set(BoundStream::<R>(Arc::new(handler)));
    }
}

impl EventEmitter {
    /// Records what goes out.
    pub(crate) fn record(&mut self, recorder: &Arc<Recorder>) {
        self.recording = Recording(Some(Arc::clone(recorder)));
    }

    /// Takes times and ids from here, where the encoder has none of its own.
    pub(crate) fn stamp(&mut self, clock: &FixedClock, ids: &FixedIds) {
        let stamps = &mut self.encoder.stamps;
        stamps.clock.get_or_insert_with(|| Arc::new(clock.source()));
        stamps.ids.get_or_insert_with(|| Arc::new(ids.source()));
    }

    /// Has a direct target in any case.
    pub(crate) fn direct_or(&mut self, broker: impl MessageBroker) {
        self.direct.get_or_insert_with(|| Arc::new(broker));
    }
}

impl<R: Request> Recordable for Bound<R> {
    fn record(&mut self, recorder: &Arc<Recorder>) {
        let (inner, recorder) = (Arc::clone(&self.0), Arc::clone(recorder));
        self.0 = Arc::new(Recorded { inner, recorder });
    }
}

impl<R: StreamRequest> Recordable for BoundStream<R> {
    fn record(&mut self, recorder: &Arc<Recorder>) {
        let (inner, recorder) = (Arc::clone(&self.0), Arc::clone(recorder));
        self.0 = Arc::new(Recorded { inner, recorder });
    }
}

/// A handler whose requests are recorded when it begins. It stands in a context within that of its sender, as a nested request
/// does, and says nothing itself.
struct Recorded<C: ?Sized> {
    recorder: Arc<Recorder>,
    inner: Arc<C>,
}

impl<R: Request> Next<R> for Recorded<dyn Call<R>> {
    async fn run(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        self.recorder.sent(R::name(), &request);
        self.inner.call(request, cx.core(), Origin::Nested(cx)).await
    }
}

impl<R: StreamRequest> StreamHandler<R> for Recorded<dyn CallStream<R>> {
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        async_stream::stream! {
            self.recorder.sent(R::name(), &request);
            let mut items = self.inner.call(request, cx.core(), Origin::Nested(cx));
            while let Some(item) = items.next().await {
                yield item;
            }
        }
    }
}
