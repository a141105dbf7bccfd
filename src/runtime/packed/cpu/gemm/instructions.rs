//! Which instructions the kernels use: the best that the processor has, unless the environment
//! limits them.
//!
//! The variable [`CPU_INSTRUCTIONS_VARIABLE`] is the limit: `plain`, `avx2` (x86-64 without
//! AVX-512) or `neon` (ARM without `sdot` and `bfdot`). It is for tests and measurements of the
//! paths that other processors take. Any other value is no limit here; `config` rejects values that
//! mean nothing.

use std::sync::LazyLock;

use pulp::Arch;

use crate::runtime::CPU_INSTRUCTIONS_VARIABLE;

/// Sets of vector instructions, each with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Plain,
    /// AVX2 or NEON.
    Base,
    All,
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
    #[cfg(target_arch = "aarch64")]
    /// `bfdot` in vectors of 128 bits.
    NeonDot,
    #[cfg(target_arch = "aarch64")]
    /// Widened to f32 in registers, vectors of 128 bits.
    Neon,
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
    #[cfg(target_arch = "aarch64")]
    /// `sdot` in vectors of 128 bits.
    NeonDot,
    #[cfg(target_arch = "aarch64")]
    /// `smull` and `sadalp` in vectors of 128 bits.
    Neon,
    Portable,
}

/// The name of loops without vector instructions.
const PLAIN: &str = "plain";

static LEVEL: LazyLock<Level> = LazyLock::new(|| match std::env::var(CPU_INSTRUCTIONS_VARIABLE).as_deref() {
    Ok("plain") => Level::Plain,
    Ok("avx2" | "neon") => Level::Base,
    Ok(_) | Err(_) => Level::All,
});

static ARCH: LazyLock<Arch> = LazyLock::new(|| match (*LEVEL, Arch::new()) {
    #[cfg(target_arch = "x86_64")]
    (Level::Base, Arch::V4(_)) => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
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
    if level >= Level::All && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        Bf16Path::Avx512
    } else if level >= Level::Base && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Bf16Path::Avx2
    } else {
        Bf16Path::Portable
    }
}

#[cfg(target_arch = "x86_64")]
fn int8_path(level: Level) -> Int8Path {
    use std::arch::is_x86_feature_detected;
    let has_fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    if level >= Level::All && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
        Int8Path::Avx512
    } else if level >= Level::Base && has_fma && is_x86_feature_detected!("avxvnni") {
        Int8Path::AvxVnni
    } else if level >= Level::Base && has_fma {
        Int8Path::Avx2
    } else {
        Int8Path::Portable
    }
}

#[cfg(target_arch = "aarch64")]
fn bf16_path(level: Level) -> Bf16Path {
    match level {
        Level::Plain => Bf16Path::Portable,
        Level::All if std::arch::is_aarch64_feature_detected!("bf16") => Bf16Path::NeonDot,
        Level::Base | Level::All => Bf16Path::Neon,
    }
}

#[cfg(target_arch = "aarch64")]
fn int8_path(level: Level) -> Int8Path {
    match level {
        Level::Plain => Int8Path::Portable,
        Level::All if std::arch::is_aarch64_feature_detected!("dotprod") => Int8Path::NeonDot,
        Level::Base | Level::All => Int8Path::Neon,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn bf16_path(_: Level) -> Bf16Path {
    Bf16Path::Portable
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn int8_path(_: Level) -> Int8Path {
    Int8Path::Portable
}

/// Whether products of bf16 are faster than those of f32 on this processor.
pub(in crate::runtime::packed) fn multiplies_bf16() -> bool {
    match for_bf16() {
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx512 => true,
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx2 => false,
        #[cfg(target_arch = "aarch64")]
        Bf16Path::NeonDot => true,
        #[cfg(target_arch = "aarch64")]
        Bf16Path::Neon => false,
        Bf16Path::Portable => false,
    }
}

/// Whether products of 8-bit integers are several times as fast as those of f32 on this processor.
pub(in crate::runtime::packed) fn multiplies_i8() -> bool {
    match for_int8() {
        #[cfg(target_arch = "x86_64")]
        Int8Path::Avx512 => true,
        #[cfg(target_arch = "x86_64")]
        Int8Path::AvxVnni | Int8Path::Avx2 => false,
        #[cfg(target_arch = "aarch64")]
        Int8Path::NeonDot => true,
        #[cfg(target_arch = "aarch64")]
        Int8Path::Neon => false,
        Int8Path::Portable => false,
    }
}

/// The instructions for products of f32, as `podium check` names them.
pub(in crate::runtime::packed::cpu) fn f32_name() -> &'static str {
    match *ARCH {
        Arch::Scalar => PLAIN,
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "avx512f",
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(_) => "neon",
        _ => "avx2",
    }
}

/// The instructions for products of bf16, as `podium check` names them.
pub(in crate::runtime::packed::cpu) fn bf16_name() -> &'static str {
    match for_bf16() {
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx512 => "avx512bf16",
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx2 => "avx2",
        #[cfg(target_arch = "aarch64")]
        Bf16Path::NeonDot => "neon bfdot",
        #[cfg(target_arch = "aarch64")]
        Bf16Path::Neon => "neon",
        Bf16Path::Portable => PLAIN,
    }
}

/// The instructions for products of 8-bit integers, as `podium check` names them.
pub(in crate::runtime::packed::cpu) fn int8_name() -> &'static str {
    match for_int8() {
        #[cfg(target_arch = "x86_64")]
        Int8Path::Avx512 => "avx512vnni",
        #[cfg(target_arch = "x86_64")]
        Int8Path::AvxVnni => "avxvnni",
        #[cfg(target_arch = "x86_64")]
        Int8Path::Avx2 => "avx2",
        #[cfg(target_arch = "aarch64")]
        Int8Path::NeonDot => "neon sdot",
        #[cfg(target_arch = "aarch64")]
        Int8Path::Neon => "neon",
        Int8Path::Portable => PLAIN,
    }
}
