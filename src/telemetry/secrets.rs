//! Masking of passwords in URLs, for everything that is printed or logged.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// What stands in a URL in place of user and password.
const MASK: &str = "***";

/// The text, with `***` in place of the user and password of every URL in it.
///
/// A user without a password is masked as well: it may be a token.
#[must_use]
pub fn mask_url_secrets(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let mut masked = String::new();
    let mut rest = text;
    while let Some(scheme) = rest.find(SCHEME_END) {
        let (before, url) = rest.split_at(scheme + SCHEME_END.len());
        masked.push_str(before);
        rest = url;
        if let Some(user_info) = user_info(url) {
            masked.push_str(MASK);
            rest = &url[user_info.len()..];
        }
    }
    if masked.is_empty() {
        return Cow::Borrowed(text);
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

/// The user and password at the start of `url`, whose scheme was cut off.
fn user_info(url: &str) -> Option<&str> {
    let end = url.find(|letter: char| letter.is_whitespace() || "\"`<>".contains(letter)).unwrap_or(url.len());
    let url = &url[..end];
    let authority = url.find(['/', '?', '#', '\\']).map_or(url, |end| &url[..end]);
    let at = authority.rfind('@').or_else(|| {
        // A password with a slash in it makes no URL, but it is in the message that says so.
        let (_, after_colon) = authority.split_once(':')?;
        let is_port = after_colon.bytes().all(|byte| byte.is_ascii_digit());
        if is_port { None } else { url.rfind('@') }
    })?;
    Some(&url[..at])
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
    fn user_and_password_of_every_url_are_masked() {
        for (text, masked) in [
            ("http://user:secret@c:4318/v1", "http://***@c:4318/v1"),
            ("https://token@hub/a/b", "https://***@hub/a/b"),
            ("a = \"http://u:p@x\" and socks5://v:q@[::1]:80?z", "a = \"http://***@x\" and socks5://***@[::1]:80?z"),
            ("http://u:p@ss@x", "http://***@x"),
            ("http://u:p/ss@x", "http://***@x"),
            ("http://u:1,2;3@x", "http://***@x"),
        ] {
            assert_eq!(mask_url_secrets(text), masked);
        }
    }

    #[test]
    fn a_text_without_secrets_stays_as_it_is() {
        for text in ["", "a@b", "http://c:4318/@scope/x", "https://h/a?b=c@d", "see http://c, or d@e", "://"] {
            assert_eq!(mask_url_secrets(text), text);
        }
    }
}
