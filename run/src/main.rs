//! The binary `berth-run`: parses, decides, becomes the command.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use berth_run::args::{Args, Output};
use berth_run::container::{self, Container};
use berth_run::plan::{self, Plan, Wish};
use berth_run::source::{self, Found};
use berth_run::{exec, install, ranks, report};
use berth_topology::places::Identity;
use clap::Parser;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    let args = Args::parse();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::say(&format!("{error:#}"));
            ExitCode::from(exec::OWN_ERROR)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    if let Some(folder) = &args.install {
        let path = install::install(Path::new("/proc/self/exe"), folder)?;
        report::say(&format!("installed {}", path.display()));
        return Ok(0);
    }
    let identity = Identity::read(|name| env::var(name).ok());
    let plan = match source::find(&identity, args.assignment.as_deref())? {
        Found::Nothing(reason) if args.require => anyhow::bail!("--require: {reason}"),
        Found::Nothing(reason) => Plan::unchanged(reason),
        Found::Ranks(origin, assigned) => decide(args, &origin, &assigned)?,
    };
    if args.dry_run {
        return report::show(&plan, args.output == Some(Output::Json)).map(|()| 0);
    }
    report::tell(&plan);
    if args.per_rank && !plan.ranks.is_empty() {
        return Ok(ranks::run(&plan.processes, &args.command, args.grace())?);
    }
    Ok(exec::exec(&plan.processes[0], &args.command))
}

fn decide(
    args: &Args,
    origin: &source::Origin,
    assigned: &berth_topology::assignment::ContainerAssignment,
) -> anyhow::Result<Plan> {
    let container = Container {
        machine: container::machine(),
        gpus: container::gpus::find(&args.device_root, assigned.gpus().next().is_some()),
        environment: container::environment(),
    };
    let wish = Wish {
        per_rank: args.per_rank,
        replace: args.replace,
        master_port: args.master_port,
    };
    match plan::plan(origin, assigned, &container, &wish) {
        // The kubelet gave others than were promised: their CPUs are not ours to pin to.
        Err(error @ plan::Error::NotHere { .. }) if !origin.is_truth() && !args.require => {
            Ok(Plan::unchanged(error.to_string()))
        }
        planned => Ok(planned?),
    }
}
