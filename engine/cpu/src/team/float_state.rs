//! Denormal numbers are zero on a thread, for a while.
#![allow(
    unsafe_code,
    reason = "the control register of floating point is reached by assembly only"
)]

/// Denormals-are-zero and flush-to-zero of MXCSR.
#[cfg(target_arch = "x86_64")]
const FLUSH: u32 = (1 << 6) | (1 << 15);

/// As long as it lives, this thread takes denormal numbers for zero and makes none.
#[derive(Debug)]
pub(crate) struct Flushed {
    #[cfg(target_arch = "x86_64")]
    before: u32,
}

// === impl Flushed ===

impl Flushed {
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn here() -> Self {
        let before = read();
        write(before | FLUSH);
        Self { before }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn here() -> Self {
        Self {}
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        write(self.before);
    }
}

#[cfg(target_arch = "x86_64")]
fn read() -> u32 {
    let mut state = 0_u32;
    // SAFETY: stores the register's four bytes into `state`, which outlives the instruction.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut state, options(nostack, preserves_flags));
    }
    state
}

#[cfg(target_arch = "x86_64")]
fn write(state: u32) {
    // SAFETY: `state` is what the register held, with two defined bits set or not.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const state, options(nostack, preserves_flags));
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn half_of(x: f32) -> f32 {
        black_box(x) * black_box(0.5)
    }

    #[test]
    fn denormals_are_zero_while_it_lives_and_numbers_again_after() {
        let flushed = Flushed::here();
        assert_eq!(half_of(f32::MIN_POSITIVE).to_bits(), 0);
        assert_eq!(
            (black_box(f32::from_bits(1)) * black_box(2.0e30)).to_bits(),
            0
        );
        drop(flushed);
        assert!(half_of(f32::MIN_POSITIVE) > 0.0);
    }
}
