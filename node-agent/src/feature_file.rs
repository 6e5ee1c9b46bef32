//! A feature file for Node Feature Discovery's `local` source: what Berth's labels say, for clusters
//! that let nobody but NFD label nodes.
//!
//! NFD makes `feature.node.kubernetes.io/berth-gpu-count` of `berth-gpu-count=8`: names of its own, so
//! that no label has two writers. It reads the folder once a minute and leaves out hidden files
//! (node-feature-discovery:source/local/local.go), which is how a file is written here.

use std::fs;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use berth_topology::labels;
use berth_topology::names::PREFIX;
use berth_topology::node::Status;
use tokio::sync::watch;

use crate::mirror;

/// Writes the file whenever it would say something else, until nobody tells what is published.
pub async fn keep(path: PathBuf, published: watch::Receiver<Option<Arc<Status>>>) {
    let name = format!("feature file {}", path.display());
    let write = |text: String| ready(replace(&path, &text).context("it cannot be written"));
    mirror::keep(name, published, text, write).await;
}

/// `NAME=VALUE` lines; values are labels' values already.
fn text(status: &Status) -> String {
    let mut text = "# written by berth-node-agent: what its labels say\n".to_owned();
    for (name, value) in labels::of_status(status) {
        let name = name.strip_prefix(PREFIX).unwrap_or(&name);
        text.push_str(&format!("berth-{name}={value}\n"));
    }
    text
}

/// Whole or not at all: a reader sees the old file or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("the path names no file"))?;
    let hidden = path.with_file_name(format!(".{name}.new"));
    fs::write(&hidden, text)?;
    fs::rename(&hidden, path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixtures::recorded;

    #[test]
    fn each_label_is_a_line_that_nfd_reads() {
        let text = text(&recorded("dgx-h100"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "berth-gpu-count=8",
                "berth-gpu-memory-gib=79",
                "berth-gpu-model=NVIDIA-H100-80GB-HBM3",
                "berth-numa-nodes=2",
                "berth-nvlink-island=8",
            ]
        );
    }

    #[test]
    fn hostile_names_are_no_lines_of_their_own() {
        let mut status = recorded("dgx-h100");
        for gpu in &mut status.gpus {
            gpu.model = "a\nother=1\r\n# +expiry-time=2000".to_owned();
        }
        let text = text(&status);
        let is_ours = |line: &str| line.starts_with("# written") || line.starts_with("berth-");
        assert!(text.lines().all(is_ours), "{text}");
    }

    #[tokio::test]
    async fn the_file_is_replaced_when_it_would_say_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("berth");
        let (sender, published) = watch::channel(None);
        let keeping = tokio::spawn(keep(path.clone(), published));
        let mut machine = recorded("dgx-h100");
        for count in [8, 7] {
            machine.gpus.truncate(count);
            sender.send_replace(Some(Arc::new(machine.clone())));
            let line = format!("berth-gpu-count={count}\n");
            let written = async {
                while !fs::read_to_string(&path).is_ok_and(|text| text.contains(&line)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), written)
                .await
                .unwrap();
        }
        drop(sender);
        keeping.await.unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
