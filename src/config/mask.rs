//! Secrets in URLs, masked before settings are printed or logged.

/// Replacement for a secret.
const MASK: &str = "***";

/// `text` with the user information and the query values of a URL replaced by `***`. Other text stays as it is.
///
/// A token can stand in either part of the user information, so all of it is masked.
#[must_use]
pub fn mask_url_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (location, query) = rest.split_once('?').map_or((rest, None), |(location, query)| (location, Some(query)));
    let mut masked = format!("{scheme}://");
    match location.rsplit_once('@') {
        Some((_secret, host)) => {
            masked.push_str(MASK);
            masked.push('@');
            masked.push_str(host);
        }
        None => masked.push_str(location),
    }
    for (number, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        masked.push(if number == 0 { '?' } else { '&' });
        if let Some((name, _secret)) = pair.split_once('=') {
            masked.push_str(name);
            masked.push('=');
        }
        masked.push_str(MASK);
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_information_and_query_values_are_masked() {
        for (url, masked) in [
            ("https://user:secret@host:4318/v1", "https://***@host:4318/v1"),
            ("https://secret@host", "https://***@host"),
            ("https://user:sec/ret@host", "https://***@host"),
            ("http://host/v1?api-key=secret&x=secret", "http://host/v1?api-key=***&x=***"),
            ("http://user:secret@host?secret", "http://***@host?***"),
        ] {
            assert_eq!(mask_url_secrets(url), masked);
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in ["", "http://localhost:4318", "Qwen/Qwen3-Reranker-0.6B", "a@b?c=d", "https://a.example, http://b"]
        {
            assert_eq!(mask_url_secrets(text), text);
        }
    }
}
