//! Free ports of the loopback address.
//!
//! Chosen below the range that the kernel hands to outgoing connections, so that none of those takes a
//! port between the choice and its use, and never twice in one run.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// Linux hands out 32768 and up (`net.ipv4.ip_local_port_range`).
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;
/// Two runs side by side begin this far apart, by process id.
const STRIDE: u32 = 97;

static HANDED_OUT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that nobody listens on.
///
/// # Errors
/// When every port of the range is in use.
pub fn free_port() -> Result<u16> {
    let start = std::process::id().wrapping_mul(STRIDE) % COUNT;
    (0..COUNT)
        .map(|_| FIRST + (start + HANDED_OUT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("finding a free port on 127.0.0.1")
}
