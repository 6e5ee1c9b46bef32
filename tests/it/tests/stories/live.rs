//! What happens to a GPU is in the extender's view at once, and so is its end; at rest nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use berth_it::agent::Agent;
use berth_it::cluster::{Cluster, topologies};
use berth_it::http1;
use berth_it::pair::Pair;
use berth_it::story::story;
use berth_it::wait::{PATIENCE, SOON, eventually};
use berth_test_machine::raw as recorded;
use berth_topology::gpu::{Gpu, HealthState};
use berth_topology::node::Status;
use berth_topology::raw::{Answer, RawGpu, RawMachine};
use serde_json::json;

const NODE: &str = "dgx";
const MACHINE: &str = "dgx-h100";
const RUNS: usize = 10;
/// An uncontained memory error: not usable until it was reset.
const FATAL_XID: u32 = 95;
/// `NVML_GPU_RECOVERY_ACTION_GPU_RESET`.
const RESET: u32 = 1;
/// How long the agent is watched at rest; longer where a person wants to know better.
const REST_SECONDS: &str = "BERTH_REST_SECONDS";
/// Between two looks at the extender. The figures are as fine as that.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A node with its agent, and who schedules.
struct Live {
    cluster: Cluster,
    agent: Agent,
    pair: Pair,
}

#[test]
fn an_xid_is_in_the_extenders_view_at_once_and_so_is_the_recovery() -> Result<()> {
    story(async |stage| {
        let live = Live::start(stage).await?;
        let (mut failed_ms, mut recovered_ms) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let gpu = run % 8;
            let before = live.hash().await?;
            let began = Instant::now();
            live.agent.nvml_tells(&format!("{gpu} xid {FATAL_XID}"))?;
            live.extender_sees_another(&before).await?;
            failed_ms.push(began.elapsed().as_millis());
            live.gpu_becomes(gpu, HealthState::Failed).await?;

            // the driver asks for a reset, and gets it
            live.machine_becomes(gpu, |raw| raw.recovery_action = Answer::Value(RESET))?;
            live.recovery_action_becomes(gpu, Some("reset")).await?;
            let before = live.hash().await?;
            let began = Instant::now();
            live.machine_becomes(gpu, |raw| raw.recovery_action = Answer::Value(0))?;
            live.extender_sees_another(&before).await?;
            recovered_ms.push(began.elapsed().as_millis());
            live.gpu_becomes(gpu, HealthState::Healthy).await?;
        }
        let figures = json!({"story": "live", "xid_to_extender_ms": failed_ms,
            "recovery_to_extender_ms": recovered_ms, "look_every_ms": LOOK_EVERY.as_millis()});
        println!("{figures}");
        Ok(())
    })
}

#[test]
fn a_lost_lane_lowers_the_link_and_a_lost_gpu_stays_listed_and_is_listened_to_again() -> Result<()>
{
    story(async |stage| {
        let live = Live::start(stage).await?;
        live.machine_becomes(2, |raw| raw.nvlinks[3].active = Answer::Value(false))?;
        live.gpu_becomes(2, HealthState::Degraded).await?;
        let status = live.status().await?;
        let lanes = |a: usize, b: usize| {
            let link = status.link(&status.gpus[a].uuid, &status.gpus[b].uuid);
            link.and_then(|link| link.nvlink.as_ref())
                .map(|nvlink| (nvlink.lanes, nvlink.lanes_expected))
        };
        ensure!(lanes(0, 2) == Some((17, 18)), "0-2 has {:?}", lanes(0, 2));
        ensure!(lanes(0, 1) == Some((18, 18)), "0-1 has {:?}", lanes(0, 1));

        let listened = live.agent.times_said("listening to NVML")?;
        let mut machine = recorded(MACHINE);
        lose(&mut machine, 5)?;
        live.agent.nvml_becomes(&machine)?;
        live.agent.nvml_tells("lost")?;
        live.gpu_becomes(5, HealthState::Failed).await?;
        live.agent.nvml_becomes(&recorded(MACHINE))?;
        live.agent.nvml_tells("0 dbe")?;
        live.agent
            .wait_until_said("listening to NVML", listened + 1)
            .await?;
        live.machine_becomes(0, |_| {})?;
        live.gpu_becomes(5, HealthState::Healthy).await?;
        eventually("an XID of the GPU that came back", PATIENCE, async || {
            live.agent.nvml_tells(&format!("5 xid {FATAL_XID}"))?;
            ensure!(
                live.gpu(5).await?.health.state == HealthState::Failed,
                "not yet"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn an_applications_fault_changes_nothing_and_at_rest_nothing_is_written() -> Result<()> {
    story(async |stage| {
        let live = Live::start(stage).await?;
        let version = live.version().await?;
        live.agent.nvml_tells("3 xid 31")?;
        live.agent.wait_until_said("XID 31", 0).await?;
        let pid = live.agent.pid().context("the agent is not running")?;
        let (cpu_before, began) = (cpu_ticks(pid)?, Instant::now());
        tokio::time::sleep(rest()?).await;
        let cpu_seconds = (cpu_ticks(pid)? - cpu_before) / 100.0;
        let figures = json!({"story": "rest", "seconds": began.elapsed().as_secs_f64(),
            "cpu_percent": 100.0 * cpu_seconds / began.elapsed().as_secs_f64(),
            "rss_kb": status_kb(pid, "VmRSS:")?, "rss_anonymous_kb": status_kb(pid, "RssAnon:")?,
            "rss_of_files_kb": status_kb(pid, "RssFile:")?});
        println!("{figures}");
        ensure!(
            live.version().await? == version,
            "its NodeTopology was written at rest"
        );
        Ok(())
    })
}

// === impl Live ===

impl Live {
    async fn start(stage: &berth_it::story::Stage) -> Result<Self> {
        let cluster = Cluster::start(stage).await?;
        let agent = Agent::start(&cluster, NODE, &recorded(MACHINE)).await?;
        let pair = Pair::start(&cluster, "pair", &[]).await?;
        pair.wait_until_alive().await?;
        agent.wait_until_said("listening to NVML", 0).await?;
        let live = Self {
            cluster,
            agent,
            pair,
        };
        let hash = live.hash().await?;
        eventually("the extender to know the node", PATIENCE, async || {
            ensure!(live.extender_knows(&hash).await?, "it does not");
            Ok(())
        })
        .await?;
        Ok(live)
    }

    /// Changes one GPU of the machine that was recorded, and has NVML tell that something happened.
    fn machine_becomes(&self, gpu: usize, change: impl FnOnce(&mut RawGpu)) -> Result<()> {
        let mut machine = recorded(MACHINE);
        change(raw_gpu(&mut machine, gpu)?);
        self.agent.nvml_becomes(&machine)?;
        self.agent.nvml_tells(&format!("{gpu} recovery"))
    }

    async fn extender_knows(&self, hash: &str) -> Result<bool> {
        let snapshot = http1::get(self.pair.extender_port, "/snapshot").await?;
        ensure!(snapshot.status == 200, "/snapshot: {}", snapshot.status);
        Ok(snapshot.body.contains(hash))
    }

    async fn extender_sees_another(&self, hash: &str) -> Result<()> {
        let began = Instant::now();
        while self.extender_knows(hash).await? {
            ensure!(began.elapsed() < SOON, "the extender still sees {hash}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn gpu_becomes(&self, index: usize, state: HealthState) -> Result<()> {
        eventually(
            &format!("GPU {index} to be {state:?}"),
            PATIENCE,
            async || {
                let health = self.gpu(index).await?.health;
                ensure!(health.state == state, "{health:?}");
                Ok(())
            },
        )
        .await
    }

    async fn recovery_action_becomes(&self, index: usize, action: Option<&str>) -> Result<()> {
        eventually("another recovery action", PATIENCE, async || {
            let health = self.gpu(index).await?.health;
            ensure!(health.recovery_action.as_deref() == action, "{health:?}");
            Ok(())
        })
        .await
    }

    async fn gpu(&self, index: usize) -> Result<Gpu> {
        let gpus = self.status().await?.gpus;
        gpus.into_iter().nth(index).context("it is not listed")
    }

    async fn status(&self) -> Result<Status> {
        let object = topologies(self.cluster.admin()).get(NODE).await?;
        Ok(serde_json::from_value(object.data["status"].clone())?)
    }

    async fn hash(&self) -> Result<String> {
        Ok(self.status().await?.hash)
    }

    async fn version(&self) -> Result<Option<String>> {
        let object = topologies(self.cluster.admin()).get(NODE).await?;
        Ok(object.metadata.resource_version)
    }
}

fn raw_gpu(machine: &mut RawMachine, index: usize) -> Result<&mut RawGpu> {
    let Answer::Value(nvml) = &mut machine.nvml else {
        anyhow::bail!("the machine has no NVML");
    };
    match nvml.gpus.get_mut(index) {
        Some(Answer::Value(gpu)) => Ok(gpu),
        other => anyhow::bail!("GPU {index} is {other:?}"),
    }
}

/// As NVML tells it of a GPU that fell off the bus.
fn lose(machine: &mut RawMachine, index: usize) -> Result<()> {
    let Answer::Value(nvml) = &mut machine.nvml else {
        anyhow::bail!("the machine has no NVML");
    };
    nvml.gpus[index] = Answer::failed("NVML_ERROR_GPU_IS_LOST");
    Ok(())
}

fn rest() -> Result<Duration> {
    let seconds = std::env::var(REST_SECONDS).unwrap_or_else(|_| "3".to_owned());
    let seconds = seconds.parse().context("reading BERTH_REST_SECONDS")?;
    Ok(Duration::from_secs(seconds))
}

/// User and system time, in hundredths of a second (`USER_HZ`): fields 14 and 15 of proc_pid_stat(5).
fn cpu_ticks(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(')').context("reading /proc/PID/stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let tick = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<f64>().ok())
    };
    Ok(tick(14).context("no user time")? + tick(15).context("no system time")?)
}

/// A line of proc_pid_status(5).
fn status_kb(pid: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}
