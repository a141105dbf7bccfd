//! Did-you-mean: the known name that is closest to an unknown one.

use strsim::levenshtein;

/// The known name that is closest to `name`, if one is close: at most a third of its letters
/// differ, or two.
///
/// Names may have sections, separated by dots. A right name in the wrong section is close, as is a
/// misspelt name in the right section.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = last_part(name);
    known
        .into_iter()
        .map(|candidate| {
            let distance = levenshtein(name, candidate).min(levenshtein(last, last_part(candidate)) + 1);
            (distance, candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= (last.len().max(last_part(candidate).len()) / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// The part after the last dot.
#[must_use]
pub fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_if_one_is_close() {
        let known = ["instruction", "top_n", "query", "server.listen"];
        for (name, expected) in [
            ("instructions", Some("instruction")),
            ("topn", Some("top_n")),
            ("listen", Some("server.listen")),
            ("zebra", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
