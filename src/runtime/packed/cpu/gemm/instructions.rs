//! Which instructions the kernels use: the best that the processor has, unless the environment limits them.
//!
//! `PODIUM_CPU_INSTRUCTIONS` is the limit: `avx512` (none), `avx2` or `plain`. It is for tests and measurements of the
//! paths that other processors take. Any other value is no limit.

use std::sync::LazyLock;

use pulp::Arch;

/// Sets of vector instructions, each with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Plain,
    Avx2,
    Avx512,
}

/// The kernels for products of bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bf16Path {
    #[cfg(target_arch = "x86_64")]
    /// `vdpbf16ps` in vectors of 512 bits.
    Avx512,
    #[cfg(target_arch = "x86_64")]
    /// Widened to f32 in registers, vectors of 256 bits.
    Avx2,
    Portable,
}

/// The kernels for products of 8-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int8Path {
    #[cfg(target_arch = "x86_64")]
    /// `vpdpbusd` in vectors of 512 bits.
    Avx512,
    #[cfg(target_arch = "x86_64")]
    /// `vpdpbusd` in vectors of 256 bits.
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    /// `vpmaddubsw` in vectors of 256 bits.
    Avx2,
    Portable,
}

static LEVEL: LazyLock<Level> = LazyLock::new(|| match std::env::var("PODIUM_CPU_INSTRUCTIONS").as_deref() {
    Ok("plain") => Level::Plain,
    Ok("avx2") => Level::Avx2,
    Ok(_) | Err(_) => Level::Avx512,
});

static ARCH: LazyLock<Arch> = LazyLock::new(|| match (*LEVEL, Arch::new()) {
    #[cfg(target_arch = "x86_64")]
    (Level::Avx2, Arch::V4(_)) => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
    (Level::Plain, _) => Arch::Scalar,
    (_, best) => best,
});

static BF16: LazyLock<Bf16Path> = LazyLock::new(|| bf16_path(*LEVEL));

static INT8: LazyLock<Int8Path> = LazyLock::new(|| int8_path(*LEVEL));

/// The instructions for loops that the compiler vectorises.
#[inline]
pub(in crate::runtime::packed::cpu) fn arch() -> Arch {
    *ARCH
}

/// Whether [`arch`] has AVX-512.
#[cfg(target_arch = "x86_64")]
pub(in crate::runtime::packed::cpu) fn has_avx512() -> bool {
    matches!(*ARCH, Arch::V4(_))
}

pub(super) fn for_bf16() -> Bf16Path {
    *BF16
}

pub(super) fn for_int8() -> Int8Path {
    *INT8
}

#[cfg(target_arch = "x86_64")]
fn bf16_path(level: Level) -> Bf16Path {
    use std::arch::is_x86_feature_detected;
    if level >= Level::Avx512 && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        Bf16Path::Avx512
    } else if level >= Level::Avx2 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Bf16Path::Avx2
    } else {
        Bf16Path::Portable
    }
}

#[cfg(target_arch = "x86_64")]
fn int8_path(level: Level) -> Int8Path {
    use std::arch::is_x86_feature_detected;
    let has_fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    if level >= Level::Avx512 && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
        Int8Path::Avx512
    } else if level >= Level::Avx2 && has_fma && is_x86_feature_detected!("avxvnni") {
        Int8Path::AvxVnni
    } else if level >= Level::Avx2 && has_fma {
        Int8Path::Avx2
    } else {
        Int8Path::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_path(_: Level) -> Bf16Path {
    Bf16Path::Portable
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_path(_: Level) -> Int8Path {
    Int8Path::Portable
}

/// Whether this processor has instructions for products of bf16, in vectors of 512 bits.
pub(in crate::runtime::packed) fn multiplies_bf16() -> bool {
    match for_bf16() {
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx512 => true,
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx2 => false,
        Bf16Path::Portable => false,
    }
}

/// Whether this processor has instructions for products of 8-bit integers, in vectors of 512 bits.
pub(in crate::runtime::packed) fn multiplies_i8() -> bool {
    match for_int8() {
        #[cfg(target_arch = "x86_64")]
        Int8Path::Avx512 => true,
        #[cfg(target_arch = "x86_64")]
        Int8Path::AvxVnni | Int8Path::Avx2 => false,
        Int8Path::Portable => false,
    }
}
