//! A matrix that the tasks of a product write to, each in rectangles of its own.

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix, borrowed for writing by several threads. Its rows are `distance` elements apart.
pub(super) struct SharedRows<'a, T> {
    first: *mut T,
    length: usize,
    distance: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts are handed out by an unsafe function only.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub fn new(values: &'a mut [T], distance: usize) -> Self {
        Self { first: values.as_mut_ptr(), length: values.len(), distance, of: PhantomData }
    }

    /// Some elements of a row.
    ///
    /// # Safety
    /// As long as the result lives, no other part overlaps it.
    ///
    /// # Panics
    /// When the row or the columns are outside.
    #[expect(clippy::mut_from_ref, reason = "threads share the matrix, and the caller gives each a part of its own")]
    #[inline]
    pub unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        let start = row * self.distance + columns.start;
        assert!(columns.start <= columns.end && columns.end <= self.distance && start + columns.len() <= self.length);
        // SAFETY: the part is inside the matrix, which is borrowed for writing; the rest is the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), columns.len()) }
    }
}
