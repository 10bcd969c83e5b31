use std::future::Future;
use std::ops::ControlFlow;

use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::request::{Reply, Request, RequestHandler};

/// One of several that may answer a request: it does, or passes the request on.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no link of a chain for the request `{R}`",
    label = "no `Link<{R}>` for this type",
    note = "write `impl Link<{R}> for {Self} {{ async fn handle(&self, request: {R}, cx: &Context<'_>) -> Result<ControlFlow<.., {R}>, ..> }}`"
)]
pub trait Link<R: Request>: Send + Sync + 'static {
    /// Answers (`Break`), or passes the request on to the next one (`Continue`), as it came or changed.
    ///
    /// What it says goes out in both cases, if the chain succeeds.
    ///
    /// # Errors
    ///
    /// Ends the chain.
    fn handle(
        &self,
        request: R,
        cx: &Context<'_>,
    ) -> impl Future<Output = Result<ControlFlow<R::Response, R>, R::Error>> + Send;
}

/// A chain of responsibility: the first [`Link`] that answers a request is its handler, and what all of them said before goes out.
///
/// Where none answers, the request fails with [`ErrorKind::MissingHandler`]; for a last word of its own, let the last link answer
/// always.
///
/// ```
/// use std::ops::ControlFlow;
/// use cqrs_core::{Chain, Context, EventEmitter, Link, Request, RequestMap, RequestMediator, Result};
///
/// #[derive(Request)]
/// #[request(response = &'static str)]
/// struct Approve { amount: u32 }
///
/// struct Upto { amount: u32, who: &'static str }
///
/// impl Link<Approve> for Upto {
///     async fn handle(&self, request: Approve, _: &Context<'_>) -> Result<ControlFlow<&'static str, Approve>> {
///         Ok(if request.amount <= self.amount { ControlFlow::Break(self.who) } else { ControlFlow::Continue(request) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let approvals = Chain::new()
///     .link(Upto { amount: 100, who: "the clerk" })
///     .link(Upto { amount: u32::MAX, who: "the manager" });
/// let mediator =
///     RequestMediator::new(RequestMap::new().bind::<Approve>(approvals), EventEmitter::default())?;
/// assert_eq!(mediator.send(Approve { amount: 7 }).await?, "the clerk");
/// assert_eq!(mediator.send(Approve { amount: 700 }).await?, "the manager");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a chain does nothing until it is bound"]
pub struct Chain<L = Nobody>(L);

/// The end of every chain.
#[derive(Clone, Copy, Debug)]
pub struct Nobody(());

/// Links, the last of which is `last`.
#[derive(Clone, Copy, Debug)]
pub struct Links<L, M> {
    before: L,
    last: M,
}

impl Chain {
    /// A chain without links, which answers nothing.
    pub fn new() -> Self {
        Self(Nobody(()))
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> Chain<L> {
    /// Adds a link behind the others.
    pub fn link<M>(self, link: M) -> Chain<Links<L, M>> {
        Chain(Links { before: self.0, last: link })
    }
}

impl<R: Request, L: Link<R>> RequestHandler<R> for Chain<L> {
    async fn handle(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        match self.0.handle(request, cx).await? {
            ControlFlow::Break(response) => Ok(response),
            ControlFlow::Continue(_) => Err(Error::new(
                ErrorKind::MissingHandler,
                format!("no link of the chain for the request `{}` has answered it", R::name()),
            )
            .into()),
        }
    }
}

impl<R: Request> Link<R> for Nobody {
    async fn handle(&self, request: R, _: &Context<'_>) -> Result<ControlFlow<R::Response, R>, R::Error> {
        Ok(ControlFlow::Continue(request))
    }
}

impl<R: Request, L: Link<R>, M: Link<R>> Link<R> for Links<L, M> {
    async fn handle(&self, request: R, cx: &Context<'_>) -> Result<ControlFlow<R::Response, R>, R::Error> {
        match self.before.handle(request, cx).await? {
            ControlFlow::Continue(request) => self.last.handle(request, cx).await,
            answered => Ok(answered),
        }
    }
}
