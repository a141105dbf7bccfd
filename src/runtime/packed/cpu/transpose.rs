//! Transposes squares of 32-bit units, in registers where the processor has AVX-512.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

#[cfg(target_arch = "x86_64")]
use super::gemm::instructions::has_avx512;

/// Rows and columns of a square.
pub(super) const SIDE: usize = 16;

/// Units, row by row.
pub(super) type Square = [[u32; SIDE]; SIDE];

/// Writes the columns of `square` as rows that start `distance` elements apart. `E` is an f32 or a
/// bf16, of which two are a unit.
///
/// # Panics
/// When `target` is too short.
pub(super) fn transpose<E: Copy>(square: &Square, target: &mut [E], distance: usize) {
    let of_unit = size_of::<u32>() / size_of::<E>();
    assert!(align_of::<E>() <= 4 && of_unit * size_of::<E>() == 4);
    assert!((SIDE - 1) * distance + SIDE * of_unit <= target.len());
    let target = target.as_mut_ptr();
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has AVX-512 and all rows are inside, as just checked; any bits are
        // an `E`.
        return unsafe { transpose_avx512(square, target.cast(), distance / of_unit) };
    }
    for row in 0..SIDE {
        for (column, units) in square.iter().enumerate() {
            // SAFETY: as above.
            unsafe { target.add(row * distance + column * of_unit).cast::<u32>().write_unaligned(units[row]) }
        }
    }
}

/// # Safety
/// The processor has AVX-512; 16 rows of 16 units, `distance` units apart, lie at `target`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_avx512(square: &Square, target: *mut u32, distance: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut rows = [_mm512_loadu_si512(square[0].as_ptr().cast()); SIDE];
        for (row, units) in rows.iter_mut().zip(square) {
            *row = _mm512_loadu_si512(units.as_ptr().cast());
        }
        // Quarters of 4 x 4 units within each group of four rows.
        let mut quarters = rows;
        for group in (0..SIDE).step_by(4) {
            let [a, b, c, d] = [rows[group], rows[group + 1], rows[group + 2], rows[group + 3]];
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            quarters[group] = _mm512_unpacklo_epi64(ab_low, cd_low);
            quarters[group + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
            quarters[group + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
            quarters[group + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
        }
        // Then the quarters themselves: quarter `q` of the columns `n`, `n + 4`, `n + 8`, `n + 12`.
        for n in 0..4 {
            let [a, b, c, d] = [quarters[n], quarters[n + 4], quarters[n + 8], quarters[n + 12]];
            let even = |a, b| _mm512_shuffle_i32x4::<0x88>(a, b);
            let odd = |a, b| _mm512_shuffle_i32x4::<0xdd>(a, b);
            let (ab_even, ab_odd, cd_even, cd_odd) = (even(a, b), odd(a, b), even(c, d), odd(c, d));
            let columns: [__m512i; 4] =
                [even(ab_even, cd_even), even(ab_odd, cd_odd), odd(ab_even, cd_even), odd(ab_odd, cd_odd)];
            for (quarter, column) in columns.into_iter().enumerate() {
                _mm512_storeu_si512(target.add((4 * quarter + n) * distance).cast(), column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rows_become_columns_and_nothing_between_is_written() {
        let mut square = [[0; SIDE]; SIDE];
        for (row, units) in square.iter_mut().enumerate() {
            for (column, unit) in units.iter_mut().enumerate() {
                *unit = ((100 * row + column) as f32).to_bits();
            }
        }
        let distance = 20;
        let mut target = vec![-1f32; SIDE * distance];
        transpose(&square, &mut target, distance);
        for (place, value) in target.into_iter().enumerate() {
            let (row, column) = (place / distance, place % distance);
            let expected = if column < SIDE { (100 * column + row) as f32 } else { -1. };
            assert!((value - expected).abs() < 0.5, "{row} {column}: {value}");
        }
        let mut pairs = vec![bf16::ONE; 2 * SIDE * SIDE];
        transpose(&square, &mut pairs, 2 * SIDE);
        for (place, [first, second]) in pairs.as_chunks::<2>().0.iter().enumerate() {
            let unit = u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16;
            assert_eq!(unit, square[place % SIDE][place / SIDE]);
        }
    }
}
