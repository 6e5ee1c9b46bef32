//! The command line. Names are vLLM's where vLLM has the flag.

use std::path::PathBuf;
use std::time::Duration;

use berth_engine_model::cpu::{Kernels, Tier};
use clap::{Parser, Subcommand, ValueEnum};

mod bench;

pub use bench::{BenchArgs, BenchCommand, BenchWhat, KernelArgs};

/// Serves a language model over the OpenAI API, each rank pinned to the CPUs and memory it was
/// given.
#[derive(Debug, Parser)]
#[command(
    name = "berth-engine",
    version,
    after_help = "\
Examples:
  berth-engine serve --model SmolLM2-135M-Instruct.Q4_1.gguf
  curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":32}'
  berth-engine bench --model SmolLM2-135M-Instruct.Q4_1.gguf

Exit codes: 0 ended as asked, 1 error, 2 wrong usage. RUST_LOG=debug shows more on stderr."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model until SIGTERM or Ctrl-C; then finish what is running, and end.
    ///
    /// Ranks come from BERTH_ALLOCATION (set by the device plugin), else from the assignment
    /// file, else the machine's CPUs are split among --tensor-parallel-size ranks.
    /// BERTH_CONTAINER, BERTH_POD_UID and BERTH_NODE tell which part of the file is ours.
    ///
    /// /health is 200 only while the step loop makes progress (503 until the model is loaded:
    /// give slow loads a startupProbe), /ready only while requests are taken.
    Serve(Box<ServeArgs>),
    /// Measure the throughput of a model file: prefill and decode, as JSON on stdout.
    Bench(Box<BenchCommand>),
}

/// `berth-engine serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The model and how it is run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names that requests may call the model by; the first is shown. Default: the file's name.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// Requests that may wait for their turn; more are answered 429.
    #[arg(long, default_value_t = 1024, value_parser = positive, value_name = "N")]
    pub max_waiting_requests: usize,
    /// Memory for request bodies and for prompts that wait or run; requests beyond it are answered
    /// 429.
    #[arg(long, default_value = "512Mi", value_parser = bytes, value_name = "BYTES")]
    pub max_request_memory: u64,
    /// Seconds that a client may take nothing of its stream before it is cut off, and that its
    /// request's body may take to arrive.
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pub slow_client_timeout: Duration,
    /// Show some metrics also under the names that older vLLM had for them, for older dashboards.
    #[arg(long)]
    pub legacy_metrics: bool,
    /// Seconds that running requests get to finish after SIGTERM.
    #[arg(long, default_value = "25", value_parser = seconds, value_name = "SECONDS")]
    pub shutdown_timeout: Duration,
    /// Seconds that one step may take before /health says 503. Once steps were measured, less will
    /// do: eight times what steps of its size took, but 1.5 s at least.
    #[arg(long, default_value = "300", value_parser = seconds, value_name = "SECONDS")]
    pub stall_timeout: Duration,
}

/// The model and how it is run.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A GGUF file, or a Hugging Face folder with config.json and *.safetensors.
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// What computes. `auto` is the CPU for now: there is no CUDA backend in this build.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Which implementation computes. `auto` is `cpu` where that has kernels for how the model is
    /// stored (F32, F16, BF16, Q8_0, Q4_0, Q4_1), else `reference`, which is correct rather than
    /// fast.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Whose instructions the CPU backend uses: avx512-bf16, avx512-vnni, avx512, avx2 or
    /// portable. All give the same results. Default: the best that this CPU has.
    #[arg(long, value_parser = Tier::named, value_name = "TIER")]
    pub cpu_tier: Option<Tier>,
    /// Which of the CPU backend's kernels compute, as the log of another start says it, such as
    /// bf16=avx2,codes=avx2,chunk=262144,ahead=0. All give the same results. Default: measured
    /// at the start.
    #[arg(long, value_name = "KERNELS", conflicts_with = "cpu_tier")]
    pub cpu_kernels: Option<Kernels>,
    /// The pod's annotation berth.dev/assignment as a file [default: /etc/berth/assignment, if
    /// it is there].
    #[arg(long, value_name = "FILE")]
    pub assignment: Option<PathBuf>,
    /// Ranks that share the model; at most its number of KV heads. Default: as many as the
    /// assignment has, else 1.
    #[arg(long, value_parser = positive, value_name = "K")]
    pub tensor_parallel_size: Option<usize>,
    /// Longest prompt and output together, in tokens. Default: what the model was trained for,
    /// or less where the KV cache is too small for that.
    #[arg(long, value_parser = positive, value_name = "N")]
    pub max_model_len: Option<usize>,
    /// Sequences that run at the same time.
    #[arg(long, default_value_t = 256, value_parser = positive, value_name = "N")]
    pub max_num_seqs: usize,
    /// Tokens computed in one step, prompts and outputs together. Longer prompts are cut up.
    /// Default: 2048; 128 with the reference backend, which computes tokens one by one: more
    /// would only make others wait.
    #[arg(long, value_parser = positive, value_name = "N")]
    pub max_num_batched_tokens: Option<usize>,
    /// Milliseconds that a step may take while answers are being written: prompts are let in as
    /// far as that is kept. Default: 2.5 times what the step would take without them.
    #[arg(long, value_parser = milliseconds, value_name = "MS")]
    pub max_step_ms: Option<Duration>,
    /// Who goes first. `fcfs`: in order of arrival; `priority`: the lowest `priority` of requests,
    /// 30 seconds of waiting count as one; `deadline`: whose first token is due first
    /// (`first_token_ms` of requests); `fair`: the `user` who was served least.
    #[arg(long, value_enum, default_value_t = SchedulingPolicy::Fcfs)]
    pub scheduling_policy: SchedulingPolicy,
    /// Compute every prompt anew, also where it begins like an earlier one.
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
    /// Tokens in one block of the KV cache.
    #[arg(long, default_value_t = 32, value_parser = positive, value_name = "N")]
    pub block_size: usize,
    /// Memory for the KV cache over all ranks, such as 512Mi or 2Gi. Default: nine tenths of what
    /// the control group, the machine and the ranks' NUMA nodes have left, less the weights and
    /// 300 MB; never more than --max-num-seqs sequences of --max-model-len can use.
    #[arg(long, alias = "kv-cache-memory-bytes", value_parser = bytes, value_name = "BYTES")]
    pub kv_cache_memory: Option<u64>,
    /// Type that weights are held in. `auto`: as they are stored, F32 and F16 rounded to bfloat16;
    /// `float32`: the reference backend has that.
    #[arg(long, default_value = "auto", value_parser = ["auto", "float32", "float"])]
    pub dtype: String,
    /// How the weights are quantised. `int8`, `int4`: while they are loaded, in blocks of 32 with a
    /// scale, where they are stored in 16 or 32 bits; half or 0.28 of the memory of bfloat16. `gguf`
    /// is accepted for GGUF files: as the file has them.
    #[arg(long, value_enum, value_name = "METHOD")]
    pub quantization: Option<Quantization>,
    /// Where default sampling comes from: `auto` is the model's generation_config.json, `vllm` is
    /// vLLM's defaults. The tokens that end an answer are the model's either way.
    #[arg(long, value_enum, default_value_t = GenerationConfig::Auto, value_name = "SOURCE")]
    pub generation_config: GenerationConfig,
}

/// `--quantization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantization {
    /// 8 bits.
    Int8,
    /// 4 bits, embedding and output projection 8.
    Int4,
    /// As the GGUF file says.
    Gguf,
}

/// `--generation-config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GenerationConfig {
    /// The model's own file, where it has one.
    Auto,
    /// None.
    Vllm,
}

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best there is.
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The fastest that can run the model.
    Auto,
    /// Our own kernels on packed weights.
    Cpu,
    /// candle on the CPU in float32.
    Reference,
}

/// `--scheduling-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchedulingPolicy {
    /// First come, first served.
    Fcfs,
    /// By the requests' `priority`.
    Priority,
    /// By the requests' `first_token_ms`.
    Deadline,
    /// By what the requests' `user` was served.
    Fair,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds = positive(text)?;
    Ok(Duration::from_millis(milliseconds as u64))
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("not a number: {error}")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|error| format!("not a number: {error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn bytes(text: &str) -> Result<u64, String> {
    match berth_topology::quantity::parse(text) {
        Some(0) | None => Err("not a number of bytes such as 512Mi, 2Gi or 1000000000".to_owned()),
        Some(bytes) => Ok(bytes),
    }
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
    fn wrong_usage_says_what_is_wrong() {
        check_refused("berth-engine serve", "--model <PATH>");
        check_refused(
            "berth-engine serve --model m --max-num-seqs 0",
            "at least 1 is needed",
        );
        check_refused(
            "berth-engine serve --model m --device tpu",
            "auto, cpu, cuda",
        );
        check_refused(
            "berth-engine serve --model m --kv-cache-memory lots",
            "512Mi",
        );
        check_refused(
            "berth-engine serve --model m --shutdown-timeout=-1",
            "negative",
        );
        check_refused("berth-engine serve --model m --dtype bfloat16", "float32");
        check_refused(
            "berth-engine serve --model m --quantization awq",
            "int8, int4, gguf",
        );
        check_refused("berth-engine serve --model m --cpu-tier sse", "avx512-bf16");
        check_refused(
            "berth-engine serve --model m --cpu-kernels fast",
            "is not like bf16=",
        );
        check_refused("berth-engine bench --input-len 5", "--model <PATH>");
        check_refused("berth-engine bench kernels --cpu-tier mmx", "avx512-bf16");
    }

    #[test]
    fn vllm_spellings_are_read() {
        let line = "berth-engine serve --model m --tensor-parallel-size 2 --max-model-len 128 \
                    --served-model-name a b --kv-cache-memory-bytes 1Gi";
        let Command::Serve(serve) = Args::parse_from(line.split_whitespace()).command else {
            panic!("serve was asked for");
        };
        assert_eq!(serve.model.tensor_parallel_size, Some(2));
        assert_eq!(serve.model.kv_cache_memory, Some(1 << 30));
        assert_eq!(serve.served_model_name, ["a", "b"]);
    }
}
