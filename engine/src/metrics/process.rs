//! This process, by the names of Prometheus's own clients: `process_*`.

use std::sync::atomic::AtomicU64;

use procfs::process::Process;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{FloatGauge, add, gauge};

/// Read from `/proc/self` at each scrape; they stay as they are where that cannot be read.
#[derive(Debug)]
pub(super) struct ProcessSeries {
    resident: Gauge,
    reserved: Gauge,
    open_fds: Gauge,
    started: FloatGauge,
    cpu: Counter<f64, AtomicU64>,
}

// === impl ProcessSeries ===

impl ProcessSeries {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            resident: gauge(r, "process_resident_memory_bytes", "Resident memory"),
            reserved: gauge(r, "process_virtual_memory_bytes", "Address space"),
            open_fds: gauge(r, "process_open_fds", "Open files and sockets"),
            started: gauge(r, "process_start_time_seconds", "Start, since 1970"),
            cpu: add(
                r,
                "process_cpu_seconds",
                "User and system time",
                Counter::default(),
            ),
        }
    }

    pub(super) fn read(&self) {
        // Without a `/proc` there is nothing to tell.
        let _ = self.try_read();
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds and ticks are far below 2^52"
    )]
    fn try_read(&self) -> Option<()> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks_per_second = procfs::ticks_per_second() as f64;
        self.resident
            .set(signed(stat.rss.saturating_mul(procfs::page_size())));
        self.reserved.set(signed(stat.vsize));
        self.open_fds.set(signed(process.fd_count().ok()? as u64));
        let cpu = (stat.utime + stat.stime) as f64 / ticks_per_second;
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        let booted = procfs::boot_time_secs().ok()? as f64;
        self.started
            .set(booted + stat.starttime as f64 / ticks_per_second);
        Some(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
