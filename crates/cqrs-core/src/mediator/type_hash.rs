//! Hashes of types: a [`TypeId`] is one already.

use std::any::TypeId;
use std::hash::{Hash, Hasher};

pub(super) fn hash_of(id: TypeId) -> u64 {
    let mut taken = Taken::default();
    id.hash(&mut taken);
    taken.finish()
}

/// Takes what a [`TypeId`] gives for the hash.
#[derive(Default)]
pub(super) struct Taken(u64);

impl Hasher for Taken {
    fn write(&mut self, bytes: &[u8]) {
        // Only reached if the standard library changes how a `TypeId` is hashed: correct, then, but slower.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
