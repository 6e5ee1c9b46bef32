//! The system calls: affinity, memory policy, signals that are waited for, children that die with us.
//!
//! The only file here that may be unsafe: std has no call for any of these.
#![allow(
    unsafe_code,
    reason = "affinity, memory policy and signal masks are system calls without a std wrapper"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use berth_topology::cpus::CpuList;

/// Bits in one word of a kernel mask.
const WORD_BITS: usize = libc::c_ulong::BITS as usize;
/// `MPOL_PREFERRED_MANY` of linux/mempolicy.h, since Linux 5.15; libc does not name it.
const MPOL_PREFERRED_MANY: libc::c_int = 5;

/// What a launcher passes on.
pub(crate) const FORWARDED: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Signals that this process holds back, to be waited for.
pub(crate) struct Signals(libc::sigset_t);

/// Lets this thread, and what it starts or becomes, run on `cpus` only.
#[doc(alias = "sched_setaffinity")]
pub(crate) fn pin(cpus: &CpuList) -> io::Result<()> {
    let mask = mask_of(cpus);
    // SAFETY: `mask` outlives the call and the size is its size in bytes; pid 0 means this
    // thread; the kernel only reads it and ignores bits beyond its own limit.
    let status =
        unsafe { libc::sched_setaffinity(0, size_of_val(mask.as_slice()), mask.as_ptr().cast()) };
    done(status.into())
}

/// Makes pages that this thread, or what it starts or becomes, touches first come from `nodes` as
/// long as those have any; none is the kernel's default.
#[doc(alias = "set_mempolicy")]
pub(crate) fn prefer_memory_of(nodes: &CpuList) -> io::Result<()> {
    let mode = match nodes.len() {
        0 => libc::MPOL_DEFAULT,
        1 => libc::MPOL_PREFERRED,
        _ => MPOL_PREFERRED_MANY,
    };
    let mask = mask_of(nodes);
    // The kernel reads one bit less than it is told; for the default it wants none.
    let bits = if nodes.is_empty() {
        0
    } else {
        mask.len() * WORD_BITS + 1
    };
    // SAFETY: `mask` outlives the call and holds at least `bits - 1` bits; the kernel only reads.
    let status = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), bits) };
    done(status)
}

/// Makes a command's process a group of its own, that hears every signal and is killed if this
/// process dies first.
pub(crate) fn lead_and_die_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        hear_everything()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::other("the launcher has ended"))
        }
    };
    command.process_group(0);
    // SAFETY: between fork and exec only system calls are made: nothing allocates or locks.
    unsafe { command.pre_exec(prepare) };
}

fn hear_everything() -> io::Result<()> {
    let none = signal_set(&[]);
    // SAFETY: `none` is a signal set that outlives the call; no old one is asked for.
    let status =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    done(status.into())
}

fn done(status: libc::c_long) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn mask_of(bits: &CpuList) -> Vec<libc::c_ulong> {
    let mut mask = vec![0];
    for bit in bits.iter() {
        let (word, bit) = (bit as usize / WORD_BITS, bit as usize % WORD_BITS);
        if mask.len() <= word {
            mask.resize(word + 1, 0);
        }
        mask[word] |= 1 << bit;
    }
    mask
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set in whole; sigaddset changes a set that is filled, and the
    // numbers are signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

// === impl Signals ===

impl Signals {
    /// Holds back [`FORWARDED`] and `SIGCHLD`, in this thread and those it starts.
    pub(crate) fn hold() -> io::Result<Self> {
        let mut signals = FORWARDED.to_vec();
        signals.push(libc::SIGCHLD);
        let set = signal_set(&signals);
        // SAFETY: `set` is a signal set that outlives the call; no old one is asked for.
        let status =
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        done(status.into())?;
        Ok(Self(set))
    }

    /// The next signal to be forwarded; `None` once a child changed, the time passed, or for no
    /// reason.
    pub(crate) fn wait(&self, at_most: Duration) -> Option<libc::c_int> {
        let bounded = at_most.min(Duration::from_secs(3600));
        let time = libc::timespec {
            // As wide as the C library has it.
            tv_sec: bounded.as_secs().try_into().unwrap_or(3600),
            tv_nsec: bounded.subsec_nanos().into(),
        };
        // SAFETY: set and time outlive the call; no information about the sender is asked for.
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const time) };
        Some(signal).filter(|signal| FORWARDED.contains(signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_reach_beyond_one_word() {
        assert_eq!(mask_of(&"0,2,64".parse().unwrap()), [0b101, 1]);
        assert_eq!(mask_of(&CpuList::default()), [0]);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error() {
        assert!(pin(&"60000".parse().unwrap()).is_err());
    }
}
