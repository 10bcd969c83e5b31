use std::io::{self, Read};

use bytes::Bytes;

use super::{Codec, Fit, compression_of, excerpt, header, refused, undecodable};
use crate::error::{Error, Result};
use crate::message::{Headers, Message};

/// How large a payload may become by default: 16 MiB.
pub const DEFAULT_MAX_DECOMPRESSED_BYTES: usize = 16 << 20;

/// How much of the output is made room for at a time.
#[cfg(feature = "gzip")]
const STEP: usize = 64 << 10;

/// Every one is a pass over up to the whole limit, and nobody needs more than one.
const MAX_ENCODINGS: usize = 4;

/// Compresses what a codec has written, and says so in the header `content-encoding`, as HTTP does.
///
/// | constructor | `content-encoding` | feature |
/// |---|---|---|
/// | [`gzip`](Self::gzip) | `gzip` | `gzip` |
/// | [`zlib`](Self::zlib) | `deflate`, as HTTP calls it | `gzip` |
/// | [`zstd`](Self::zstd) | `zstd` | `zstd`, which compiles C |
///
/// Whichever is written, all that the features allow are read, `x-gzip` and `zlib` are other names of the first two, and
/// what has no such header is not compressed. A message without a payload stays one.
///
/// The size limit of an [`Encoder`](super::Encoder) counts the compressed bytes. Whoever reads them decides how many they may
/// become: [16 MiB](DEFAULT_MAX_DECOMPRESSED_BYTES) unless [you say otherwise](Self::with_max_decompressed_bytes). No more
/// memory than about twice that is taken, and for zstd 8 MiB for its window, however much is promised. Kafka's own compression, of batches, is a setting of
/// its client, and does well for small events that look alike; this one is for large ones, and for AMQP.
///
/// # Errors
///
/// Encoding fails as the codec does. Decoding fails as the codec does, and with
/// [`ErrorKind::Decode`](crate::ErrorKind::Decode): the bytes are damaged, cut off, too many, or compressed in
/// a way that is not known here.
///
#[cfg_attr(feature = "gzip", doc = "```")]
#[cfg_attr(not(feature = "gzip"), doc = "```ignore")]
/// use cqrs_core::codec::{Codec, Compressed, Json};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// let codec = Compressed::gzip(Json).with_max_decompressed_bytes(1 << 20);
/// let encoded = codec.encode(Message::new("rooms", "[0,0,0,0,0,0,0,0]"))?;
/// assert_eq!(encoded.headers.get_str("content-encoding"), Some("gzip"));
/// assert_eq!(codec.decode(encoded)?.payload.as_deref(), Some(&b"[0,0,0,0,0,0,0,0]"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Compressed<C> {
    codec: C,
    algorithm: Algorithm,
    level: Option<u32>,
    min_bytes: usize,
    max_decompressed_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    #[cfg(feature = "gzip")]
    Gzip,
    #[cfg(feature = "gzip")]
    Zlib,
    #[cfg(feature = "zstd")]
    Zstd,
}

impl<C: Codec> Compressed<C> {
    /// Writes gzip.
    #[cfg(feature = "gzip")]
    #[must_use]
    pub fn gzip(codec: C) -> Self {
        Self::with(Algorithm::Gzip, codec)
    }

    /// Writes zlib.
    #[cfg(feature = "gzip")]
    #[must_use]
    pub fn zlib(codec: C) -> Self {
        Self::with(Algorithm::Zlib, codec)
    }

    /// Writes zstd.
    #[cfg(feature = "zstd")]
    #[must_use]
    pub fn zstd(codec: C) -> Self {
        Self::with(Algorithm::Zstd, codec)
    }

    fn with(algorithm: Algorithm, codec: C) -> Self {
        Self {
            codec,
            algorithm,
            level: None,
            min_bytes: 0,
            max_decompressed_bytes: DEFAULT_MAX_DECOMPRESSED_BYTES,
        }
    }

    /// Sets how hard it tries: 0 to 9 for gzip and zlib, 6 by default; 1 to 22 for zstd, 3 by default. More is the same as
    /// the most.
    #[must_use]
    pub fn with_level(mut self, level: u32) -> Self {
        self.level = Some(level);
        self
    }

    /// Leaves payloads with fewer bytes than this as they are, for small ones grow. Default: 0, everything is compressed.
    #[must_use]
    pub fn with_min_bytes(mut self, bytes: usize) -> Self {
        self.min_bytes = bytes;
        self
    }

    /// Sets how many bytes a payload may have after it was decompressed. Default:
    /// [16 MiB](DEFAULT_MAX_DECOMPRESSED_BYTES).
    #[must_use]
    pub fn with_max_decompressed_bytes(mut self, bytes: usize) -> Self {
        self.max_decompressed_bytes = bytes;
        self
    }

    fn decompressed(&self, mut message: Message) -> Result<Message> {
        let encodings = encodings(&message)?;
        if encodings.is_empty() {
            return Ok(message);
        }
        // They are named in the order in which they were done.
        for encoding in encodings.iter().rev() {
            let Some(payload) = message.payload.take() else { break };
            message.payload =
                Some(decompress(encoding, &payload, self.max_decompressed_bytes).map_err(|trouble| {
                    trouble.into_error(&message, encoding, self.max_decompressed_bytes)
                })?);
        }
        message.headers.remove(header::CONTENT_ENCODING);
        Ok(message)
    }
}

impl<C: Codec> Codec for Compressed<C> {
    fn encode(&self, message: Message) -> Result<Message> {
        let mut message = self.codec.encode(message)?;
        let Some(payload) = message.payload.as_deref().filter(|payload| payload.len() >= self.min_bytes)
        else {
            return Ok(message);
        };
        let compressed = self
            .algorithm
            .compress(payload, self.level)
            .map_err(|error| refused(&message, "cannot be compressed").with_source(error))?;
        // Bytes that were compressed before, by whoever made them, are to come out so again.
        let before: Vec<_> = named(&message.headers).collect::<Result<_, _>>().map_err(|error| {
            refused(&message, "has a header `content-encoding` that is not UTF-8").with_source(error)
        })?;
        let all = [before.concat(), vec![self.algorithm.name()]].concat().join(", ");
        message.payload = Some(compressed.into());
        message.headers.set(header::CONTENT_ENCODING, all);
        Ok(message)
    }

    fn decode(&self, message: Message) -> Result<Message> {
        self.codec.decode(self.decompressed(message)?)
    }

    fn fits(&self, message: &Message) -> Fit {
        if compression_of(message).is_none() {
            return self.codec.fits(message);
        }
        // Headers say what it is without a look into it, and even if it is damaged.
        let mut headers = message.clone();
        headers.headers.remove(header::CONTENT_ENCODING);
        match self.codec.fits(&headers) {
            Fit::Headers => Fit::Headers,
            fit => self.decompressed(message.clone()).map_or(fit, |message| self.codec.fits(&message)),
        }
    }
}

/// The compressions that a header names, and each header of them, for there may be several.
fn named(headers: &Headers) -> impl Iterator<Item = Result<Vec<&str>, std::str::Utf8Error>> {
    let values = headers.iter().filter(|(name, _)| *name == header::CONTENT_ENCODING);
    values.map(|(_, value)| {
        let names = std::str::from_utf8(value)?.split(',').map(str::trim);
        Ok(names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")).collect())
    })
}

fn encodings(message: &Message) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for names in named(&message.headers) {
        let names = names.map_err(|error| {
            undecodable(message, "has a header `content-encoding` that is not UTF-8").with_source(error)
        })?;
        all.extend(names.into_iter().map(str::to_ascii_lowercase));
        if all.len() > MAX_ENCODINGS {
            let what =
                format!("is compressed more than {MAX_ENCODINGS} times over, by its `content-encoding`");
            return Err(undecodable(message, what));
        }
    }
    Ok(all)
}

/// Why bytes cannot be decompressed.
enum Trouble {
    Unknown,
    #[cfg(not(all(feature = "gzip", feature = "zstd")))]
    Feature(&'static str),
    TooLarge,
    Damaged(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error)
    }
}

impl Trouble {
    fn into_error(self, message: &Message, encoding: &str, limit: usize) -> Error {
        let encoding = excerpt(encoding);
        match self {
            Self::Unknown => {
                undecodable(message, format!("is compressed with `{encoding}`, which is not known"))
            }
            #[cfg(not(all(feature = "gzip", feature = "zstd")))]
            Self::Feature(feature) => undecodable(
                message,
                format!("is compressed with `{encoding}`: build with the feature `{feature}` to read it"),
            ),
            Self::TooLarge => undecodable(
                message,
                format!(
                    "has more than {limit} bytes when it is decompressed (`{encoding}`), which is the limit: raise it with `Compressed::with_max_decompressed_bytes`, if you trust who sent it"
                ),
            ),
            Self::Damaged(error) => undecodable(
                message,
                format!("says that it is compressed with `{encoding}`, and cannot be decompressed: {error}"),
            )
            .with_source(error),
        }
    }
}

fn decompress(encoding: &str, bytes: &[u8], limit: usize) -> Result<Bytes, Trouble> {
    // Not all decoders mind: none of these formats has an empty form.
    if bytes.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    match encoding {
        #[cfg(feature = "gzip")]
        "gzip" | "x-gzip" => read(flate2::read::MultiGzDecoder::new(bytes), limit),
        #[cfg(feature = "gzip")]
        "deflate" | "zlib" => inflate(bytes, limit),
        #[cfg(feature = "zstd")]
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
            decoder.window_log_max(window_log(limit))?;
            read(decoder, limit)
        }
        #[cfg(not(feature = "gzip"))]
        "gzip" | "x-gzip" | "deflate" | "zlib" => Err(Trouble::Feature("gzip")),
        #[cfg(not(feature = "zstd"))]
        "zstd" => Err(Trouble::Feature("zstd")),
        _ => Err(Trouble::Unknown),
    }
}

/// A frame of zstd says how much memory its reader needs. 8 MiB is what every reader has to grant; 128 MiB what zstd grants
/// unless it is told otherwise; in between it is the limit, above which nothing is kept anyway.
#[cfg(feature = "zstd")]
fn window_log(limit: usize) -> u32 {
    limit.checked_next_power_of_two().map_or(27, usize::ilog2).clamp(23, 27)
}

fn read(decoder: impl Read, limit: usize) -> Result<Bytes, Trouble> {
    let mut bytes = Vec::new();
    let allowed = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(allowed).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(Trouble::TooLarge) } else { Ok(bytes.into()) }
}

/// flate2's own reader of zlib takes the end of the bytes for the end of the data, wherever it comes.
#[cfg(feature = "gzip")]
fn inflate(bytes: &[u8], limit: usize) -> Result<Bytes, Trouble> {
    use flate2::{Decompress, FlushDecompress, Status};

    let mut decoder = Decompress::new(true);
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        out.reserve(STEP.min(limit.saturating_add(1) - out.len()));
        let before = (decoder.total_in(), decoder.total_out());
        let status =
            decoder.decompress_vec(rest, &mut out, FlushDecompress::None).map_err(io::Error::from)?;
        let read = usize::try_from(decoder.total_in() - before.0).unwrap_or(usize::MAX);
        rest = rest.get(read..).unwrap_or_default();
        if out.len() > limit {
            return Err(Trouble::TooLarge);
        }
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(out.into()),
            Status::StreamEnd => {
                return Err(
                    io::Error::new(io::ErrorKind::InvalidData, "something stands behind its end").into()
                );
            }
            _ if before == (decoder.total_in(), decoder.total_out()) => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            _ => {}
        }
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => "gzip",
            #[cfg(feature = "gzip")]
            Self::Zlib => "deflate",
            #[cfg(feature = "zstd")]
            Self::Zstd => "zstd",
        }
    }

    fn compress(self, bytes: &[u8], level: Option<u32>) -> io::Result<Vec<u8>> {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => {
                let mut encoder = flate2::read::GzEncoder::new(bytes, flate_level(level));
                let mut compressed = Vec::new();
                encoder.read_to_end(&mut compressed)?;
                Ok(compressed)
            }
            #[cfg(feature = "gzip")]
            Self::Zlib => {
                let mut encoder = flate2::read::ZlibEncoder::new(bytes, flate_level(level));
                let mut compressed = Vec::new();
                encoder.read_to_end(&mut compressed)?;
                Ok(compressed)
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                zstd::bulk::compress(bytes, level.map_or(3, |level| level.clamp(1, 22).cast_signed()))
            }
        }
    }
}

#[cfg(feature = "gzip")]
fn flate_level(level: Option<u32>) -> flate2::Compression {
    level.map_or_else(flate2::Compression::default, |level| flate2::Compression::new(level.min(9)))
}
