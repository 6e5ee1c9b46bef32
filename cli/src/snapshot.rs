//! `berth snapshot`: what the extender's decisions depend on, into a file.

use std::fs;
use std::io::Write;

use anyhow::Context;

use crate::args::cluster::SnapshotArgs;
use crate::{Outcome, extender, say};

pub(crate) fn snapshot(args: &SnapshotArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let text = extender::get(&args.extender, "/snapshot")?;
    match &args.output {
        None => writeln!(out, "{text}")?,
        Some(path) => {
            fs::write(path, &text).with_context(|| format!("writing {}", path.display()))?;
            say(&format!("{}: {} bytes", path.display(), text.len()));
        }
    }
    Ok(Outcome::Done)
}
