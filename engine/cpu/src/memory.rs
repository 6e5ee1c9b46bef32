//! Memory straight from the kernel, in huge pages where it has them.
#![allow(
    unsafe_code,
    reason = "mmap and madvise are system calls without a std wrapper"
)]

use std::io;
use std::ptr::{self, NonNull};

/// What x86 and most others call huge.
const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;

/// Zeroed bytes that take no memory until they are touched, then on the toucher's NUMA node.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    /// Of the mapping, from `start`.
    mapped_bytes: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached through its borrows only.
unsafe impl Send for Memory {}
// SAFETY: as above; shared borrows only read.
unsafe impl Sync for Memory {}

// === impl Memory ===

impl Memory {
    /// Starts at a multiple of 2 MiB.
    #[doc(alias = "mmap")]
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Self> {
        let mapped_bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let room = mapped_bytes + HUGE_PAGE_BYTES;
        let all = map(room)?;
        let before = all.align_offset(HUGE_PAGE_BYTES);
        let after = room - before - mapped_bytes;
        unmap(all, before);
        unmap(all.wrapping_add(before + mapped_bytes), after);
        let start = NonNull::new(all.wrapping_add(before)).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: advice about the mapping made above; a kernel that cannot follow it says so,
        // and the pages stay small.
        unsafe {
            libc::madvise(start.as_ptr().cast(), mapped_bytes, libc::MADV_HUGEPAGE);
        }
        Ok(Self {
            start,
            mapped_bytes,
            bytes,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and readable for as long as `self`; nobody writes while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped and writable for as long as `self`, which is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unmap(self.start.as_ptr(), self.mapped_bytes);
    }
}

fn map(bytes: usize) -> io::Result<*mut u8> {
    // SAFETY: a fresh private mapping wherever the kernel has room; no memory of ours is touched.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(start.cast())
}

fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: whole pages of a mapping of ours that nobody reaches any more.
        let status = unsafe { libc::munmap(start.cast(), bytes) };
        debug_assert_eq!(status, 0, "a part of our own mapping is unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_writable_to_its_end() {
        for bytes in [0, 1, 4096, 4097, (2 << 20) + 5] {
            let mut memory = Memory::zeroed(bytes).unwrap();
            assert_eq!(memory.bytes().len(), bytes);
            assert_eq!(memory.bytes().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
            assert!(memory.bytes().iter().all(|byte| *byte == 0));
            memory.bytes_mut().fill(7);
            assert!(memory.bytes().iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(Memory::zeroed(1 << 60).is_err());
    }
}
