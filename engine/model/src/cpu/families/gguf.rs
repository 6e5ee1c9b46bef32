//! The golden models as GGUF files: the same decoder is read, whatever the format.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::tiny::Gguf;

/// What is left is how the formats write down the factors of a stretched rope.
const TOLERANCE_FORMATS: f32 = 0.001;

/// What gguf-py calls the model's keys and tensors.
#[derive(Deserialize)]
pub(super) struct AsGguf {
    keys: BTreeMap<String, serde_json::Value>,
    /// By the names that folders have.
    names: BTreeMap<String, String>,
    /// Tensors that only GGUF has.
    extra: BTreeMap<String, Vec<f32>>,
}

// === impl AsGguf ===

impl AsGguf {
    /// Writes the file as llama.cpp's converters do.
    fn write(&self, golden: &Golden, folder: &Path) -> PathBuf {
        let mut gguf = Gguf::default();
        for (key, value) in &self.keys {
            match (value.as_str(), value.as_u64()) {
                (Some(text), _) => gguf.text(key, text),
                (None, Some(integer)) => gguf.integer(key, u32::try_from(integer).unwrap()),
                (None, None) => gguf.number(key, narrow(value.as_f64().unwrap())),
            }
        }
        // Several experts go into one tensor, in the order of their numbers.
        let mut joined = BTreeMap::<&str, (Vec<usize>, BTreeMap<usize, Vec<f32>>)>::new();
        for (name, shape) in &golden.tensors {
            let elements = self.converted(golden, name, shape);
            let entry = joined.entry(&self.names[name]);
            let (_, parts) = entry.or_insert_with(|| (shape.clone(), BTreeMap::new()));
            parts.insert(expert_number(name).unwrap_or(0), elements);
        }
        for (name, (shape, parts)) in joined {
            let elements = parts.values().flatten().copied().collect::<Vec<f32>>();
            let count = elements.len() / shape.iter().product::<usize>();
            let shape = if name.ends_with("_exps.weight") {
                [vec![count], shape].concat()
            } else {
                shape
            };
            gguf.tensor(name, &shape, &elements);
        }
        for (name, elements) in &self.extra {
            gguf.tensor(name, &[elements.len()], elements);
        }
        let path = folder.join("golden.gguf");
        fs::write(&path, gguf.finish()).unwrap();
        path
    }

    /// Norms of Gemma have their 1 added, query and key rows of Llama their pairs side by side.
    fn converted(&self, golden: &Golden, name: &str, shape: &[usize]) -> Vec<f32> {
        let mut elements = golden.elements(name, shape);
        let architecture = self.keys["general.architecture"].as_str().unwrap();
        if architecture.starts_with("gemma") && name.ends_with("norm.weight") {
            elements.iter_mut().for_each(|element| *element += 1.0);
        }
        let is_turned = name.contains("q_proj") || name.contains("k_proj");
        if architecture == "llama" && is_turned {
            let head_dim = &self.keys["llama.attention.key_length"];
            let head_dim = usize::try_from(head_dim.as_u64().unwrap()).unwrap();
            elements = pairs_together(&elements, head_dim, shape[1]);
        }
        elements
    }
}

/// Row `i` and row `i + head_dim / 2` of each head side by side.
fn pairs_together(elements: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let heads = elements.chunks_exact(head_dim * columns);
    let of_head = |head: &[f32]| {
        let row = |row: usize| head[row * columns..][..columns].to_vec();
        let rows = (0..head_dim).map(|to| row(to % 2 * (head_dim / 2) + to / 2));
        rows.flatten().collect::<Vec<f32>>()
    };
    heads.flat_map(of_head).collect()
}

fn expert_number(name: &str) -> Option<usize> {
    let (_, after) = name.split_once(".experts.")?;
    after.split('.').next()?.parse().ok()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is what is wanted"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn logits(source: &ModelSource, case: &Case) -> Vec<Vec<f32>> {
    Reader::new(source, Tier::best(), 1).read_in_chunks(&case.prompt, 64)
}

#[test]
fn gguf_files_give_the_logits_of_folders() {
    let mut read = 0;
    for (name, json) in GOLDENS {
        let mut golden: Golden = serde_json::from_str(json).unwrap();
        let Some(gguf) = golden.gguf.take() else {
            continue;
        };
        // A GGUF file does not tell it.
        if golden.config.get("query_pre_attn_scalar").is_some() {
            golden.config["query_pre_attn_scalar"] = golden.config["head_dim"].clone();
        }
        let folder = tempfile::tempdir().unwrap();
        let source = golden.source(folder.path());
        let expected = logits(&source, &golden.cases[0]);
        let source = ModelSource::open(&gguf.write(&golden, folder.path())).unwrap();
        let found = logits(&source, &golden.cases[0]);
        let rows = expected.iter().cloned().enumerate().collect();
        let off = distance(&found, &rows);
        println!("{name}: off by {off:.6}");
        assert!(off <= TOLERANCE_FORMATS, "{name}: {off}");
        read += 1;
    }
    assert_eq!(read, 10, "families that GGUF knows");
}
