//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use berth_topology::claim::{GpuClaim, LinkPolicy, NicPolicy, NumaPolicy};
use berth_topology::link::LinkClass;
use berth_topology::quantity;
use clap::{Parser, Subcommand};

pub mod cluster;
pub mod doctor;

use cluster::{ExplainCommand, PlanCommand, SimulateArgs, SnapshotArgs};
use doctor::DoctorArgs;

/// Which GPUs work as one: looks at machines, places ranks on them, runs the loop.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    after_help = "\
Examples:
  berth machine show dgx1-v100                     how its GPUs are wired
  berth place --machine dgx1-v100 --gpus 4         the best four, and why
  berth place --machine dgx1-v100 --gpus 4 --taken 0,5 --link nvlink --link-policy require
  berth explain pod default/llama-0 --why-not node-7
  berth simulate quads.txt                         a script of machines, pods and failures
  berth doctor --node gpu-7                        what is wrong with a node, and what to do
  berth up --model SmolLM2-135M-Instruct.Q4_1.gguf the loop on this machine

Exit codes: 0 yes, 1 error, 2 wrong usage, 3 refused (doctor: found problems). JSON on stdout, sentences on stderr."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at machines: recorded ones, a file, or this one.
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Choose GPUs (or CPU ranks) on one machine, as the extender does for a pod.
    Place(PlaceArgs),
    /// Why a cluster's pod is where it is, or nowhere.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Write down everything that a running extender's decisions depend on.
    Snapshot(SnapshotArgs),
    /// Play a script of machines, pods and failures through the extender's decisions.
    Simulate(SimulateArgs),
    /// What could be done about a cluster; does nothing itself.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// What is wrong with this machine, a node or a recorded one; what was read, and what to do.
    Doctor(DoctorArgs),
    /// Run the loop on this machine: probe, place, pin, serve, ask.
    Up(UpArgs),
}

/// `berth machine`.
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List the recorded machines.
    List(ListArgs),
    /// Draw one machine's wiring as `nvidia-smi topo -m` does.
    Show(ShowArgs),
}

/// `berth machine list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `berth machine show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth machine show l40s-4
  berth machine show - --json            this machine, as its agent sees it
  kubectl get ntopo NODE -o json > node.json && berth machine show node.json")]
pub struct ShowArgs {
    /// A recorded machine (see `berth machine list`), a file with a NodeTopology as JSON, or - for
    /// this machine.
    #[arg(value_name = "NAME|FILE|-")]
    pub machine: String,
    /// The NodeTopology as JSON.
    #[arg(long)]
    pub json: bool,
    /// The agent that reads this machine.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `berth place`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth place --machine dgx1-v100 --gpus 4
  berth place --machine dgx1-v100 --gpus 4 --taken 0,1,2,3
  berth place --machine a100-pcie-02 --gpus 4 --tensor-parallel-size 2    two groups of two
  berth place --machine l40s-4 --gpus 2 --link nvlink --link-policy require; echo $?
  berth place --machine - --gpus 0 --tensor-parallel-size 2               two CPU ranks here

Prints {\"feasible\":true,\"ranks\":[…],…} or {\"feasible\":false,\"reason\":{…}} with --json.")]
pub struct PlaceArgs {
    /// A recorded machine (see `berth machine list`), a file with a NodeTopology as JSON, or - for
    /// this machine.
    #[arg(long, value_name = "NAME|FILE|-")]
    pub machine: String,
    /// GPUs of the container; 0 places CPU ranks (with --tensor-parallel-size).
    #[arg(long, value_name = "N")]
    pub gpus: usize,
    /// GPUs that are not free, by index or UUID, separated by commas.
    #[arg(long, value_name = "GPUS", value_delimiter = ',')]
    pub taken: Vec<String>,
    /// Ranks of one group: N GPUs are N/K groups. Default: one group of all.
    #[arg(long, value_name = "K")]
    pub tensor_parallel_size: Option<usize>,
    /// Least link between the GPUs of a group: nvlink, switch (PIX, PXB), numa or any.
    #[arg(long, value_name = "LINK", default_value = "any", value_parser = link)]
    pub link: LinkClass,
    /// Whether a set with a lesser link is taken (prefer) or refused (require).
    #[arg(long, value_name = "POLICY", default_value = "prefer", value_parser = link_policy)]
    pub link_policy: LinkPolicy,
    /// Whether a group must be of one NUMA node: single, prefer or any.
    #[arg(long, value_name = "POLICY", default_value = "prefer", value_parser = numa_policy)]
    pub numa: NumaPolicy,
    /// Whether GPUs near an RDMA card are better: near or any.
    #[arg(long, value_name = "POLICY", default_value = "any", value_parser = nic_policy)]
    pub nic: NicPolicy,
    /// Model that each GPU must be, such as h100.
    #[arg(long, value_name = "MODEL")]
    pub gpu_model: Option<String>,
    /// Least memory of each GPU, such as 40Gi.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub gpu_memory: Option<u64>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// The agent that reads this machine.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `berth up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth up --model SmolLM2-135M-Instruct.Q4_1.gguf
  berth up --model ./Llama-3.2-1B-Instruct --tensor-parallel-size 2 --port 8080
  berth up --model SmolLM2-135M-Instruct.Q4_1.gguf --once --prompt 'Why is the sky blue?'

Ctrl-C or SIGTERM ends the engine too.")]
pub struct UpArgs {
    /// A GGUF file, or a Hugging Face folder with config.json and *.safetensors.
    #[arg(long, value_name = "PATH", env = "BERTH_MODEL")]
    pub model: PathBuf,
    /// Another machine to place on, as for `berth place`; the engine runs here all the same.
    #[arg(long, value_name = "NAME|FILE|-", default_value = "-")]
    pub machine: String,
    /// Ranks that share the model. Default: two GPUs where there are two, else one; without
    /// GPUs one for each NUMA node that has CPUs.
    #[arg(long, value_name = "K")]
    pub tensor_parallel_size: Option<usize>,
    /// Address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// End after the answer.
    #[arg(long)]
    pub once: bool,
    /// What to ask.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "What is a berth for a ship? Answer in one sentence."
    )]
    pub prompt: String,
    /// Tokens of the answer at most.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_tokens: usize,
    /// Seconds that the engine gets to load the model.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub startup_timeout: Duration,
    /// The engine [default: berth-engine beside this program, else in PATH].
    #[arg(long, value_name = "PATH", env = "BERTH_ENGINE")]
    pub engine: Option<PathBuf>,
    /// The agent that reads this machine.
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Which agent reads this machine.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// What reads this machine for `-` [default: berth-node-agent beside this program, else in
    /// PATH].
    #[arg(long = "agent", value_name = "PATH", env = "BERTH_AGENT")]
    pub path: Option<PathBuf>,
    /// Where the driver has its `/` on this machine, if not where the linker looks: NVML's library is
    /// looked for below it.
    #[arg(long, value_name = "DIR", env = "BERTH_DRIVER_ROOT")]
    pub driver_root: Option<PathBuf>,
}

// === impl AgentArgs ===

impl AgentArgs {
    /// The agent's flags for this machine.
    #[must_use]
    pub fn flags(&self) -> Vec<&OsStr> {
        let root = self.driver_root.as_deref();
        root.map_or_else(Vec::new, |root| {
            vec![OsStr::new("--driver-root"), root.as_os_str()]
        })
    }
}

// === impl PlaceArgs ===

impl PlaceArgs {
    /// What a pod with these wishes would claim.
    #[must_use]
    pub fn claim(&self) -> GpuClaim {
        GpuClaim {
            tensor_parallel_size: self.tensor_parallel_size,
            gpu_memory_bytes_min: self.gpu_memory,
            gpu_model: self.gpu_model.clone(),
            link: self.link,
            link_policy: self.link_policy,
            numa: self.numa,
            nic: self.nic,
            ..GpuClaim::of_count(self.gpus)
        }
    }
}

fn link(text: &str) -> Result<LinkClass, String> {
    LinkClass::from_text(text).ok_or_else(|| allowed("nvlink, switch, numa, any"))
}

fn link_policy(text: &str) -> Result<LinkPolicy, String> {
    LinkPolicy::from_text(text).ok_or_else(|| allowed("prefer, require"))
}

fn numa_policy(text: &str) -> Result<NumaPolicy, String> {
    NumaPolicy::from_text(text).ok_or_else(|| allowed("single, prefer, any"))
}

fn nic_policy(text: &str) -> Result<NicPolicy, String> {
    NicPolicy::from_text(text).ok_or_else(|| allowed("near, any"))
}

fn bytes(text: &str) -> Result<u64, String> {
    quantity::parse(text).ok_or_else(|| allowed("a quantity such as 40Gi"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| allowed("a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn allowed(values: &str) -> String {
    format!("allowed: {values}")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[track_caller]
    fn check_refused(line: &str, sentence: &str) {
        let error = Args::try_parse_from(line.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(sentence), "{error}");
    }

    #[test]
    fn wrong_usage_says_what_is_allowed() {
        check_refused("berth place --gpus 2", "--machine");
        check_refused(
            "berth place --machine x --gpus 2 --link pcie",
            "nvlink, switch, numa, any",
        );
        check_refused(
            "berth place --machine x --gpus 2 --numa one",
            "single, prefer, any",
        );
        check_refused("berth place --machine x --gpus -1", "-1");
        check_refused("berth place --machine x --gpus 1 --gpu-memory lots", "40Gi");
    }
}
