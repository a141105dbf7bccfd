//! The report as one HTML file that needs nothing else: the page's source with the JSON inside.

use super::report::Report;

/// The page. Its script reads the JSON from the element `report`.
const PAGE: &str = include_str!("report.html");

/// What stands in the page where the JSON comes.
const PLACE: &str = "__REPORT__";

/// The page that shows a report.
///
/// # Errors
/// When the report cannot be written as JSON, which only a number that is not finite could cause.
pub fn page(report: &Report) -> serde_json::Result<String> {
    Ok(PAGE.replacen(PLACE, &embeddable(&serde_json::to_string(report)?), 1))
}

/// JSON that can stand in a script element: no text in it can end the element or begin a comment.
fn embeddable(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_the_script_element() {
        let texts = ["</script><script>alert(1)", "<!-- x", "a\u{2028}b\u{2029}c"];
        let json = serde_json::to_string(&texts).unwrap();
        let embedded = embeddable(&json);
        assert!(!embedded.contains(['<', '\u{2028}', '\u{2029}']), "{embedded}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&embedded).unwrap(), texts);
    }

    #[test]
    fn the_page_has_one_place_for_the_report() {
        assert_eq!(PAGE.matches(PLACE).count(), 1);
        assert!(PAGE.contains("<script type=\"application/json\" id=\"report\">__REPORT__</script>"));
    }
}
