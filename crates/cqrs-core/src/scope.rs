//! What lives as long as a request.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Values that are kept for the time of one request, by their type: a session of a database, who asked, a cache.
///
/// [`Context::scope`](crate::Context::scope) gives that of the request that came from outside. The requests that are sent within
/// it share it, and so do the handlers of its events; it is dropped behind them. A received message has one for each
/// of its handlers. Whoever has a scope already, as a web framework may, gives it along
/// ([`SendOptions::with_scope`](crate::SendOptions::with_scope)). Cheap to clone; all clones are one scope, and a value is
/// dropped when nobody has it any more.
///
/// ```
/// use cqrs_core::Scope;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cqrs_core::Result<()> {
/// struct Session(u32);
///
/// async fn open_session() -> cqrs_core::Result<Session> {
///     Ok(Session(7))
/// }
///
/// let scope = Scope::default();
/// let session = scope.get_or_try_init(open_session).await?;
/// assert_eq!(session.0, 7);
/// assert_eq!(scope.get::<Session>().map(|session| session.0), Some(7));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Scope {
    cells: Arc<Mutex<Cells>>,
}

/// A `OnceCell<Arc<T>>` for each type `T`.
type Cells = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

impl Scope {
    /// The value of this type, if there is one.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.cell::<T>().and_then(|cell| cell.get().cloned())
    }

    /// Keeps a value in place of the one of its type that there may be, which those who have it keep.
    pub fn set<T: Send + Sync + 'static>(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let cell = OnceCell::new_with(Some(Arc::clone(&value)));
        // Dropped behind the lock: what is dropped may look into the scope.
        let _before = { self.lock().insert(TypeId::of::<T>(), Arc::new(cell)) };
        value
    }

    /// The value of this type, made if there is none. Who asks meanwhile waits for it; `make` itself must not ask for it, or it
    /// waits for ever.
    ///
    /// # Errors
    ///
    /// That of `make`; the next one who asks tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops what is being made; the next one who asks makes it.
    pub async fn get_or_try_init<T, E, F>(&self, make: impl FnOnce() -> F) -> Result<Arc<T>, E>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let cell = self.cell_or_new::<T>();
        cell.get_or_try_init(|| async { make().await.map(Arc::new) }).await.cloned()
    }

    fn cell<T: Send + Sync + 'static>(&self) -> Option<Arc<OnceCell<Arc<T>>>> {
        let cell = self.lock().get(&TypeId::of::<T>()).cloned();
        cell.and_then(|cell| cell.downcast().ok())
    }

    fn cell_or_new<T: Send + Sync + 'static>(&self) -> Arc<OnceCell<Arc<T>>> {
        let new = || Arc::new(OnceCell::<Arc<T>>::new()) as Arc<dyn Any + Send + Sync>;
        let cell = Arc::clone(self.lock().entry(TypeId::of::<T>()).or_insert_with(new));
        // It is found by its type, so there is no other case.
        cell.downcast().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cells> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("values", &self.lock().len()).finish()
    }
}
