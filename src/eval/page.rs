//! The report as a self-contained HTML page: a static page with the JSON embedded.

use super::report::Report;

/// The page's source. Its script reads the JSON from the element `report`.
const PAGE: &str = include_str!("report.html");

/// The placeholder of the JSON in the page's source.
const PLACEHOLDER: &str = "__REPORT__";

/// Renders a report as HTML.
///
/// # Errors
/// If the report cannot be serialised.
pub fn render_page(report: &Report) -> serde_json::Result<String> {
    Ok(PAGE.replacen(PLACEHOLDER, &escape_for_script(&serde_json::to_string(report)?), 1))
}

/// Escapes JSON for a script element, so that no text can end the element or begin a comment.
fn escape_for_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_end_the_script_element() {
        let texts = ["</script><script>alert(1)", "<!-- x", "a\u{2028}b\u{2029}c"];
        let json = serde_json::to_string(&texts).unwrap();
        let embedded = escape_for_script(&json);
        assert!(!embedded.contains(['<', '\u{2028}', '\u{2029}']), "{embedded}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&embedded).unwrap(), texts);
    }

    #[test]
    fn the_page_has_one_placeholder_for_the_report() {
        assert_eq!(PAGE.matches(PLACEHOLDER).count(), 1);
        assert!(PAGE.contains("<script type=\"application/json\" id=\"report\">__REPORT__</script>"));
    }
}
