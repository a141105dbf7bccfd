//! Checks that a GPU can run the kernels of this build, by compute capability.

/// The oldest capability with bf16.
const OLDEST: (i32, i32) = (8, 0);

/// Rejects a GPU of compute capability `found` that cannot run kernels for `compiled_for`, named as
/// nvcc does: `80`, `sm_90a`. A name that cannot be parsed is accepted.
///
/// Kernels are machine code for one capability. Without a suffix it also runs on newer capabilities
/// with the same first digit. From 90 on, the crates with kernels add nvcc's suffix `a`: that
/// capability only; above 120 the suffix `f`: newer ones of its family too.
pub(super) fn check(compiled_for: Option<&str>, found: (i32, i32)) -> Result<(), String> {
    let name = |(major, minor): (i32, i32)| format!("{major}.{minor}");
    if found < OLDEST {
        let (found, oldest) = (name(found), name(OLDEST));
        return Err(format!("the GPU has compute capability {found}, and {oldest} or newer is needed"));
    }
    let Some((compiled, only)) = compiled_for.and_then(parse) else { return Ok(()) };
    let runs = if only { found == compiled } else { found.0 == compiled.0 && found.1 >= compiled.1 };
    if runs {
        return Ok(());
    }
    Err(format!(
        "the GPU has compute capability {}, and the kernels of this podium were compiled for {}: build it with \
         CUDA_COMPUTE_CAP={}{}",
        name(found),
        name(compiled),
        found.0,
        found.1
    ))
}

/// The capability that a name of nvcc's means, and whether code for it runs on no other.
fn parse(name: &str) -> Option<((i32, i32), bool)> {
    let name = name.trim().to_lowercase();
    let name = name.strip_prefix("sm_").unwrap_or(&name);
    let digits = name.trim_end_matches(['a', 'f']);
    let number: i32 = digits.parse().ok()?;
    let number = if number < 20 { number * 10 } else { number };
    let only = name.ends_with('a') || (digits == name && (90..=120).contains(&number));
    Some(((number / 10, number % 10), only))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(compiled_for: &str, found: (i32, i32)) -> bool {
        check(Some(compiled_for), found).is_ok()
    }

    #[test]
    fn plain_code_runs_on_what_is_newer_in_its_generation() {
        assert!(runs("80", (8, 0)) && runs("80", (8, 6)) && runs("80", (8, 9)) && runs("8", (8, 9)));
        assert!(!runs("89", (8, 0)) && !runs("86", (8, 0)));
        assert!(!runs("80", (9, 0)) && !runs("89", (12, 0)));
    }

    #[test]
    fn code_for_one_capability_runs_on_no_other() {
        for name in ["90", "90a", "sm_90a", " 90 "] {
            assert!(runs(name, (9, 0)) && !runs(name, (9, 1)) && !runs(name, (10, 0)), "{name}");
        }
        assert!(runs("100", (10, 0)) && !runs("100", (10, 3)));
        assert!(runs("120", (12, 0)) && !runs("120", (12, 1)) && runs("120f", (12, 1)));
        assert!(runs("121", (12, 1)) && !runs("121", (12, 0)));
    }

    #[test]
    fn a_refusal_names_both_and_what_helps() {
        let refused = check(Some("80"), (9, 0)).unwrap_err();
        assert_eq!(
            refused,
            "the GPU has compute capability 9.0, and the kernels of this podium were compiled for 8.0: build it with \
             CUDA_COMPUTE_CAP=90"
        );
    }

    #[test]
    fn a_gpu_without_bf16_is_refused_whatever_was_compiled() {
        for compiled_for in [None, Some("75"), Some("80")] {
            let refused = check(compiled_for, (7, 5)).unwrap_err();
            assert_eq!(refused, "the GPU has compute capability 7.5, and 8.0 or newer is needed");
        }
    }

    #[test]
    fn what_is_not_known_refuses_nothing() {
        assert!(check(None, (9, 0)).is_ok());
        assert!(runs("native", (9, 0)) && runs("", (9, 0)));
    }
}
