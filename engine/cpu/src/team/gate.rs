//! A number that threads wait for to change: by spinning for a while, then asleep.
#![allow(unsafe_code, reason = "futex is a system call without a std wrapper")]

use std::hint;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Looks before a thread sleeps: some 50 to 200 µs, longer than the gaps within one step and
/// shorter than a scheduler's time slice.
const SPINS: u32 = 4_000;

/// Opened again and again; each opening adds one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Gate {
    opened: AtomicU32,
    sleepers: AtomicU32,
}

// === impl Gate ===

impl Gate {
    /// How often it was opened, modulo 2^32.
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Acquire)
    }

    /// Lets all through that wait for it.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
        // A thread counts itself before it looks again, so one of the two sees the other.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            wake_all(&self.opened);
        }
    }

    /// Returns once it was opened since [`Self::opened`] gave `seen`.
    pub(crate) fn wait_past(&self, seen: u32) {
        for _ in 0..SPINS {
            if self.opened() != seen {
                return;
            }
            hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.opened.load(Ordering::SeqCst) == seen {
            sleep_while(&self.opened, seen);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn sleepers(&self) -> u32 {
        self.sleepers.load(Ordering::SeqCst)
    }
}

/// May return early: the caller looks again.
fn sleep_while(word: &AtomicU32, value: u32) {
    // SAFETY: `word` outlives the call; the kernel only compares it; a null timeout is none.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            ptr::null::<libc::timespec>(),
        );
    }
}

fn wake_all(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a name only.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            libc::c_int::MAX,
        );
    }
}
