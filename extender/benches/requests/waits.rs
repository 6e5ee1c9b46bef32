//! How long threads ran, and how long they stood in line for a core: what a busy machine does to a request.

use std::fs;
use std::time::Duration;

/// How long every thread of a process has stood in line for a core (`schedstat`, second field).
pub(crate) fn waited(pid: u32) -> Duration {
    of_threads(pid, 1)
}

/// How long they have run (first field).
pub(crate) fn ran(pid: u32) -> Duration {
    of_threads(pid, 0)
}

fn of_threads(pid: u32, field: usize) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().nth(field)?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(|thread| of_thread(thread.path())).sum())
}

/// How long this thread has.
pub(crate) fn waited_here() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .nth(1)
        .and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}
