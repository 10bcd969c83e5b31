//! A read in two statements: the ids of what is there, and then the rows that are wanted of it. For databases where one
//! statement that bounds the bytes takes twice as long, because it copies all rows.
//!
//! The rows are of a later snapshot than the ids. A row that has gone meanwhile was settled or set aside, so whoever comes
//! behind it in its lane may be here without it. One that has come meanwhile is left out, and nobody of its lane is here
//! behind it, for those were written after its commit.

use cqrs_outbox::ReadRequest;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer};

use crate::record::Record;
use crate::statements::{joined, limit};

/// What is there, in ascending order. What the relay knows is left out here: a list of some thousand ids is what a
/// statement takes longest for.
pub(crate) fn present(request: &ReadRequest) -> String {
    let most = limit(request.known.len().saturating_add(request.limit));
    format!("SELECT id, size FROM cqrs_outbox ORDER BY id LIMIT {most}")
}

/// A row that is there.
#[derive(QueryableByName, Debug)]
pub(crate) struct Present {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Integer)]
    size: i32,
}

/// The rows to fetch.
#[derive(Debug)]
pub(crate) struct Choice {
    ids: Vec<i64>,
    condition: String,
}

impl Choice {
    /// The first that are not known, as many as there is room for, but at least one; `None` if there are none.
    pub(crate) fn of(present: &[Present], request: &ReadRequest) -> Option<Self> {
        let mut bytes = 0_usize;
        let ids: Vec<i64> = present
            .iter()
            .filter(|row| request.known.binary_search(&row.id).is_err())
            .take(request.limit)
            .enumerate()
            .take_while(|(nth, row)| {
                bytes += usize::try_from(row.size).unwrap_or(0);
                *nth == 0 || bytes <= request.max_bytes
            })
            .map(|(_, row)| row.id)
            .collect();
        let (first, last) = (*ids.iter().min()?, *ids.iter().max()?);
        let between = present.iter().filter(|row| (first..=last).contains(&row.id)).count();
        // A range is read twice as fast as a list. But what is committed meanwhile, with ids that were missing there, comes along,
        // and that may be a large import.
        let is_narrow = last.checked_sub(first).is_some_and(|span| span < 4 * limit(ids.len()));
        let condition = if is_narrow && between <= ids.len() + ids.len() / 4 {
            format!("id BETWEEN {first} AND {last}")
        } else {
            format!("id IN ({})", joined(&ids))
        };
        Some(Self { ids, condition })
    }

    /// Where they are, as SQL.
    pub(crate) fn condition(&self) -> &str {
        &self.condition
    }

    /// Those of the fetched rows that were chosen, in ascending order.
    pub(crate) fn keep(&self, mut rows: Vec<Record>) -> Vec<Record> {
        rows.retain(|row| self.ids.binary_search(&row.id).is_ok());
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        present: &[(i64, i32)],
        known: &[i64],
        limit: usize,
        max_bytes: usize,
    ) -> Option<(Vec<i64>, String)> {
        let present: Vec<Present> = present.iter().map(|&(id, size)| Present { id, size }).collect();
        let request = ReadRequest { leases: Vec::new(), known: known.to_vec(), limit, max_bytes };
        Choice::of(&present, &request).map(|choice| (choice.ids, choice.condition))
    }

    /// SQLite takes a limit above that of its integers for a mistake of types.
    #[test]
    fn a_limit_is_one_that_databases_count_to() {
        let most = |known: &[i64], limit| {
            let sql =
                present(&ReadRequest { leases: Vec::new(), known: known.to_vec(), limit, max_bytes: 100 });
            sql.rsplit_once(" LIMIT ").unwrap().1.to_owned()
        };
        assert_eq!(most(&[1, 2, 3], 4), "7");
        assert_eq!(most(&[], usize::MAX), i64::MAX.to_string());
        assert_eq!(most(&[1], usize::MAX), i64::MAX.to_string());
    }

    #[test]
    fn what_is_known_is_stepped_over() {
        let present = [(1, 10), (2, 10), (3, 10), (4, 10), (9, 10)];
        assert_eq!(choose(&present, &[1, 2, 5], 2, 100), Some((vec![3, 4], "id BETWEEN 3 AND 4".to_owned())));
        assert_eq!(choose(&present, &[2, 3], 3, 100), Some((vec![1, 4, 9], "id IN (1,4,9)".to_owned())));
        assert_eq!(choose(&present, &[1, 2, 3, 4, 9], 3, 100), None);
        assert_eq!(choose(&[], &[7], 3, 100), None);
    }

    /// A transaction that drew many ids before the last one may commit between the two statements.
    #[test]
    fn a_range_has_room_for_few_others() {
        let condition = |present: &[(i64, i32)]| choose(present, &[], 10, 100).unwrap().1;
        assert_eq!(condition(&[(1, 1), (12, 1), (13, 1)]), "id IN (1,12,13)");
        assert_eq!(condition(&[(1, 1), (11, 1), (12, 1)]), "id BETWEEN 1 AND 12");
        assert_eq!(condition(&[(1, 1), (100_000, 1)]), "id IN (1,100000)");
        assert_eq!(condition(&[(i64::MIN, 1), (i64::MAX, 1)]), format!("id IN ({},{})", i64::MIN, i64::MAX));
        assert_eq!(condition(&[(9, 1)]), "id BETWEEN 9 AND 9");
    }

    #[test]
    fn bytes_are_bounded_but_for_the_first() {
        let present = [(1, 60), (2, 40), (3, 1), (4, 1)];
        let ids = |max_bytes| choose(&present, &[], 10, max_bytes).unwrap().0;
        assert_eq!(ids(0), [1]);
        assert_eq!(ids(99), [1]);
        assert_eq!(ids(100), [1, 2]);
        assert_eq!(ids(101), [1, 2, 3]);
        // A row of no bytes is a row.
        assert_eq!(choose(&[(1, 0), (2, 50), (3, 60)], &[], 10, 55).unwrap().0, [1, 2]);
    }
}
