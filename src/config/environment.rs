//! Environment variables that look like Podium's and are read by nobody. A slip of the pen in one of them must not
//! leave a server open, or with the default, without a word.

use super::{ConfigError, ENVIRONMENT_PREFIX, defaults};
use crate::spelling::{distance, last_part};

/// What every variable of Podium's begins with.
const NAME: &str = "PODIUM_";
/// The variables that set no key.
const VARIABLES: [&str; 2] = ["CONFIG", "API_KEYS"];
/// So many letters may be wrong for a variable to be taken for another.
const SLIPS: usize = 2;

/// Goes through the names of all environment variables, and returns those that begin as Podium's do and are not read.
///
/// What a container's orchestrator says of services called `podium` (`PODIUM_SERVICE_HOST`, `PODIUM_PORT_8080_TCP`) is
/// not among them.
///
/// # Errors
/// [`ConfigError::Variable`] for one that is nearly a variable of Podium's, or that has `KEY` in its name.
pub(super) fn check_environment<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<&'a str>, ConfigError> {
    let keys = defaults()?;
    let mut unread = Vec::new();
    for name in names {
        let Some(rest) = name.strip_prefix(NAME) else { continue };
        if name.starts_with(ENVIRONMENT_PREFIX) || VARIABLES.contains(&rest) || is_of_a_service(rest) {
            continue;
        }
        if let Some(meant) = meant_by(rest, keys.keys().map(String::as_str)) {
            return Err(ConfigError::Variable { name: name.to_owned(), meant });
        }
        unread.push(name);
    }
    Ok(unread)
}

/// The variable that was probably meant by `PODIUM_` and this.
fn meant_by<'a>(rest: &str, keys: impl Iterator<Item = &'a str>) -> Option<String> {
    let variables = VARIABLES.iter().map(|variable| (distance(rest, variable), format!("{NAME}{variable}")));
    let settings = keys.map(|key| {
        let spelled = key.replace('.', "_").to_uppercase();
        // A name without its section counts where it is right to the letter.
        let named = if last_part(key).eq_ignore_ascii_case(rest) { 1 } else { usize::MAX };
        let meant = format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__").to_uppercase());
        (distance(rest, &spelled).min(named), meant)
    });
    let near = variables.chain(settings).filter(|(slips, _)| *slips <= SLIPS).min();
    let about_keys = rest.split('_').any(|word| word == "KEY" || word == "KEYS");
    near.map(|(_, meant)| meant).or_else(|| about_keys.then(|| format!("{NAME}API_KEYS")))
}

/// Whether this is what Kubernetes (and links between containers) set for a service whose name begins with `podium`.
fn is_of_a_service(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.ends_with(&["PORT"])
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_nearly_one_of_podiums_is_refused_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("PODIUM_API_KEY", "PODIUM_API_KEYS"),
            ("PODIUM_APIKEYS", "PODIUM_API_KEYS"),
            ("PODIUM_KEYS", "PODIUM_API_KEYS"),
            ("PODIUM_ADMIN_KEY", "PODIUM_API_KEYS"),
            ("PODIUM_CONFIGS", "PODIUM_CONFIG"),
            ("PODIUM_LISTEN", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_LIMITS_MAX_DOCUMENTS", "PODIUM__LIMITS__MAX_DOCUMENTS"),
            ("PODIUM_LIMITS__MAX_DOCUMENT", "PODIUM__LIMITS__MAX_DOCUMENTS"),
            ("PODIUM_AUTH_KEYS_FILE", "PODIUM__AUTH__KEYS_FILE"),
        ] {
            let refused = check_environment(["HOME", name]).unwrap_err().to_string();
            assert_eq!(refused, format!("the environment variable {name} is not read; did you mean {meant}?"));
        }
    }

    #[test]
    fn what_is_read_and_what_kubernetes_says_of_services_passes() {
        let names = [
            "PODIUM_CONFIG",
            "PODIUM_API_KEYS",
            "PODIUM__SERVER__LISTEN",
            "PODIUM__NO__SUCH",
            "PODIUM_PORT",
            "PODIUM_SERVICE_HOST",
            "PODIUM_SERVICE_PORT_HTTP",
            "PODIUM_PORT_8080_TCP",
            "PODIUM_PORT_8080_TCP_ADDR",
            "PODIUM_API_KEYS_SERVICE_PORT",
            "PODIUMS",
        ];
        assert_eq!(check_environment(names).unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn any_other_is_named() {
        let names = ["PODIUM_BIN", "PODIUM_URL", "PODIUM_CHROMIUM", "PODIUM_SHOTS", "PODIUM_FLAGS", "PODIUM_JINA_V3"];
        assert_eq!(check_environment(names).unwrap(), names);
    }
}
