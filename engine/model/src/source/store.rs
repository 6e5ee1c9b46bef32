//! Tensors in files: where each lies, and reading rows of it as f32.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use candle_core::quantized::{GgmlDType, ggml_file};
use candle_core::{DType, Device, Tensor};

/// Every tensor of a model, over one or several files.
#[derive(Debug, Default)]
pub(crate) struct TensorStore {
    files: Vec<(PathBuf, File)>,
    /// With the index of the tensor's file.
    tensors: BTreeMap<String, (usize, Stored)>,
}

/// One tensor in a file. Its `range` was checked to lie in the file and to fit its shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) encoding: GgmlDType,
    /// Outermost first; rows are whole blocks of the encoding.
    pub(crate) shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub(crate) range: Range<u64>,
}

/// Why a tensor of an open model could not be read: the file changed, or the disk failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system said no.
    #[error("reading tensor {name} from {}", path.display())]
    Io {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The tensor library could not decode the bytes.
    #[error("decoding tensor {name}")]
    Decode {
        /// The tensor.
        name: String,
        /// The library's own error.
        #[source]
        source: candle_core::Error,
    },
}

// === impl TensorStore ===

impl TensorStore {
    /// Adds a file with its tensors. The name of a tensor that is there already is the error.
    pub(crate) fn add(
        &mut self,
        path: PathBuf,
        file: File,
        tensors: BTreeMap<String, Stored>,
    ) -> Result<(), String> {
        for (name, stored) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(name);
            }
            self.tensors.insert(name, (self.files.len(), stored));
        }
        self.files.push((path, file));
        Ok(())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors
            .get(name)
            .map(|(_, stored)| stored.shape.as_slice())
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|(_, stored)| stored.range.end - stored.range.start)
            .sum()
    }

    /// How tensor `name` is stored, where there is one.
    pub(crate) fn encoding(&self, name: &str) -> Option<GgmlDType> {
        self.tensors.get(name).map(|(_, stored)| stored.encoding)
    }

    /// The stored bytes of some columns of one row; they begin and end with a block of the
    /// encoding. `bytes` is overwritten.
    pub(crate) fn row_bytes(
        &self,
        name: &str,
        row: usize,
        columns: &Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let (file_index, stored) = self.stored(name);
        let (range, _) = stored.locate(&(row..row + 1));
        let of =
            |column: usize| column / stored.encoding.block_size() * stored.encoding.type_size();
        let start = range.start + of(columns.start);
        bytes.resize(of(columns.end) - of(columns.start), 0);
        self.read(name, file_index, stored.range.start + start as u64, bytes)
    }

    /// Rows of tensor `name` as `(rows, columns)`, f32; a vector is one row.
    pub(crate) fn rows(&self, name: &str, rows: Range<usize>) -> Result<Tensor, ReadError> {
        let (file_index, stored) = self.stored(name);
        let (range, columns) = stored.locate(&rows);
        let mut bytes = vec![0; range.len()];
        let start = stored.range.start + range.start as u64;
        self.read(name, file_index, start, &mut bytes)?;
        decode(stored.encoding, &bytes, (rows.len(), columns)).map_err(|source| ReadError::Decode {
            name: name.to_owned(),
            source,
        })
    }

    fn stored(&self, name: &str) -> (usize, &Stored) {
        let (file_index, stored) = self
            .tensors
            .get(name)
            .expect("weights are checked when the model is opened");
        (*file_index, stored)
    }

    fn read(
        &self,
        name: &str,
        file_index: usize,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), ReadError> {
        let (path, file) = &self.files[file_index];
        file.read_exact_at(bytes, start)
            .map_err(|source| ReadError::Io {
                name: name.to_owned(),
                path: path.clone(),
                source,
            })
    }
}

// === impl Stored ===

impl Stored {
    /// Bytes of `rows` from the start of the tensor, and elements in a row.
    fn locate(&self, rows: &Range<usize>) -> (Range<usize>, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        let row_count = self.shape.iter().rev().skip(1).product::<usize>();
        assert!(
            rows.start <= rows.end && rows.end <= row_count,
            "rows lie in the tensor"
        );
        let row_bytes = columns / self.encoding.block_size() * self.encoding.type_size();
        (rows.start * row_bytes..rows.end * row_bytes, columns)
    }
}

/// Stored rows as `(rows, columns)`, f32.
pub(crate) fn decode(
    encoding: GgmlDType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> candle_core::Result<Tensor> {
    let plain = |dtype| Tensor::from_raw_buffer(bytes, dtype, &[rows, columns], &Device::Cpu);
    match encoding {
        GgmlDType::F32 => plain(DType::F32),
        GgmlDType::F16 => plain(DType::F16)?.to_dtype(DType::F32),
        GgmlDType::BF16 => plain(DType::BF16)?.to_dtype(DType::F32),
        quantised => {
            ggml_file::qtensor_from_ggml(quantised, bytes, vec![rows, columns], &Device::Cpu)?
                .dequantize(&Device::Cpu)
        }
    }
}
