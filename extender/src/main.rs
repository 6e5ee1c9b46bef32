//! The binary `berth-extender`.

use std::process::ExitCode;

use berth_extender::args::Args;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
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
