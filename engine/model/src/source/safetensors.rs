//! A Hugging Face folder: `config.json`, and tensors in `*.safetensors` files.
//!
//! The format: a header length (u64, little-endian), a JSON header, the tensors' bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::store::{Stored, TensorStore};
use super::{Flaw, ModelSource, OpenError, TokenizerFiles, config_json};

/// A thousand tensors take about 100 KB.
const HEADER_BYTES_MAX: u64 = 1 << 24;
/// Large models come in a few hundred files.
const FILES_MAX: usize = 4_096;
const DIMENSIONS_MAX: usize = 8;

/// The JSON header, each name once, less `__metadata__`.
struct Entries(BTreeMap<String, Entry>);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Opens the folder; the config and weights are checked by the caller.
pub(crate) fn open(folder: &Path) -> Result<ModelSource, OpenError> {
    let mut store = TensorStore::default();
    for path in tensor_files(folder)? {
        add_file(&mut store, &path).map_err(|flaw| flaw.of(&path))?;
    }
    let (config, naming) = config_json::read(folder)?;
    Ok(ModelSource {
        path: folder.to_path_buf(),
        config,
        tokenizer: TokenizerFiles::Folder(folder.to_path_buf()),
        store,
        naming,
        quantization: None,
    })
}

fn add_file(store: &mut TensorStore, path: &Path) -> Result<(), Flaw> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let tensors = read_header(BufReader::new(&file), length)?;
    store
        .add(path.to_path_buf(), file, tensors)
        .map_err(|name| Flaw::malformed(format!("tensor {name}"), "is in two files"))
}

/// The folder's `*.safetensors`, in the order of their names. The index that goes with several
/// files is not needed: each file says itself what is in it.
fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let list = || -> Result<Vec<PathBuf>, Flaw> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("safetensors")) {
                files.push(path);
            }
            if files.len() > FILES_MAX {
                let reason = format!("there are more than {FILES_MAX}");
                return Err(Flaw::malformed("files named *.safetensors", reason));
            }
        }
        if files.is_empty() {
            return Err(Flaw::malformed(
                "files named *.safetensors",
                "there are none",
            ));
        }
        files.sort();
        Ok(files)
    };
    list().map_err(|flaw| flaw.of(folder))
}

/// Reads the header of a file of `length` bytes.
pub(crate) fn read_header(
    mut bytes: impl Read,
    length: u64,
) -> Result<BTreeMap<String, Stored>, Flaw> {
    let fault = |reason: String| Flaw::malformed("header", reason);
    if length < 8 {
        return Err(fault(format!("the file has only {length} bytes")));
    }
    let mut size = [0; 8];
    bytes.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_BYTES_MAX || size > length - 8 {
        return Err(fault(format!(
            "a header of {size} bytes in a file of {length}"
        )));
    }
    let mut header = vec![0; usize::try_from(size).expect("headers are below 16 MiB")];
    bytes.read_exact(&mut header)?;
    let Entries(entries) =
        serde_json::from_slice(&header).map_err(|error| fault(format!("is no header: {error}")))?;
    let tensors = entries
        .into_iter()
        .map(|(name, entry)| {
            let stored = place(entry, 8 + size, length)
                .map_err(|reason| Flaw::malformed(format!("tensor {name}"), reason))?;
            Ok((name, stored))
        })
        .collect::<Result<BTreeMap<_, _>, Flaw>>()?;
    without_gaps(&tensors, 8 + size, length)?;
    Ok(tensors)
}

/// Where a tensor lies in a file of `length` bytes whose data begins at `start`.
fn place(entry: Entry, start: u64, length: u64) -> Result<Stored, String> {
    let encoding = match entry.dtype.as_str() {
        "F32" => GgmlDType::F32,
        "F16" => GgmlDType::F16,
        "BF16" => GgmlDType::BF16,
        other => {
            return Err(format!(
                "has dtype {other}; F32, F16 and BF16 are supported"
            ));
        }
    };
    if entry.shape.is_empty() || entry.shape.len() > DIMENSIONS_MAX || entry.shape.contains(&0) {
        return Err(format!("has the impossible shape {:?}", entry.shape));
    }
    let elements = entry.shape.iter().copied().try_fold(1, usize::checked_mul);
    let bytes = elements
        .and_then(|elements| elements.checked_mul(encoding.type_size()))
        .ok_or_else(|| format!("has shape {:?}, which is past 2^64 bytes", entry.shape))?;
    let (begin, end) = entry.data_offsets;
    if end.checked_sub(begin) != Some(bytes as u64) {
        return Err(format!(
            "needs {bytes} bytes and has those from {begin} to {end}"
        ));
    }
    if end > length - start {
        return Err(format!("ends at byte {end} of {}", length - start));
    }
    Ok(Stored {
        encoding,
        shape: entry.shape,
        range: start + begin..start + end,
    })
}

/// The tensors cover the file from `start` to its end, each byte once, as the format demands.
fn without_gaps(tensors: &BTreeMap<String, Stored>, start: u64, length: u64) -> Result<(), Flaw> {
    let mut by_start: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (&tensor.range, name))
        .collect();
    by_start.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = start;
    for (range, name) in by_start {
        if range.start != end {
            let reason = format!("starts at byte {} of the file, not at {end}", range.start);
            return Err(Flaw::malformed(format!("tensor {name}"), reason));
        }
        end = range.end;
    }
    if end != length {
        let reason = format!("tensors end at byte {end}, the file at {length}");
        return Err(Flaw::malformed("header", reason));
    }
    Ok(())
}

// === impl Entries ===

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with a tensor under each name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map
                .next_value::<Entry>()
                .map_err(|error| A::Error::custom(format!("tensor {name}: {error}")))?;
            if entries.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor {name} is there twice")));
            }
            entries.insert(name, entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests;
