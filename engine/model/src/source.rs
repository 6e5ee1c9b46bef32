//! A model on disk: a GGUF file or a Hugging Face folder, checked as a whole before it is used.
//!
//! Opening reads headers only. Every size, offset and shape is checked against the file and the
//! config there, so that reading weights later can only fail when the file changes underneath.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use candle_core::quantized::GgmlDType;

use crate::config::{ConfigError, ModelConfig};
use crate::quantization::Quantization;

mod config_json;
mod gguf;
mod naming;
mod safetensors;
mod store;
mod weight;

pub use gguf::GgufTokenizer;
pub use store::ReadError;
pub(crate) use weight::{LayerWeight, Weight};

use naming::{Naming, Place};
use store::TensorStore;

/// A model that was opened and found sound.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    config: ModelConfig,
    tokenizer: TokenizerFiles,
    store: TensorStore,
    naming: Naming,
    quantization: Option<Quantization>,
}

/// Where the model's tokenizer is to be read from.
#[derive(Clone, Debug)]
pub enum TokenizerFiles {
    /// It is in the GGUF file's metadata.
    Gguf(Box<GgufTokenizer>),
    /// A folder with `tokenizer.json` and `tokenizer_config.json`.
    Folder(PathBuf),
}

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system said no.
    #[error(
        "opening model {}, which must be a GGUF file or a folder with config.json, tokenizer.json \
         and *.safetensors",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The file breaks its own format.
    #[error("model file {}: {part}: {reason}; fetch or convert it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The tensor, key or section at fault.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A sound file of a kind that this engine does not run.
    #[error("model {}: {what} is not supported; {supported}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What is not supported.
        what: String,
        /// What would be.
        supported: &'static str,
    },
}

/// What is wrong with a file, before its name is known.
#[derive(Debug)]
pub(crate) enum Flaw {
    Io(io::Error),
    Malformed {
        part: String,
        reason: String,
    },
    Unsupported {
        what: String,
        supported: &'static str,
    },
}

// === impl ModelSource ===

impl ModelSource {
    /// Opens a `.gguf` file or a folder with `config.json` and `*.safetensors`.
    ///
    /// # Errors
    /// Names the file, the part of it and the reason.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_path_buf(),
            source,
        };
        let source = if fs::metadata(path).map_err(io)?.is_dir() {
            safetensors::open(path)?
        } else {
            gguf::open(path)?
        };
        source
            .config
            .check()
            .map_err(|error| Flaw::from(error).of(path))?;
        source.check_weights().map_err(|flaw| flaw.of(path))?;
        Ok(source)
    }

    /// The decoder's numbers.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the tokenizer is.
    #[must_use]
    pub fn tokenizer(&self) -> &TokenizerFiles {
        &self.tokenizer
    }

    /// The file or folder that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of all tensors as stored.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.store.stored_bytes()
    }

    /// Weights that are stored in 16 or 32 bits are to be held in fewer.
    pub fn quantise(&mut self, quantization: Quantization) {
        self.quantization = Some(quantization);
    }

    /// As [`Self::quantise`] said.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// The model will be served with at most this many positions: some stretch rotary
    /// wavelengths only where there may be more than a bound.
    pub fn limit_positions(&mut self, position_count: usize) {
        let trained = self.config.position_count_max;
        self.config.position_count_max = trained.min(position_count).max(1);
    }

    /// Rows of a matrix as `(rows, columns)`, f32, contiguous; of a vector, `(1, length)`.
    /// Query and key rows come in the order of [`crate::config::Rope`]; whole heads only.
    pub(crate) fn rows(&self, weight: Weight, rows: Range<usize>) -> Result<Tensor, ReadError> {
        let Place {
            name, first_row, ..
        } = self.place(weight);
        let stored = rows.start + first_row..rows.end + first_row;
        let tensor = self.store.rows(&name, stored)?;
        if self.naming.interleaves(weight) {
            return weight::pairs_apart(&tensor, self.config.head_dim)
                .map_err(|source| ReadError::Decode { name, source });
        }
        Ok(tensor)
    }

    /// How a weight of this model is stored.
    pub(crate) fn encoding(&self, weight: Weight) -> GgmlDType {
        self.store
            .encoding(&self.naming.name(weight))
            .expect("weights are checked when the model is opened")
    }

    /// What the files call a weight.
    pub(crate) fn name_of(&self, weight: Weight) -> String {
        self.naming.name(weight)
    }

    /// The stored bytes of some columns of one row of a matrix, in the order of [`Self::rows`];
    /// the columns begin and end with a block of the encoding. `bytes` is overwritten.
    pub(crate) fn row_bytes(
        &self,
        weight: Weight,
        row: usize,
        columns: &Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let row = if self.naming.interleaves(weight) {
            weight::row_before_pairs_apart(row, self.config.head_dim)
        } else {
            row
        };
        let Place {
            name, first_row, ..
        } = self.place(weight);
        self.store.row_bytes(&name, first_row + row, columns, bytes)
    }

    /// One row of a matrix, decoded, in the order of [`Self::rows`]. `values` is overwritten.
    pub(crate) fn row_values(
        &self,
        weight: Weight,
        row: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), ReadError> {
        let columns = weight.shape(&self.config)[1];
        let mut bytes = Vec::new();
        self.row_bytes(weight, row, &(0..columns), &mut bytes)?;
        let decoded = store::decode(self.encoding(weight), &bytes, (1, columns));
        *values = decoded
            .and_then(|row| row.flatten_all()?.to_vec1())
            .map_err(|source| ReadError::Decode {
                name: self.naming.name(weight),
                source,
            })?;
        Ok(())
    }

    fn place(&self, weight: Weight) -> Place {
        self.naming.place(weight, &self.config)
    }

    /// Every weight that the config asks for is there, in the shape that it says.
    fn check_weights(&self) -> Result<(), Flaw> {
        for weight in weight::all(&self.config) {
            let Place { name, shape, .. } = self.place(weight);
            let found = self.store.shape(&name).ok_or_else(|| {
                Flaw::malformed(format!("tensor {name}"), "is missing".to_owned())
            })?;
            if found != shape {
                let reason = format!("has shape {found:?} where the config needs {shape:?}");
                return Err(Flaw::malformed(format!("tensor {name}"), reason));
            }
        }
        self.check_biases()
    }

    /// There is no bias that would not be added.
    fn check_biases(&self) -> Result<(), Flaw> {
        let is_known = |name: &&str| {
            let known = ["attn_q", "attn_k", "attn_v", "q_proj", "k_proj", "v_proj"];
            let weight = name.strip_suffix(".bias").unwrap_or(name);
            self.config.graph.qkv_bias && known.iter().any(|known| weight.ends_with(known))
        };
        let mut biases = self.store.names().filter(|name| name.ends_with(".bias"));
        match biases.find(|name| !is_known(name)) {
            None => Ok(()),
            Some(name) => Err(Flaw::Unsupported {
                what: format!("a projection with bias ({name})"),
                supported: "decoders of this family without are",
            }),
        }
    }
}

// === impl Flaw ===

impl Flaw {
    pub(crate) fn malformed(part: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            part: part.into(),
            reason: reason.into(),
        }
    }

    /// The error about the file at `path`.
    pub(crate) fn of(self, path: &Path) -> OpenError {
        let path = path.to_path_buf();
        match self {
            Self::Io(source) => OpenError::Io { path, source },
            Self::Malformed { part, reason } => OpenError::Malformed { path, part, reason },
            Self::Unsupported { what, supported } => OpenError::Unsupported {
                path,
                what,
                supported,
            },
        }
    }
}

impl From<ConfigError> for Flaw {
    fn from(error: ConfigError) -> Self {
        Self::malformed(error.field, error.reason)
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Malformed { part, reason } => write!(f, "{part}: {reason}"),
            Self::Unsupported { what, .. } => write!(f, "{what} is not supported"),
        }
    }
}
