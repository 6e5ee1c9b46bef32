//! One slice, of which each worker writes a part.
#![allow(
    unsafe_code,
    reason = "that parts are apart is known to the kernels, not to the compiler"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

/// A slice lent to all workers of a run.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: workers get parts that do not overlap (the promise of `part`), of things that may be
// written from any thread.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

// === impl Parts ===

impl<'a, T> Parts<'a, T> {
    pub(crate) fn of(whole: &'a mut [T]) -> Self {
        Self {
            start: whole.as_mut_ptr(),
            len: whole.len(),
            borrowed: PhantomData,
        }
    }

    /// # Safety
    /// As long as the part is used, no other part that overlaps it is, nor [`Self::seen`].
    #[expect(
        clippy::mut_from_ref,
        reason = "parts of one slice go to several workers; the caller keeps them apart"
    )]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of the slice"
        );
        // SAFETY: inside the slice, which is borrowed for `'a`; alone by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The whole, to read.
    ///
    /// # Safety
    /// As long as it is used, nobody writes a part: a barrier lies between.
    pub(crate) unsafe fn seen(&self) -> &[T] {
        // SAFETY: the slice is borrowed for `'a`; nobody writes by the caller's promise.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}
