//! Masking of passwords in URLs, for everything that is printed or logged.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Replacement for a secret.
const MASK: &str = "***";

/// The text, with the user information and the query values of every URL in it replaced by `***`.
///
/// A token can stand in either part of the user information, so all of it is masked.
#[must_use]
pub fn mask_url_secrets(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let mut masked = String::new();
    let mut rest = text;
    while let Some(scheme) = rest.find(SCHEME_END) {
        let (before, after) = rest.split_at(scheme + SCHEME_END.len());
        masked.push_str(before);
        let is_outside = |letter: char| letter.is_whitespace() || letter.is_control() || "\"'`<>\\".contains(letter);
        let (url, behind) = after.split_at(after.find(is_outside).unwrap_or(after.len()));
        push_masked(&mut masked, url);
        rest = behind;
    }
    if masked.is_empty() {
        return Cow::Borrowed(text);
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

/// Appends a URL, whose scheme was cut off, without its secrets.
fn push_masked(masked: &mut String, url: &str) {
    let (location, query) = url.split_once('?').map_or((url, None), |(location, query)| (location, Some(query)));
    let location = match user_info(location) {
        Some(user_info) => {
            masked.push_str(MASK);
            &location[user_info.len()..]
        }
        None => location,
    };
    masked.push_str(location);
    for (number, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        masked.push(if number == 0 { '?' } else { '&' });
        if let Some((name, _secret)) = pair.split_once('=') {
            masked.push_str(name);
            masked.push('=');
        }
        masked.push_str(MASK);
    }
}

/// The user information at the start of `location`, up to its `@`.
fn user_info(location: &str) -> Option<&str> {
    let authority = location.find(['/', '#']).map_or(location, |end| &location[..end]);
    let at = authority.rfind('@').or_else(|| {
        // A password with a slash in it makes no URL, but it is in the message that says so.
        let (_, after_colon) = authority.split_once(':')?;
        let is_port = after_colon.bytes().all(|byte| byte.is_ascii_digit());
        if is_port { None } else { location.rfind('@') }
    })?;
    Some(&location[..at])
}

/// A log's writer that masks secrets in every line.
#[derive(Debug, Clone)]
pub(super) struct MaskingWriter<W>(pub W);

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for MaskingWriter<W> {
    type Writer = MaskingWriter<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        MaskingWriter(self.0.make_writer())
    }
}

impl<W: Write> Write for MaskingWriter<W> {
    /// Writes all of `line`, which is a whole line: the log formats each one before it writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(mask_url_secrets(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_and_query_values_of_every_url_are_masked() {
        for (text, masked) in [
            ("http://user:secret@c:4318/v1", "http://***@c:4318/v1"),
            ("https://token@hub/a/b", "https://***@hub/a/b"),
            ("a = \"http://u:p@x\" and socks5://v:q@[::1]:80", "a = \"http://***@x\" and socks5://***@[::1]:80"),
            ("http://u:p@ss@x", "http://***@x"),
            ("http://u:p/ss@x", "http://***@x"),
            ("http://u:1,2;3@x", "http://***@x"),
            ("http://host/v1?api-key=secret&x=secret", "http://host/v1?api-key=***&x=***"),
            ("http://user:secret@host?secret", "http://***@host?***"),
            (r#"{"to":"\"http://h?key=secret\""}"#, r#"{"to":"\"http://h?key=***\""}"#),
        ] {
            assert_eq!(mask_url_secrets(text), masked);
        }
    }

    #[test]
    fn a_text_without_secrets_stays_as_it_is() {
        for text in
            ["", "a@b?c=d", "http://c:4318/@scope/x", "https://a.example, http://b", "see http://c, or d@e", "://"]
        {
            assert_eq!(mask_url_secrets(text), text);
        }
    }
}
