//! What CloudEvents calls context attributes.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use super::{CloudEvents, checked};
use crate::codec::{excerpt, header, refused, undecodable};
use crate::error::Result;
use crate::message::{Headers, Message, MessageId};

/// What stands before an attribute's name in a header after decoding, and in the Kafka binding.
pub(super) const PREFIX: &str = "ce_";

const PREFIXES: [&str; 3] = [PREFIX, "cloudEvents_", "cloudEvents:"];

const VERSION: &str = "1.0";

/// Attributes that are not extensions.
pub(super) const CORE: [&str; 8] =
    ["specversion", "id", "source", "type", "datacontenttype", "dataschema", "subject", "time"];

/// The attribute that a header is for, in whichever binding.
pub(crate) fn attribute_of(header: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| header.strip_prefix(prefix))
}

/// Whose headers these are, if they are those of the binary mode.
pub(super) fn prefix_of(headers: &Headers) -> Option<&'static str> {
    let mut prefixes = PREFIXES.into_iter();
    prefixes.find(|prefix| {
        headers.iter().any(|(name, _)| name.strip_prefix(prefix).is_some_and(|name| name == "specversion"))
    })
}

/// Names and values, in the order in which they are written.
pub(super) struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// Those of an event that is to be written.
    pub(super) fn of_event(message: &Message, settings: &CloudEvents) -> Result<Self> {
        let mut attributes = Self(vec![("specversion".to_owned(), VERSION.to_owned())]);
        let given = Self::given(message)?;
        let utf8 = |name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => checked(message, name, text),
            Err(error) => Err(refused(
                message,
                format!("has a value for the CloudEvents attribute `{name}` that is not UTF-8"),
            )
            .with_source(error)),
        };
        let id = message.id.as_ref().map(MessageId::as_bytes).unwrap_or_default();
        attributes.put("id", utf8("id", id)?);
        attributes.put("source", settings.source.clone());
        attributes.put("type", checked(message, "type", &message.name)?);
        if let Some(content_type) = &message.content_type {
            attributes.put("datacontenttype", checked(message, "datacontenttype", content_type)?);
        }
        match &settings.dataschema {
            Some(template) => attributes.put("dataschema", dataschema(template, message)?),
            None => attributes.put_some("dataschema", given.get("dataschema").map(str::to_owned)),
        }
        let key = match message.key.as_deref().filter(|key| !key.is_empty()) {
            Some(key) => Some(utf8("partitionkey", key)?),
            None => None,
        };
        attributes.put_some("subject", given.get("subject").map(str::to_owned).or_else(|| key.clone()));
        if let Some(timestamp) = message.timestamp {
            if !(0..=9999).contains(&timestamp.year()) {
                return Err(refused(
                    message,
                    format!("has the time {timestamp}, and CloudEvents has years of four digits only"),
                ));
            }
            attributes.put("time", timestamp.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        }
        let traced = message.headers.get_str(header::TRACEPARENT);
        let traceparent = traced.filter(|value| !value.is_empty() && is_text(value)).map(str::to_owned);
        attributes.put_some("partitionkey", key);
        attributes.put_some("traceparent", traceparent);
        let made = attributes.0.len();
        for (name, value) in given.0 {
            if !CORE.contains(&name.as_str()) && !attributes.0[..made].iter().any(|(known, _)| *known == name)
            {
                attributes.put(&name, value);
            }
        }
        Ok(attributes)
    }

    /// Those that stand in headers of the message under the names that they have after decoding. What a received message had
    /// besides, in names of another binding than its own, is none of its attributes.
    fn given(message: &Message) -> Result<Self> {
        let mut given = Self(Vec::new());
        let mut known = HashSet::new();
        for (header, value) in message.headers.iter() {
            let Some(name) = header.strip_prefix(PREFIX) else { continue };
            if !is_name(name) {
                return Err(refused(
                    message,
                    format!(
                        "has the header `{}`, and the name of a CloudEvents attribute has only `a-z` and `0-9`, and is not `data`",
                        excerpt(header)
                    ),
                ));
            }
            // Those that the codec makes itself: whatever was left there by a message that was received is not looked at.
            if ["specversion", "id", "source", "type", "time", "datacontenttype"].contains(&name)
                || !known.insert(name)
            {
                continue;
            }
            let value = std::str::from_utf8(value).map_err(|error| {
                refused(
                    message,
                    format!("has the header `{}` with a value that is not UTF-8", excerpt(header)),
                )
                .with_source(error)
            })?;
            match value.is_empty() {
                // An extension may say nothing; these two would have to be left out instead.
                true if ["subject", "dataschema"].contains(&name) => {}
                true => given.put(name, String::new()),
                false => given.put(name, checked(message, name, value)?),
            }
        }
        Ok(given)
    }

    /// Those that stand in the headers of the binary mode, which are renamed to ours.
    pub(super) fn from_headers(message: &mut Message, prefix: &'static str) -> Result<Self> {
        let mut attributes = Self(Vec::new());
        let mut known = HashSet::new();
        for (header, value) in message.headers.iter() {
            let Some(name) = header.strip_prefix(prefix).filter(|name| is_name(name)) else { continue };
            if name == "datacontenttype" || !known.insert(name) {
                continue;
            }
            let value = std::str::from_utf8(value).map_err(|error| {
                undecodable(
                    message,
                    format!("has the header `{}` with a value that is not UTF-8", excerpt(header)),
                )
                .with_source(error)
            })?;
            attributes.put(name, value.to_owned());
        }
        if prefix != PREFIX {
            message.headers.retain(|name| attribute_of(name).is_none());
            attributes.write_headers(&mut message.headers, PREFIX);
        }
        Ok(attributes)
    }

    /// Those of an object.
    pub(super) fn from_object(attributes: Vec<(String, String)>) -> Self {
        Self(attributes)
    }

    /// Whether everything is there that must be.
    pub(super) fn check(&self, message: &Message) -> Result<()> {
        match self.get("specversion") {
            Some(VERSION) => {}
            Some(other) => {
                return Err(undecodable(
                    message,
                    format!("is a CloudEvent of version `{}`, and only 1.0 is read", excerpt(other)),
                ));
            }
            None => return Err(missing(message, "specversion")),
        }
        match ["id", "source", "type"].iter().find(|name| self.get(name).is_none_or(str::is_empty)) {
            Some(name) => Err(missing(message, name)),
            None => Ok(()),
        }
    }

    /// Sets the fields of a received message.
    pub(super) fn into_fields(self, message: &mut Message) -> Result<()> {
        if let Some(time) = self.get("time") {
            message.timestamp = Some(read_time(time).ok_or_else(|| {
                undecodable(
                    message,
                    format!(
                        "has the CloudEvents attribute `time` with the unreadable value `{}`",
                        excerpt(time)
                    ),
                )
            })?);
        }
        message.id = self.get("id").map(MessageId::from);
        message.name = self.get("type").unwrap_or_default().to_owned();
        if message.key.is_none() {
            let key = self.get("partitionkey").or_else(|| self.get("subject"));
            message.key = key.filter(|key| !key.is_empty()).map(|key| Bytes::copy_from_slice(key.as_bytes()));
        }
        if let Some(traceparent) = self.get("traceparent")
            && message.headers.get(header::TRACEPARENT).is_none()
        {
            message.headers.append(header::TRACEPARENT, traceparent.to_owned());
        }
        Ok(())
    }

    /// Behind the others: those of attributes have to be away already.
    pub(super) fn write_headers(&self, headers: &mut Headers, prefix: &str) {
        for (name, value) in self.iter() {
            if name != "datacontenttype" {
                headers.append(format!("{prefix}{name}"), value.to_owned());
            }
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn put(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    fn put_some(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}

fn missing(message: &Message, name: &str) -> crate::error::Error {
    undecodable(message, format!("lacks the CloudEvents attribute `{name}`, which is not optional"))
}

/// RFC 3339, or seconds: AMQP's own type for a time, of which the adapter makes a number.
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Some(time.with_timezone(&Utc)),
        Err(_) => DateTime::from_timestamp(text.parse().ok()?, 0),
    }
}

fn dataschema(template: &str, message: &Message) -> Result<String> {
    let version = message.version.unwrap_or(1).to_string();
    // The name first: encoded, it has no braces in which something could be replaced.
    let uri = template.replace("{name}", &percent_encoded(&message.name)).replace("{version}", &version);
    let absolute = uri.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme));
    if absolute && is_uri_reference(&uri) {
        return Ok(uri);
    }
    Err(refused(
        message,
        format!("would have the CloudEvents attribute `dataschema` `{}`, which is not a URI", excerpt(&uri)),
    ))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn percent_encoded(text: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(unreserved) {
        return text.into();
    }
    let encoded = text.bytes().map(|byte| match unreserved(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// Of the characters that no URI has, only: what a URI means is its reader's business.
pub(super) fn is_uri_reference(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name != "data"
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// No control characters, and none of the code points that Unicode keeps out of texts.
pub(super) fn is_text(text: &str) -> bool {
    !text.chars().any(|char| {
        let code = u32::from(char);
        char.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    })
}
