//! Environment variables that look like Podium's, but are not read. A misspelt variable must not
//! silently leave a server open, or with a default.

use super::error::ConfigError;
use super::source::{ENVIRONMENT_PREFIX, VARIABLES};
use super::suggest::{VARIABLE_PREFIX, suggest_variable};
use crate::runtime::{CPU_INSTRUCTIONS, CPU_INSTRUCTIONS_VARIABLE};

/// Returns the names of the variables that begin with `PODIUM_` and are not read.
///
/// Variables that Kubernetes and container links set for a service called `podium`
/// (`PODIUM_SERVICE_HOST`, `PODIUM_PORT=tcp://...`) are not among them.
///
/// # Errors
/// [`ConfigError::Variable`] for a variable that is close to one of Podium's, or that has `KEY` in
/// its name; [`ConfigError::VariableValue`] for a value of [`CPU_INSTRUCTIONS_VARIABLE`] that means
/// nothing.
pub(super) fn unknown_variables<'a>(
    environment: &'a [(String, String)],
    keys: &[&str],
) -> Result<Vec<&'a str>, ConfigError> {
    let mut unknown = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
        if name == CPU_INSTRUCTIONS_VARIABLE && !CPU_INSTRUCTIONS.contains(&value.as_str()) {
            let (name, allowed) = (CPU_INSTRUCTIONS_VARIABLE, &CPU_INSTRUCTIONS);
            return Err(ConfigError::VariableValue { name, value: value.clone(), allowed });
        }
        let is_read = name.starts_with(ENVIRONMENT_PREFIX) || VARIABLES.contains(&name.as_str());
        if is_read || is_service_variable(rest, value) {
            continue;
        }
        if let Some(meant) = suggest_variable(rest, keys.iter().copied()) {
            return Err(ConfigError::Variable { name: name.clone(), meant });
        }
        unknown.push(name.as_str());
    }
    Ok(unknown)
}

/// Whether Kubernetes or a container link sets this variable for a service whose name begins with
/// `podium`.
fn is_service_variable(rest: &str, value: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    // PODIUM_PORT=tcp://10.0.0.1:8080 is a service's; PODIUM_PORT=8080 is a misspelt setting.
    (words.ends_with(&["PORT"]) && value.contains("://"))
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)))
}

#[cfg(test)]
mod tests {
    use super::super::values;
    use super::*;

    fn check(environment: &[(&str, &str)]) -> Result<Vec<String>, ConfigError> {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let defaults = values::defaults().unwrap();
        let keys: Vec<&str> = defaults.keys().map(String::as_str).collect();
        unknown_variables(&environment, &keys).map(|names| names.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_one_that_is_meant() {
        for (name, meant) in [
            ("PODIUM_API_KEY", "PODIUM_API_KEYS"),
            ("PODIUM_APIKEYS", "PODIUM_API_KEYS"),
            ("PODIUM_KEYS", "PODIUM_API_KEYS"),
            ("PODIUM_ADMIN_KEY", "PODIUM_API_KEYS"),
            ("PODIUM_CONFIGS", "PODIUM_CONFIG"),
            ("PODIUM_LISTEN", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_PORT", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_HOST", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_SERVER_PORT", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_SERVER__PORT", "PODIUM__SERVER__LISTEN"),
            ("PODIUM_MODEL", "PODIUM__MODEL__SOURCE"),
            ("PODIUM_MODEL_ID", "PODIUM__MODEL__SOURCE"),
            ("PODIUM_MODEL_SOURCE", "PODIUM__MODEL__SOURCE"),
            ("PODIUM_LOG_LEVEL", "PODIUM__TELEMETRY__LOG_LEVEL"),
            ("PODIUM_LIMITS_MAX_DOCUMENTS", "PODIUM__LIMITS__MAX_DOCUMENTS"),
            ("PODIUM_LIMITS__MAX_DOCUMENT", "PODIUM__LIMITS__MAX_DOCUMENTS"),
            ("PODIUM_AUTH_KEYS_FILE", "PODIUM__AUTH__KEYS_FILE"),
        ] {
            let refused = check(&[("HOME", "/"), (name, "9000")]).unwrap_err().to_string();
            assert_eq!(refused, format!("unknown environment variable {name}; did you mean {meant}?"));
        }
    }

    #[test]
    fn variables_of_podium_and_of_kubernetes_services_are_accepted() {
        let environment = [
            ("PODIUM_CONFIG", "podium.toml"),
            ("PODIUM_API_KEYS", "12345678"),
            ("PODIUM_CPU_INSTRUCTIONS", "avx2"),
            ("PODIUM__SERVER__LISTEN", "0.0.0.0:8080"),
            ("PODIUM__NO__SUCH", "1"),
            ("PODIUM_PORT", "tcp://10.0.0.7:8080"),
            ("PODIUM_MODEL_PORT", "tcp://10.0.0.7:8080"),
            ("PODIUM_SERVICE_HOST", "10.0.0.7"),
            ("PODIUM_SERVICE_PORT", "8080"),
            ("PODIUM_SERVICE_PORT_HTTP", "8080"),
            ("PODIUM_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("PODIUM_PORT_8080_TCP_ADDR", "10.0.0.7"),
            ("PODIUM_PORT_8080_TCP_PORT", "8080"),
            ("PODIUM_API_KEYS_SERVICE_PORT", "8080"),
            ("PODIUMS", "1"),
        ];
        assert_eq!(check(&environment).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_limit_on_instructions_that_means_nothing_is_refused_with_those_that_do() {
        let refused = check(&[("PODIUM_CPU_INSTRUCTIONS", "avx-2")]).unwrap_err().to_string();
        assert_eq!(refused, "PODIUM_CPU_INSTRUCTIONS must be one of all, avx2, neon, plain, not \"avx-2\"");
        let refused = check(&[("PODIUM_CPU_INSTRUCTION", "avx2")]).unwrap_err().to_string();
        assert!(refused.ends_with("did you mean PODIUM_CPU_INSTRUCTIONS?"), "{refused}");
    }

    #[test]
    fn other_variables_with_the_prefix_are_returned() {
        let names = ["PODIUM_BIN", "PODIUM_URL", "PODIUM_CHROMIUM", "PODIUM_SHOTS", "PODIUM_FLAGS", "PODIUM_JINA_V3"];
        assert_eq!(check(&names.map(|name| (name, "1"))).unwrap(), names);
    }
}
