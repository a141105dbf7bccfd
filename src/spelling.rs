//! Which known word was probably meant: for settings, variables and fields that nobody knows.

/// The known name that looks most like `name`, if one looks like it at all. Names may have sections, with dots between
/// them: a right name in the wrong section is a near miss, as is a wrong name in the right section.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = last_part(name);
    known
        .into_iter()
        .map(|candidate| {
            let distance = distance(name, candidate).min(distance(last, last_part(candidate)) + 1);
            (distance, candidate)
        })
        .min()
        .filter(|(distance, candidate)| *distance <= (last.len().max(last_part(candidate).len()) / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// What stands behind the last dot.
#[must_use]
pub fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// Levenshtein's distance in characters.
#[must_use]
pub fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            let change = diagonal + usize::from(letter != *other);
            row[column + 1] = change.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_insertions_deletions_and_changes() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("listen", "listen"), 0);
    }

    #[test]
    fn a_word_is_found_by_its_look_or_not_at_all() {
        let known = ["instruction", "top_n", "query", "server.listen"];
        let of = |name| nearest(name, known);
        assert_eq!(of("instructions"), Some("instruction"));
        assert_eq!(of("topn"), Some("top_n"));
        assert_eq!(of("listen"), Some("server.listen"));
        assert_eq!(of("zebra"), None);
    }
}
