//! What only MariaDB and MySQL have.

use crate::harness::Trials;

pub(crate) fn trials(_trials: &mut Trials) {}
