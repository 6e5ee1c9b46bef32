//! The binary `berth-extender`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use berth_extender::args::Args;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Free memory goes back to the system after that, not after the allocator's 1,000 ms: requests of 5 MB
/// come in bursts. At 5,000 nodes 149 to 165 MiB are left of 182 to 204. Much sooner (10 ms) starting
/// takes half as long again.
const PURGE_DELAY_MS: std::ffi::c_long = 50;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    give_memory_back_soon();
    let args = Args::parse();
    // The client logs every refused connection as an error; the watches say it once each.
    let default = || EnvFilter::new("info,kube_client=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // Both kube and the server ask for the process's provider; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match berth_extender::run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the allocator has no other way to set an option"
)]
fn give_memory_back_soon() {
    // SAFETY: the option exists in every version that the crate brings; any number is a delay.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}
