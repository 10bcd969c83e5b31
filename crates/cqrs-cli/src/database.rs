//! An outbox in one of the databases that are compiled in.

use std::sync::Arc;

use cqrs::diesel::migrations::Migration;
use cqrs::diesel::{Outbox, OutboxStatus};
use cqrs::outbox::OutboxStore;
use cqrs::{Error, ErrorKind, Result};

/// What there is, and by which schemes it goes.
macro_rules! databases {
    ($($feature:literal $name:ident $backend:ident, $migrations:ident: $($scheme:literal)|+;)+) => {
        /// An outbox, whatever its database.
        #[derive(Debug)]
        pub(crate) enum Database {
            $(#[cfg(feature = $feature)] $name(Outbox<cqrs::diesel::$backend>),)+
        }

        impl Database {
            /// Connects to the database of that URL.
            pub(crate) async fn connect(url: &str, connections: usize) -> Result<Self> {
                match scheme(url) {
                    $(
                        #[cfg(feature = $feature)]
                        $($scheme)|+ => Ok(Self::$name(
                            Outbox::<cqrs::diesel::$backend>::builder(url).max_connections(connections).connect().await?,
                        )),
                    )+
                    other => Err(unknown(other)),
                }
            }

            /// The tables of a database of that URL, as SQL. Nothing is connected to.
            pub(crate) fn migrations(url: &str) -> Result<&'static [Migration]> {
                match scheme(url) {
                    $(#[cfg(feature = $feature)] $($scheme)|+ => Ok(cqrs::diesel::migrations::$migrations),)+
                    other => Err(unknown(other)),
                }
            }

            /// The part of it that a relay needs.
            pub(crate) fn store(&self) -> Arc<dyn OutboxStore> {
                match self {
                    $(#[cfg(feature = $feature)] Self::$name(outbox) => Arc::new(outbox.clone()),)+
                }
            }

            pub(crate) async fn check_schema(&self) -> Result<()> {
                match self {
                    $(#[cfg(feature = $feature)] Self::$name(outbox) => outbox.check_schema().await,)+
                }
            }

            pub(crate) async fn migrate(&self) -> Result<()> {
                match self {
                    $(#[cfg(feature = $feature)] Self::$name(outbox) => outbox.migrate().await,)+
                }
            }

            pub(crate) async fn status(&self) -> Result<OutboxStatus> {
                match self {
                    $(#[cfg(feature = $feature)] Self::$name(outbox) => outbox.status().await,)+
                }
            }
        }

        /// Schemes, and the feature that each needs.
        const SCHEMES: &[(&str, &str, bool)] = &[$($(($scheme, $feature, cfg!(feature = $feature)),)+)+];
    };
}

databases! {
    "postgres" Postgres Pg, POSTGRES: "postgres" | "postgresql";
    "mysql" MySql MySql, MYSQL: "mysql" | "mariadb";
    "sqlite" Sqlite Sqlite, SQLITE: "sqlite";
}

fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

/// Not the whole URL: there may be a password in it.
fn unknown(scheme: &str) -> Error {
    let what = match SCHEMES.iter().find(|(known, ..)| *known == scheme) {
        Some((_, feature, false)) => {
            format!("`{scheme}://` needs the feature `{feature}`, which this program was built without")
        }
        _ => {
            let known: Vec<_> = SCHEMES
                .iter()
                .filter(|(.., compiled_in)| *compiled_in)
                .map(|(scheme, ..)| format!("`{scheme}://`"))
                .collect();
            format!("the database's URL begins with {}, and not with `{scheme}`", known.join(", "))
        }
    };
    Error::new(ErrorKind::Configuration, what)
}
