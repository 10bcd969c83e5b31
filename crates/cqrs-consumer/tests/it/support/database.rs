//! A database in memory: rows that handlers write, inbox rows, outbox messages; visible when committed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_consumer::Inbox;
use cqrs_core::{
    Added, BeginTransaction, Database, Encoder, Error, ErrorKind, Message, MessageId, Outgoing, Result,
    Transaction,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

pub(crate) struct LedgerDb;

impl Database for LedgerDb {
    type Tx = LedgerTx;
}

type Row = (String, Vec<u8>);

/// The database, and its outbox and inbox.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Tables>);

#[derive(Default)]
struct Tables {
    committed: Mutex<Committed>,
    /// What a unique index does: one transaction at a time for each inbox row.
    locks: Mutex<HashMap<Row, Arc<AsyncMutex<()>>>>,
    encoder: Encoder,
    begun: Mutex<u32>,
    fail_commits: Mutex<u32>,
}

#[derive(Default)]
struct Committed {
    rows: Vec<String>,
    inbox: HashSet<Row>,
    outbox: Vec<Message>,
}

pub(crate) struct LedgerTx {
    tables: Arc<Tables>,
    staged: Committed,
    _locks: Vec<OwnedMutexGuard<()>>,
}

impl Ledger {
    pub(crate) fn rows(&self) -> Vec<String> {
        self.0.committed.lock().unwrap().rows.clone()
    }

    pub(crate) fn outbox(&self) -> Vec<Message> {
        self.0.committed.lock().unwrap().outbox.clone()
    }

    pub(crate) fn consumers(&self) -> Vec<String> {
        let mut consumers: Vec<_> =
            self.0.committed.lock().unwrap().inbox.iter().map(|(consumer, _)| consumer.clone()).collect();
        consumers.sort();
        consumers
    }

    pub(crate) fn begun(&self) -> u32 {
        *self.0.begun.lock().unwrap()
    }

    pub(crate) fn fail_commits(&self, commits: u32) {
        *self.0.fail_commits.lock().unwrap() = commits;
    }
}

impl LedgerTx {
    pub(crate) fn insert(&mut self, row: impl Into<String>) {
        self.staged.rows.push(row.into());
    }
}

#[async_trait]
impl BeginTransaction<LedgerDb> for Ledger {
    async fn begin(&self) -> Result<LedgerTx> {
        *self.0.begun.lock().unwrap() += 1;
        Ok(LedgerTx { tables: self.0.clone(), staged: Committed::default(), _locks: Vec::new() })
    }

    fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }
}

#[async_trait]
impl Inbox<LedgerDb> for Ledger {
    async fn admit(&self, tx: &mut LedgerTx, consumer: &str, id: &MessageId) -> Result<bool> {
        let row = (consumer.to_owned(), id.as_bytes().to_vec());
        let lock = self.0.locks.lock().unwrap().entry(row.clone()).or_default().clone();
        tx._locks.push(lock.lock_owned().await);
        if self.0.committed.lock().unwrap().inbox.contains(&row) {
            return Ok(false);
        }
        tx.staged.inbox.insert(row);
        Ok(true)
    }
}

impl Transaction for LedgerTx {
    async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
        let added = Added::all(&messages);
        self.staged.outbox.extend(messages.into_iter().map(|outgoing| outgoing.message));
        Ok(added)
    }

    async fn commit(self) -> Result<()> {
        let mut fail = self.tables.fail_commits.lock().unwrap();
        if *fail > 0 {
            *fail -= 1;
            return Err(Error::new(ErrorKind::Transaction, "serialisation failure"));
        }
        let mut committed = self.tables.committed.lock().unwrap();
        committed.rows.extend(self.staged.rows);
        committed.inbox.extend(self.staged.inbox);
        committed.outbox.extend(self.staged.outbox);
        Ok(())
    }

    async fn rollback(self) -> Result<()> {
        Ok(())
    }
}
