//! What a browser sends: forms and queries in `application/x-www-form-urlencoded`, decoded strictly, and the other
//! way round for links. What the fields mean is in the file of each page.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, header};

use crate::body;
use crate::error::ApiError;

/// Fields of one form. The user form has a dozen, plus fourteen for each of at most a thousand directories.
const MAX_FIELDS: usize = 20_000;

/// The fields of a form in the order they were sent.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a body. One of another type has no fields.
    ///
    /// # Errors
    /// [`ApiError`] if the body does not arrive or cannot be decoded.
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let text = body::read(body, body::MAX_BODY_BYTES).await?;
        let kind =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Ok(Self::default());
        }
        Self::parse(&text).map_err(ApiError::BadRequest)
    }

    /// Decodes `a=b&c=d`.
    ///
    /// # Errors
    /// What is wrong, in words for the visitor.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let mut fields = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if fields.len() == MAX_FIELDS {
                return Err(format!("the form has more than {MAX_FIELDS} fields"));
            }
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            fields.push((decode(name)?, decode(value)?));
        }
        Ok(Self(fields))
    }

    /// The first value of a field.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a field, or nothing.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.first(name).unwrap_or_default()
    }

    /// Every value of a field.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All fields.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn decode(text: &[u8]) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(*byte).to_digit(16));
                let (high, low) = (digit(), digit());
                high.zip(low)
                    .and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
                    .ok_or("the form cannot be decoded: a % is not followed by two hexadecimal digits")?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| "the form cannot be decoded: a field is not UTF-8".to_owned())
}

/// Encodes a value for a query or a cookie.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_order() {
        let form = Form::parse(b"a=1&b=x+y%2B&a=2&empty=&bare&&c=%C3%A9").unwrap();
        assert_eq!(form.first("a"), Some("1"));
        assert_eq!(form.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(form.text("b"), "x y+");
        assert_eq!((form.first("empty"), form.first("bare"), form.first("none")), (Some(""), Some(""), None));
        assert_eq!(form.text("c"), "é");
        assert_eq!(Form::parse(encode("a=ü&%+ ").as_bytes()).unwrap().iter().next(), Some(("a=ü&%+ ", "")));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=1"] {
            assert!(Form::parse(text.as_bytes()).is_err(), "{text}");
        }
        let many = "a=&".repeat(MAX_FIELDS + 1);
        assert!(Form::parse(many.as_bytes()).unwrap_err().contains("more than"));
    }
}
