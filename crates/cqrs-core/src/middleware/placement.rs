use std::any::TypeId;

/// What stands around a middleware, for its [`check`](crate::Middleware::check).
#[derive(Debug, Default)]
pub struct Placement {
    outer: Vec<TypeId>,
}

impl Placement {
    /// Whether a middleware of this type stands further out.
    pub fn is_within<M: 'static>(&self) -> bool {
        self.outer.contains(&TypeId::of::<M>())
    }

    pub(super) fn enter<M: 'static>(&mut self) {
        self.outer.push(TypeId::of::<M>());
    }
}
