//! Finds texts in a script that the model does not read.

use crate::prompt::binding::Prompter;

/// How many characters of a document are looked at to find its script.
const SCRIPT_CHARACTERS: usize = 200;

impl Prompter {
    /// Warns of documents in a script that the model does not read, once for all of them.
    pub(in crate::prompt) fn warn_of_other_scripts(&self, documents: &[String], warnings: &mut Vec<String>) {
        let Some(language) = &self.facts.reads_only else { return };
        let is_other = |(_, text): &(usize, &String)| is_in_another_script(text.chars().take(SCRIPT_CHARACTERS));
        let others: Vec<usize> = documents.iter().enumerate().filter(is_other).map(|(index, _)| index).collect();
        if let [first, more @ ..] = others.as_slice() {
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            let family = &self.facts.name;
            warnings.push(format!(
                "documents[{first}]{more}: {family} reads {language}; most letters are of another script"
            ));
        }
    }
}

/// Whether more than half of a text's letters are not Latin.
pub(super) fn is_in_another_script(text: impl Iterator<Item = char>) -> bool {
    let is_latin = |letter: char| letter <= '\u{24F}' || ('\u{1E00}'..='\u{1EFF}').contains(&letter);
    let (mut latin, mut others) = (0, 0);
    for letter in text.filter(|letter| letter.is_alphabetic()) {
        if is_latin(letter) {
            latin += 1;
        } else {
            others += 1;
        }
    }
    others > latin
}
