//! Waiting for what a story expects: a condition and a deadline, never a fixed sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a step may take that has no target of its own: enough for a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The target "within 3 s" on a loaded machine: ten times it.
pub const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` returns a value; its last error says what was there instead.
///
/// # Errors
/// When the deadline passes: what was awaited, for how long, and why the last look failed.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    let mut looked_before = false;
    loop {
        // A look that hangs (a server that was killed) must not outlive the deadline.
        let left = deadline.saturating_sub(began.elapsed()).max(LOOK_EVERY);
        let why = match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => {
                if looked_before {
                    println!("waited {} ms for {what}", began.elapsed().as_millis());
                }
                return Ok(value);
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "the last look did not end".to_owned(),
        };
        if began.elapsed() >= deadline {
            bail!(
                "waited {} s for {what}; last seen: {why}",
                deadline.as_secs()
            );
        }
        looked_before = true;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
