//! The CPUs that a thread may use.
#![allow(
    unsafe_code,
    reason = "affinity is a system call without a std wrapper"
)]

use std::io;

/// Bits in one word of a kernel mask.
const WORD_BITS: usize = libc::c_ulong::BITS as usize;
/// CPUs that a mask can name; the kernel's own limit on x86 is 8,192.
const WORDS: usize = 8192 / WORD_BITS;

/// A set of CPUs, as the kernel numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus([libc::c_ulong; WORDS]);

// === impl Cpus ===

impl Cpus {
    /// Those of the calling thread.
    #[doc(alias = "sched_getaffinity")]
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let mut mask = [0; WORDS];
        // SAFETY: `mask` outlives the call and has the size in bytes that the kernel is told.
        let status =
            unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
        if status == 0 {
            Ok(Self(mask))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Only `cpu`.
    pub(crate) fn one(cpu: usize) -> Self {
        let mut mask = [0; WORDS];
        mask[cpu / WORD_BITS] = 1 << (cpu % WORD_BITS);
        Self(mask)
    }

    /// Ascending.
    pub(crate) fn list(&self) -> Vec<usize> {
        let is_set = |cpu: &usize| self.0[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1 == 1;
        (0..WORDS * WORD_BITS).filter(is_set).collect()
    }

    /// The calling thread, and those that it starts later, run on these only.
    #[doc(alias = "sched_setaffinity")]
    pub(crate) fn pin_this_thread(&self) -> io::Result<()> {
        // SAFETY: the mask outlives the call and has the size in bytes that the kernel is told,
        // which only reads it.
        let status =
            unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr().cast()) };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
