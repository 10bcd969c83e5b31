//! Long lists are shown in pages.

use cqrs_outbox_diesel::Page;
use serde_json::json;

use crate::failure::Failure;
use crate::{counted, print, tell};

/// Which part of a list.
#[derive(Debug, clap::Args)]
pub(crate) struct PageArgs {
    /// Begins with the oldest, and not with the newest
    #[arg(long)]
    oldest_first: bool,
    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Goes on behind the one with this number: the last of the page before
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,
}

impl PageArgs {
    /// With one more than there is to be, to know whether there are more.
    pub(crate) fn page(&self) -> Page {
        let page = if self.oldest_first { Page::oldest_first() } else { Page::newest_first() };
        let page = page.limit(self.limit as usize + 1);
        self.after.map_or(page, |after| page.after(after))
    }

    /// Leaves that one off; whether it was there.
    pub(crate) fn cut<T>(&self, list: &mut Vec<T>) -> bool {
        let more = list.len() > self.limit as usize;
        list.truncate(self.limit as usize);
        more
    }
}

/// What stands below a page: how many there were and, where there are more, behind which one they come. For programs that stands on
/// standard error, so that all lines of the result are of one kind.
pub(crate) fn ended<T>(
    page: &[T],
    more: bool,
    id: impl Fn(&T) -> i64,
    what: &str,
    json: bool,
) -> Result<(), Failure> {
    let after = page.last().filter(|_| more).map(id);
    match after {
        Some(after) if json => {
            tell(&json!({ "more": true, "after": after }).to_string());
            Ok(())
        }
        None if json => Ok(()),
        Some(after) => print(&format!("{}, and there are more: --after {after}", counted(page.len(), what))),
        None => print(&counted(page.len(), what)),
    }
}
