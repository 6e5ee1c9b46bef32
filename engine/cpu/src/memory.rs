//! Memory straight from the kernel, in huge pages where it has them.
#![allow(
    unsafe_code,
    reason = "mmap and madvise are system calls without a std wrapper"
)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// What x86 and most others call huge.
const HUGE_PAGE_BYTES: usize = 2 << 20;
const PAGE_BYTES: usize = 4096;
/// What small parts are cut from. Only what is touched takes memory.
const REGION_BYTES: usize = 64 << 20;

/// Zeroed bytes that take no memory until they are touched, then on the toucher's NUMA node.
#[derive(Debug)]
pub(crate) struct Memory {
    region: Arc<Region>,
    /// In the region. No two parts overlap.
    offset: usize,
    bytes: usize,
}

/// Cuts small parts from one region, so that they lie in huge pages together.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    region: Option<Arc<Region>>,
    used_bytes: usize,
}

/// A mapping.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping may be reached and unmapped from any thread.
unsafe impl Send for Region {}
// SAFETY: it is only reached through parts of it, which do not overlap.
unsafe impl Sync for Region {}

// === impl Pool ===

impl Pool {
    /// Starts at a multiple of 4 KiB.
    pub(crate) fn take(&mut self, bytes: usize) -> io::Result<Memory> {
        let taken = bytes.max(1).next_multiple_of(PAGE_BYTES);
        if taken > REGION_BYTES / 2 {
            return Memory::zeroed(bytes);
        }
        let region = match &self.region {
            Some(region) if self.used_bytes + taken <= region.bytes => Arc::clone(region),
            _ => {
                let region = Arc::new(Region::map(REGION_BYTES)?);
                self.used_bytes = 0;
                Arc::clone(self.region.insert(region))
            }
        };
        let offset = self.used_bytes;
        self.used_bytes += taken;
        Ok(Memory {
            region,
            offset,
            bytes,
        })
    }
}

// === impl Memory ===

impl Memory {
    /// A mapping of its own, which starts at a multiple of 2 MiB.
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Self> {
        Ok(Self {
            region: Arc::new(Region::map(bytes)?),
            offset: 0,
            bytes,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: a part of a mapping that lives as long as `self`; nobody else has this part, and
        // nobody writes while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.bytes) }
    }

    fn start(&self) -> *mut u8 {
        self.region.start.as_ptr().wrapping_add(self.offset)
    }
}

// === impl Region ===

impl Region {
    #[doc(alias = "mmap")]
    fn map(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let room = bytes + HUGE_PAGE_BYTES;
        let all = map(room)?;
        let before = all.align_offset(HUGE_PAGE_BYTES);
        unmap(all, before);
        unmap(all.wrapping_add(before + bytes), room - before - bytes);
        let start = NonNull::new(all.wrapping_add(before)).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: advice about the mapping made above; a kernel that cannot follow it says so,
        // and the pages stay small.
        unsafe {
            libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Ok(Self { start, bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        unmap(self.start.as_ptr(), self.bytes);
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
    fn parts_of_a_pool_lie_side_by_side_and_outlive_it() {
        let mut pool = Pool::default();
        let sizes = [1, 5000, 20 << 20, 30 << 20, 20 << 20, 40 << 20, 1];
        let mut parts: Vec<Memory> = sizes
            .iter()
            .map(|bytes| pool.take(*bytes).unwrap())
            .collect();
        drop(pool);
        for (index, part) in parts.iter_mut().enumerate() {
            assert_eq!(part.bytes().len(), sizes[index]);
            assert!(part.bytes().iter().all(|byte| *byte == 0));
            part.bytes_mut().fill(1);
        }
        let starts: Vec<usize> = parts[..3].iter().map(|part| part.start().addr()).collect();
        assert_eq!([starts[1] - starts[0], starts[2] - starts[1]], [4096, 8192]);
        assert!(
            parts
                .iter()
                .all(|part| part.start().addr() % PAGE_BYTES == 0)
        );
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(Memory::zeroed(1 << 60).is_err());
        assert!(Pool::default().take(1 << 60).is_err());
    }
}
