//! The command line of `berth-engine bench`.

use berth_engine_cpu::matrix::Form;
use berth_engine_model::cpu::Tier;
use clap::{ArgMatches, FromArgMatches, Subcommand};

use super::{ModelArgs, positive};

/// `berth-engine bench`: a model, or what is named.
#[derive(Debug)]
pub enum BenchCommand {
    /// With `--model`.
    Model(BenchArgs),
    /// With a name.
    What(BenchWhat),
}

/// What `berth-engine bench` measures without a model.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Measure each kernel as a fraction of the register peak and of the read bandwidth that are
    /// probed beside it, as JSON on stdout.
    Kernels(KernelArgs),
}

/// `berth-engine bench kernels`.
#[derive(Debug, clap::Args)]
pub struct KernelArgs {
    /// Slices of 0.2 s for each cell; those in which the cores together have less than 0.9 of what
    /// each has alone are dropped and counted.
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "N")]
    pub slices: usize,
    /// Forms of weights: bf16, int8, int4, int4-min. Default: all.
    #[arg(long, value_delimiter = ',', value_parser = ["bf16", "int8", "int4", "int4-min"])]
    pub form: Vec<String>,
    /// Numbers of rows: of 1, 4, 8, 16, 32, 64, 512. Default: all.
    #[arg(long, value_delimiter = ',', value_parser = positive, value_name = "N")]
    pub rows: Vec<usize>,
    /// Kernels to measure: avx512-bf16, avx512-vnni, avx512, avx2, portable. Default: the best.
    #[arg(long, value_parser = Tier::named, value_name = "TIER")]
    pub cpu_tier: Option<Tier>,
}

/// `berth-engine bench --model`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The model and how it is run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt tokens of each sequence.
    #[arg(long, default_value_t = 128, value_parser = positive, value_name = "N")]
    pub input_len: usize,
    /// Output tokens of each sequence.
    #[arg(long, default_value_t = 32, value_parser = positive, value_name = "N")]
    pub output_len: usize,
    /// Sequences that run at the same time.
    #[arg(long, default_value_t = 1, value_parser = positive, value_name = "N")]
    pub concurrency: usize,
}

// === impl BenchCommand ===

// Derived, a subcommand beside arguments that are required makes all of them optional.
impl clap::Args for BenchCommand {
    fn augment_args(command: clap::Command) -> clap::Command {
        BenchWhat::augment_subcommands(BenchArgs::augment_args(command))
            .subcommand_required(false)
            .arg_required_else_help(false)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BenchCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => BenchWhat::from_arg_matches(matches).map(Self::What),
            None => BenchArgs::from_arg_matches(matches).map(Self::Model),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

// === impl KernelArgs ===

impl KernelArgs {
    /// Whether `form` is asked for.
    #[must_use]
    pub fn measures(&self, form: Form) -> bool {
        self.form.is_empty() || self.form.iter().any(|name| name == form.name())
    }

    /// Whether `rows` are asked for.
    #[must_use]
    pub fn measures_rows(&self, rows: usize) -> bool {
        self.rows.is_empty() || self.rows.contains(&rows)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Args, Command};
    use super::*;

    #[test]
    fn a_bench_is_of_a_model_or_of_kernels() {
        let bench = |line: &str| match Args::parse_from(line.split_whitespace()).command {
            Command::Bench(bench) => *bench,
            Command::Serve(_) => panic!("bench was asked for"),
        };
        let BenchCommand::Model(model) = bench("berth-engine bench --model m --input-len 5") else {
            panic!("a model was asked for");
        };
        assert_eq!(model.input_len, 5);
        let of_kernels = bench("berth-engine bench kernels --form int8,bf16 --rows 1");
        let BenchCommand::What(BenchWhat::Kernels(kernels)) = of_kernels else {
            panic!("kernels were asked for");
        };
        assert!(kernels.measures(Form::Int8) && !kernels.measures(Form::Int4));
        assert!(kernels.measures_rows(1) && !kernels.measures_rows(4));
    }
}
