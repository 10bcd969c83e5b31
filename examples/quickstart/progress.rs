//! A progress bar, where someone looks at it and there is time to see it.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::input::Input;

/// Shorter files are read before a bar could be looked at.
const LONG: u64 = 100_000;

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// By bytes for a file, by lines for what has no known end; none where it would stand between the lines of a log.
    pub(crate) fn new(input: &Input, logging: bool) -> Self {
        let (bar, template) = match input.size {
            Some(size) => (ProgressBar::new(size), "{bar:40} {percent:>3} %  line {msg}  {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} line {msg}  {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if logging || !io::stderr().is_terminal() || input.size.is_some_and(|size| size < LONG) {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self(bar)
    }

    pub(crate) fn update(&self, input: &Input, line: u64) {
        self.0.set_position(input.position);
        self.0.set_message(line.to_string());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
