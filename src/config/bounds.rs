//! Limits that never take effect, because another limit is always reached first.

use super::error::ConfigError;
use super::named::pattern;
use super::source::{Origin, Values};

/// A key, and the key whose value it must not exceed. A bound of 0 means "no limit".
///
/// - A document has at least one token, so documents are bounded by tokens.
/// - A request that waits as long as it may take in all misses its deadline first.
const BOUNDS: [(&str, &str); 11] = [
    ("server.max_body_bytes", "server.max_parsing_bytes"),
    ("limits.max_documents", "schedule.max_queued_tokens"),
    ("limits.max_passages", "schedule.max_queued_tokens"),
    ("passages.max_chunks_per_doc", "limits.max_passages"),
    ("limits.max_slate_documents", "limits.max_documents"),
    ("limits.max_slate_documents", "limits.max_slate_tokens"),
    ("limits.max_slate_tokens", "schedule.max_queued_tokens"),
    ("schedule.max_batch_tokens", "schedule.max_queued_tokens"),
    ("schedule.max_wait_seconds", "schedule.timeout_seconds"),
    ("schedule.stall_seconds", "schedule.hang_seconds"),
    ("model.prefix_cache_bytes", "models.max_memory_bytes"),
];

/// Refuses a limit above its bound, if the operator set it. A default above a lowered bound is
/// harmless.
pub(super) fn check_bounds(values: &Values) -> Result<(), ConfigError> {
    for (key, (value, origin)) in values {
        let (Some(value), false) = (value.as_integer(), *origin == Origin::Default) else { continue };
        let pattern = pattern(key);
        for (_, bound) in BOUNDS.iter().filter(|(limit, _)| *limit == pattern) {
            let Some((bound_value, bound_origin)) = values.get(*bound) else { continue };
            let bound_value = bound_value.as_integer().unwrap_or_default();
            if bound_value > 0 && value > bound_value {
                return Err(ConfigError::Ineffective {
                    key: key.clone(),
                    value,
                    origin: origin.clone(),
                    bound,
                    bound_value,
                    bound_origin: Box::new(bound_origin.clone()),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::super::values;
    use super::*;

    fn check(changes: &[(&str, i64)]) -> Result<(), String> {
        let mut values = values::defaults().unwrap();
        for (key, value) in changes {
            values.insert((*key).to_owned(), (Value::from(*value), Origin::Flag("--test")));
        }
        check_bounds(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn every_limit_and_every_bound_is_a_key_and_the_defaults_are_in_order() {
        let defaults = values::defaults().unwrap();
        for (limit, bound) in BOUNDS {
            let value = |key: &str| defaults[key].0.as_integer().unwrap();
            assert!(value(bound) == 0 || value(limit) <= value(bound), "{limit} > {bound}");
        }
    }

    #[test]
    fn a_limit_above_its_bound_is_refused_with_both_names_and_values() {
        for (limit, bound) in BOUNDS {
            let message = check(&[(limit, 101), (bound, 100)]).unwrap_err();
            assert_eq!(
                message,
                format!(
                    "`{limit}` = 101 (flag --test) never takes effect, because `{bound}` = 100 (flag --test) is lower; \
                     lower `{limit}` or raise `{bound}`"
                )
            );
        }
        let message = check(&[("schedule.max_wait_seconds", 300)]).unwrap_err();
        assert!(message.contains("`schedule.timeout_seconds` = 120 (default)"), "{message}");
        let message = check(&[("models.legal.prefix_cache_bytes", 9), ("models.max_memory_bytes", 8)]).unwrap_err();
        assert!(message.starts_with("`models.legal.prefix_cache_bytes` = 9"), "{message}");
    }

    #[test]
    fn a_limit_at_its_bound_a_default_above_a_lowered_bound_and_a_bound_of_zero_are_accepted() {
        assert_eq!(check(&[("limits.max_slate_documents", 5), ("limits.max_documents", 5)]), Ok(()));
        assert_eq!(check(&[("limits.max_documents", 5)]), Ok(()));
        assert_eq!(check(&[("schedule.max_wait_seconds", 300), ("schedule.timeout_seconds", 0)]), Ok(()));
    }
}
