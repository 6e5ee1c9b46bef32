//! The system calls that pin a thread and its memory.
//!
//! The only file here that may be unsafe: std has no call for affinity or memory policy.
#![allow(
    unsafe_code,
    reason = "affinity and memory policy are system calls without a std wrapper"
)]

use std::io;

use berth_topology::cpus::CpuList;

/// Bits in one word of a kernel mask.
const WORD_BITS: usize = libc::c_ulong::BITS as usize;
/// Nodes that a policy is read back for; the kernel's own limit (`MAX_NUMNODES`) is 1,024.
const NODE_WORDS: usize = 1024 / WORD_BITS;

/// The kernel's id of this thread, as in `/proc/self/task`.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments, cannot fail and touches no memory of ours.
    unsafe { libc::gettid() }
}

/// Lets this thread, and those it starts later, run on `cpus` only.
#[doc(alias = "sched_setaffinity")]
pub(crate) fn pin_thread(cpus: &CpuList) -> io::Result<()> {
    let mask = mask_of(cpus.iter());
    // SAFETY: `mask` outlives the call and the size is its size in bytes; pid 0 means this
    // thread; the kernel only reads it and ignores bits beyond its own limit.
    let status =
        unsafe { libc::sched_setaffinity(0, size_of_val(mask.as_slice()), mask.as_ptr().cast()) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes pages that this thread, or one it starts later, touches first come from `node` as long
/// as that has any. (A strict binding would end in an out-of-memory kill instead.)
#[doc(alias = "set_mempolicy")]
pub(crate) fn prefer_memory_of(node: u32) -> io::Result<()> {
    let mask = mask_of(std::iter::once(node));
    // The kernel reads one bit less than it is told.
    let bits = mask.len() * WORD_BITS + 1;
    // SAFETY: `mask` outlives the call and holds at least `bits - 1` bits; the kernel only reads.
    let status = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            bits,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The node that this thread prefers for its memory, if it prefers one.
#[doc(alias = "get_mempolicy")]
pub(crate) fn preferred_memory() -> io::Result<Option<u32>> {
    let mut mode: libc::c_int = 0;
    let mut mask = [0 as libc::c_ulong; NODE_WORDS];
    // SAFETY: `mode` and `mask` outlive the call and may be written; `mask` holds as many bits as
    // the kernel is told; a null address with flags 0 asks for this thread's policy.
    let status = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            NODE_WORDS * WORD_BITS,
            std::ptr::null_mut::<libc::c_void>(),
            0,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((mode == libc::MPOL_PREFERRED)
        .then(|| first_bit(&mask))
        .flatten())
}

fn mask_of(bits: impl Iterator<Item = u32>) -> Vec<libc::c_ulong> {
    let mut mask = vec![0];
    for bit in bits {
        let (word, bit) = (bit as usize / WORD_BITS, bit as usize % WORD_BITS);
        if mask.len() <= word {
            mask.resize(word + 1, 0);
        }
        mask[word] |= 1 << bit;
    }
    mask
}

fn first_bit(mask: &[libc::c_ulong]) -> Option<u32> {
    let (word, bits) = mask.iter().enumerate().find(|(_, bits)| **bits != 0)?;
    u32::try_from(word * WORD_BITS)
        .ok()
        .map(|first| first + bits.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_reach_beyond_one_word() {
        assert_eq!(mask_of([0, 2, 64].into_iter()), [0b101, 1]);
        assert_eq!(first_bit(&mask_of([70].into_iter())), Some(70));
        assert_eq!(first_bit(&[0; 2]), None);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error() {
        let missing: CpuList = "60000".parse().unwrap();
        assert!(pin_thread(&missing).is_err());
    }
}
