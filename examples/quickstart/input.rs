//! Reads commands, one JSON object on each line. However long the input is, one line of it is in memory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use serde_json::error::Category;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::domain::Command;

/// The longest line, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Where commands come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Stdin,
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdin } else { Self::File(text.into()) })
    }
}

impl Source {
    /// The commands that ship with this example.
    pub(crate) fn shipped() -> Self {
        Self::File(Path::new(env!("CARGO_MANIFEST_DIR")).join("quickstart/commands.jsonl"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// The place of a line in the input. Lines are counted from 1, blank ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    /// Of all the input up to and with this line: it tells whether another input begins the same.
    pub(crate) digest: u64,
}

/// The lines of a source.
pub(crate) struct Input {
    source: Source,
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// In bytes, where it is known.
    pub(crate) size: Option<u64>,
    /// How many bytes were read so far.
    pub(crate) position: u64,
    line: u64,
    digest: Digest,
}

/// The text of a line that is not blank, or why there is none.
pub(crate) type Text = Result<String, &'static str>;

impl Input {
    pub(crate) async fn open(source: Source) -> anyhow::Result<Self> {
        let (reader, size): (Box<dyn AsyncBufRead + Send + Unpin>, _) = match &source {
            Source::Stdin => (Box::new(BufReader::new(tokio::io::stdin())), None),
            Source::File(path) => {
                let cannot = || format!("cannot read {source}");
                let file = File::open(path).await.with_context(cannot)?;
                let metadata = file.metadata().await.with_context(cannot)?;
                if metadata.is_dir() {
                    bail!("cannot read {source}: it is a folder");
                }
                (Box::new(BufReader::new(file)), metadata.is_file().then_some(metadata.len()))
            }
        };
        Ok(Self { source, reader, size, position: 0, line: 0, digest: Digest::new() })
    }

    /// Where it comes from.
    pub(crate) fn name(&self) -> String {
        self.source.to_string()
    }

    /// The next line that is not blank; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(Place, Text)>> {
        while let Some(text) = self.next_bytes().await? {
            let text = text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not UTF-8"));
            if !text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                return Ok(Some((Place { line: self.line, digest: self.digest.0 }, text)));
            }
        }
        Ok(None)
    }

    /// Goes behind a line that was read before; `false` if this input does not begin with what led up to it.
    pub(crate) async fn skip_to(&mut self, done: Place) -> io::Result<bool> {
        while let Some((place, _)) = self.next().await? {
            if place.line >= done.line {
                return Ok(place == done);
            }
        }
        Ok(false)
    }

    /// The bytes of the next line, unless they are too many: those are read and forgotten piece by piece.
    async fn next_bytes(&mut self) -> io::Result<Option<Result<Vec<u8>, &'static str>>> {
        let (mut bytes, mut length) = (Vec::new(), 0);
        loop {
            let piece = self.reader.fill_buf().await?;
            if piece.is_empty() && length == 0 {
                return Ok(None);
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let part = &piece[..end.unwrap_or(piece.len())];
            let last = end.is_some() || piece.is_empty();
            self.digest.update(part);
            length += part.len();
            if length <= MAX_LINE {
                bytes.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.position += used as u64;
            self.reader.consume(used);
            if last {
                // The end of the input ends a line as well, so that a file that was appended to begins the same.
                self.digest.update(b"\n");
                self.line += 1;
                return Ok(Some(if length <= MAX_LINE { Ok(bytes) } else { Err("longer than 64 KiB") }));
            }
        }
    }
}

/// The command of a line; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Command, String> {
    // Serde would read a command from an array, too.
    if !text.trim_start().starts_with('{') {
        return Err("not a JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| {
        let text = error.to_string();
        // Its line is always 1; the column is said in our words, where there is one.
        let what = text.split(" at line ").next().unwrap_or(&text);
        match error.classify() {
            Category::Data => what.to_owned(),
            _ => format!("not JSON: {what} (column {})", error.column()),
        }
    })
}

/// FNV-1a, because it is four lines; `std`'s hash may change with the next Rust, and this one is kept in the database.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
