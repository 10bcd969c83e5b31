use std::fmt;

/// What the suite found: a check-list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a report that nobody looks at judges nothing"]
pub struct Report {
    rows: Vec<Row>,
}

/// One row of the check-list.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, for [`Settings::only`](crate::broker::Settings::only) and
    /// [`BrokerUnderTest::skip`](crate::broker::BrokerUnderTest::skip) or
    /// [`StoreUnderTest::skip`](crate::store::StoreUnderTest::skip).
    pub name: &'static str,
    /// What a broker or a store promises by it.
    pub promise: &'static str,
    /// Whether it holds.
    pub outcome: Outcome,
}

/// What became of a row.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise holds.
    Passed,
    /// It does not; what was seen instead.
    Failed(String),
    /// It was not put to the test; why.
    Skipped(String),
}

impl Report {
    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// All rows that were run or skipped, in their order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The names of the rows that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.named(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// The names of the rows that were skipped.
    pub fn skipped(&self) -> Vec<&'static str> {
        self.named(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }

    /// Asserts that rows were run and none failed. Skipped ones are no failures, but they stand in the report with
    /// their reasons.
    ///
    /// # Panics
    ///
    /// With the whole report, if a row failed, or if there are none.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(!self.rows.is_empty(), "no row was run: does `Settings::only` name one?");
        assert!(self.failed().is_empty(), "{self}");
    }

    fn named(&self, which: impl Fn(&Outcome) -> bool) -> Vec<&'static str> {
        self.rows.iter().filter(|row| which(&row.outcome)).map(|row| row.name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, skipped) = (self.failed().len(), self.skipped().len());
        let passed = self.rows.len() - failed - skipped;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")?;
        for Row { name, promise, outcome } in &self.rows {
            let (mark, reason) = match outcome {
                Outcome::Passed => ("passed ", None),
                Outcome::Failed(reason) => ("FAILED ", Some(reason)),
                Outcome::Skipped(reason) => ("skipped", Some(reason)),
            };
            write!(f, "\n  {mark} {name}: {promise}")?;
            for line in reason.into_iter().flat_map(|reason| reason.lines()) {
                write!(f, "\n            {line}")?;
            }
        }
        Ok(())
    }
}
