//! The envelope of JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::attributes::{Attributes, CORE, PREFIX, attribute_of, is_name};
use crate::codec::object::{self, Object, Writer};
use crate::codec::{excerpt, is_json, refused, undecodable};
use crate::error::Result;
use crate::message::Message;

pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";

const MEDIA_TYPE: &str = "application/cloudevents+json";

/// Whether a content type is one of CloudEvents, of whichever event format.
pub(super) fn is_content_type(content_type: &str) -> bool {
    const ALL: &str = "application/cloudevents";
    content_type.trim_start().get(..ALL.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(ALL))
}

pub(super) fn looks_like(payload: &[u8]) -> bool {
    let Ok(event) = Object::parse(payload) else { return false };
    ["specversion", "id", "source", "type"].iter().all(|name| event.get(name).is_some())
}

pub(super) fn write(message: &Message, attributes: &Attributes) -> Result<String> {
    let mut envelope = Writer::new();
    for (name, value) in attributes.iter() {
        envelope = envelope.text(name, value);
    }
    let Some(payload) = &message.payload else { return Ok(envelope.end()) };
    if !message.content_type.as_deref().is_some_and(is_json) {
        // Base64 has nothing that would have to be escaped.
        return Ok(envelope.json("data_base64", &format!("\"{}\"", STANDARD.encode(payload))).end());
    }
    let data: &RawValue = serde_json::from_slice(payload).map_err(|error| {
        refused(message, format!("has a payload that is not the JSON it is said to be: {error}"))
            .with_source(error)
    })?;
    Ok(envelope.json("data", data.get()).end())
}

/// Whether the event format of a content type of CloudEvents is the one that is read.
pub(super) fn check_format(message: &Message, content_type: &str) -> Result<()> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Ok(());
    }
    let what = format!("is of CloudEvents as `{}`, and only `{MEDIA_TYPE}` is read", excerpt(content_type));
    Err(undecodable(message, what))
}

/// Takes the attributes out of an envelope, and leaves the data.
pub(super) fn read(message: &mut Message, envelope: &Bytes) -> Result<Attributes> {
    let event = Object::parse(envelope).map_err(|error| {
        undecodable(message, format!("is not a CloudEvent in JSON: {error}")).with_source(error)
    })?;
    let mut attributes = Vec::new();
    let mut content_type = None;
    for (name, value) in event.last_of_each() {
        if !is_name(name) || object::is_null(value) {
            continue;
        }
        let text = match object::text(value) {
            Some(text) => text,
            None if CORE.contains(&name) => {
                return Err(undecodable(
                    message,
                    format!("has the CloudEvents attribute `{name}`, which is not a string"),
                ));
            }
            // Numbers and booleans have this as their canonical form. An attribute is never an object nor an array.
            None if value.get().starts_with(['{', '[']) => continue,
            None => value.get().to_owned(),
        };
        if name == "datacontenttype" {
            content_type = Some(text);
        } else {
            attributes.push((name.to_owned(), text));
        }
    }
    let data = event.get("data");
    let binary = event.get("data_base64").filter(|value| !object::is_null(value));
    message.payload = match (data, binary) {
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(undecodable(message, "is a CloudEvent with both `data` and `data_base64`"));
        }
        (Some(data), None) => Some(read_data(message, envelope, &mut content_type, data)?),
        (None, Some(binary)) => {
            let text = object::text(binary).unwrap_or_else(|| binary.get().to_owned());
            let bytes = STANDARD.decode(text).map_err(|error| {
                undecodable(message, format!("has `data_base64` that is not Base64: {error}"))
                    .with_source(error)
            })?;
            Some(bytes.into())
        }
    };
    message.content_type = content_type;
    let attributes = Attributes::from_object(attributes);
    message.headers.retain(|name| attribute_of(name).is_none());
    attributes.write_headers(&mut message.headers, PREFIX);
    Ok(attributes)
}

fn read_data(
    message: &Message,
    envelope: &Bytes,
    content_type: &mut Option<String>,
    data: &RawValue,
) -> Result<Bytes> {
    if is_json(content_type.get_or_insert_with(|| "application/json".to_owned())) {
        return Ok(envelope.slice_ref(data.get().as_bytes()));
    }
    object::text(data).map(Bytes::from).ok_or_else(|| {
        undecodable(
            message,
            "is a CloudEvent with `data` that is not a string, though its `datacontenttype` is not JSON",
        )
    })
}
