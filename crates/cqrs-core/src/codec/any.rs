use std::sync::Arc;

use super::{Codec, Fit, undecodable};
use crate::error::Result;
use crate::message::Message;

/// Several formats: it writes the first, and reads whichever a message is of.
///
/// They are told apart by headers and content type, then by the shape of the payload ([`Codec::fits`]). Of two that fit
/// equally well, the one that was given first is taken. What none of them knows is tried with each in their order:
/// so [`Json`](super::Json) and [`Raw`](super::Raw), which take anything, come last.
///
/// To read compressed messages of any of them, put [`Compressed`](super::Compressed) around it.
///
/// # Errors
///
/// Encoding fails as the first format does. Decoding fails with [`ErrorKind::Decode`](crate::ErrorKind::Decode): as the
/// format does that a message says it is of; and if it is of none, with what each of them misses.
///
/// ```
/// use cqrs_core::codec::{AnyOf, Codec, Json, PythonCqrs};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// // A service that moves away from Python: it writes the new format and reads both.
/// let codec = AnyOf::new(Json).or(PythonCqrs::v0());
/// let python = r#"{"event_name":"room_closed","event_id":"0192f6c2-9b1e-7c52-9a51-6d7f1c0f8e01","payload":{}}"#;
/// assert_eq!(codec.decode(Message::new("rooms", python))?.name, "room_closed");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AnyOf(Vec<Arc<dyn Codec>>);

impl AnyOf {
    /// The format that is written, and read.
    #[must_use]
    pub fn new(codec: impl Codec) -> Self {
        Self(vec![Arc::new(codec)])
    }

    /// One more that is read.
    #[must_use]
    pub fn or(mut self, codec: impl Codec) -> Self {
        self.0.push(Arc::new(codec));
        self
    }
}

impl Codec for AnyOf {
    fn encode(&self, message: Message) -> Result<Message> {
        match self.0.first() {
            Some(codec) => codec.encode(message),
            None => Ok(message),
        }
    }

    fn decode(&self, message: Message) -> Result<Message> {
        decode(&self.0.iter().collect::<Vec<_>>(), message)
    }

    fn fits(&self, message: &Message) -> Fit {
        self.0.iter().map(|codec| codec.fits(message)).max().unwrap_or(Fit::No)
    }
}

/// Reads a message in the first of the formats that it fits best.
pub(super) fn decode(codecs: &[&Arc<dyn Codec>], message: Message) -> Result<Message> {
    let mut by_fit = Vec::with_capacity(codecs.len());
    for codec in codecs {
        match codec.fits(&message) {
            // Nothing fits better, and the others may have to look into the payload.
            Fit::Headers => return codec.decode(message),
            fit => by_fit.push((fit, codec)),
        }
    }
    by_fit.sort_by(|(one, _), (other, _)| other.cmp(one));
    let mut problems = Vec::new();
    for (fit, codec) in by_fit {
        match codec.decode(message.clone()) {
            // What says that it is of a format, and is not, is broken: another one would read something else in it.
            Err(error) if fit < Fit::Shape => problems.push(error),
            result => return result,
        }
    }
    match problems.len() {
        1 => Err(problems.remove(0)),
        _ => {
            let problems: Vec<_> = problems.iter().map(|error| format!("{error:#}")).collect();
            Err(undecodable(&message, format!("is of no accepted format: {}", problems.join("; "))))
        }
    }
}
