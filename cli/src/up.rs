//! `berth up`: the loop on this machine. Probe, place, pin and serve, ask.

mod chat;
mod choose;
mod engine;
mod stop;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use berth_topology::matrix;
use tokio::runtime;

use crate::args::UpArgs;
use crate::paint::Paint;
use crate::show::{say_unknowns, summary};
use crate::source::{Seen, find};
use crate::{Outcome, Usage, place, say};
use chat::Client;
use engine::Engine;
use stop::Stop;

/// How often the engine is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// How often a wait is spoken of.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) fn up(args: &UpArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    check_model(&args.model)?;
    let address = engine::free_address(&args.host, args.port)?;
    let paint = Paint::for_stdout();

    writeln!(out, "{}", paint.bold("probe"))?;
    let seen = find(&args.machine, &args.agent)?;
    show(&seen, out)?;

    writeln!(out, "{}", paint.bold("place"))?;
    let choice = match choose::choose(&seen.status, args.tensor_parallel_size) {
        Ok(choice) => choice,
        Err(refusal) => return place::refuse(&refusal, false, out),
    };
    write!(out, "{}", place::explain(&choice, paint))?;
    if !choice.gpus.is_empty() {
        writeln!(
            out,
            "the engine has no CUDA backend yet: ranks run on the CPUs beside their GPUs"
        )?;
    }
    out.flush()?;

    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let folder = tempfile::Builder::new()
        .prefix("berth-up-")
        .tempdir()
        .context("making a folder")?;
    let assignment = choose::write_assignment(folder.path(), &seen.status, &choice)?;
    writeln!(out, "{}", paint.bold("serve"))?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let mut engine = Engine::start(args, address, &assignment)?;
        let result = tokio::select! {
            result = serve(args, &mut engine, out) => result,
            () = stop.wait() => Ok(()),
        };
        // Whatever happened, the engine must not outlive us.
        let stopped = engine.stop(&mut stop).await;
        result.and(stopped)
    })?;
    Ok(Outcome::Done)
}

fn check_model(model: &Path) -> anyhow::Result<()> {
    if !model.exists() {
        bail!(Usage(format!(
            "--model: there is nothing at {}",
            model.display()
        )));
    }
    Ok(())
}

fn show(seen: &Seen, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}: {}", seen.name, summary(&seen.status))?;
    if !seen.status.gpus.is_empty() {
        write!(out, "{}", matrix::draw(&seen.status))?;
    }
    out.flush()?;
    say_unknowns(&seen.status);
    Ok(())
}

/// Waits until the engine is ready, asks it once, and then stays with it.
async fn serve(args: &UpArgs, engine: &mut Engine, out: &mut dyn Write) -> anyhow::Result<()> {
    let client = Client::new(engine.address());
    wait_ready(args, engine, &client).await?;
    let model = client.model().await?;
    let answer = client.chat(&model, &args.prompt, args.max_tokens).await?;
    writeln!(out, "{}", Paint::for_stdout().bold("ask"))?;
    writeln!(out, "> {}\n{}", args.prompt, answer.text.trim())?;
    writeln!(out, "{}", answer.speed())?;
    writeln!(out, "\nAsk the next one:\n{}", client.curl(&model))?;
    out.flush()?;
    if args.once {
        return Ok(());
    }
    say(&format!(
        "serving on http://{} until Ctrl-C",
        engine.address()
    ));
    Err(engine.ended().await)
}

async fn wait_ready(args: &UpArgs, engine: &mut Engine, client: &Client) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut next_word = PROGRESS_INTERVAL;
    while !client.is_ready().await {
        if let Some(error) = engine.early_end()? {
            return Err(error);
        }
        if start.elapsed() > args.startup_timeout {
            let seconds = args.startup_timeout.as_secs_f64();
            bail!("the engine was not ready within {seconds} s; --startup-timeout gives it more");
        }
        if start.elapsed() > next_word {
            say(&format!(
                "loading {}: {} s",
                args.model.display(),
                start.elapsed().as_secs()
            ));
            next_word += PROGRESS_INTERVAL;
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
    say(&format!(
        "ready after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}
