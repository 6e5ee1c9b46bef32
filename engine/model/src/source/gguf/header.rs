//! Reading a GGUF header without trusting it.
//!
//! Whatever a count or length claims, memory is taken only for bytes that the file still has.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use super::bounded::{Bounded, narrow};
use super::metadata::{Metadata, Value};
use crate::source::Flaw;
use crate::source::store::Stored;

const MAGIC: [u8; 4] = *b"GGUF";
/// A model of 1,024 layers with ten tensors each stays below.
const TENSORS_MAX: u64 = 65_536;
/// Files in use have a few dozen keys.
const KEYS_MAX: u64 = 65_536;
/// Four times the largest vocabularies in use.
const ARRAY_MAX: u64 = 1 << 20;
/// Chat templates are the longest strings in use, about 20 KB.
const STRING_BYTES_MAX: u64 = 1 << 20;
/// `GGML_MAX_NAME` is 64; keys are of that order.
const NAME_BYTES_MAX: u64 = 256;
/// `GGML_MAX_DIMS`.
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: usize = 32;
const ALIGNMENT_MAX: usize = 1 << 16;

/// A header whose every tensor lies in the file, aligned, apart from all others.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: BTreeMap<String, Stored>,
}

/// A tensor as the header describes it: where it lies counts from the end of the header.
struct Described {
    name: String,
    encoding: GgmlDType,
    shape: Vec<usize>,
    offset: u64,
}

// === impl Header ===

impl Header {
    /// Reads the header of a file of `length` bytes.
    pub(crate) fn read(inner: impl Read, length: u64) -> Result<Self, Flaw> {
        let mut bytes = Bounded::new(inner, length);
        let (tensor_count, key_count) = preamble(&mut bytes)?;
        let metadata = read_metadata(&mut bytes, key_count)?;
        let alignment = alignment(&metadata)?;
        let mut described = Vec::new();
        for index in 0..tensor_count {
            described.push(describe(&mut bytes, index)?);
        }
        let start = bytes.position().next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for tensor in described {
            let part = format!("tensor {}", tensor.name);
            let name = tensor.name.clone();
            let stored = tensor.place(start, length, alignment)?;
            if tensors.insert(name, stored).is_some() {
                return Err(Flaw::malformed(part, "is there twice"));
            }
        }
        apart(&tensors)?;
        Ok(Self { metadata, tensors })
    }
}

/// Magic, version, and the counts of tensors and keys.
fn preamble(bytes: &mut Bounded<impl Read>) -> Result<(u64, u64), Flaw> {
    let part = "header";
    if bytes.array::<4>(part)? != MAGIC {
        return Err(Flaw::malformed(part, "does not start with GGUF"));
    }
    let version = bytes.u32(part)?;
    if !matches!(version, 2 | 3) {
        return Err(Flaw::Unsupported {
            what: format!("GGUF version {version}"),
            supported: "versions 2 and 3, little-endian, are",
        });
    }
    // The least that a tensor (name length, dimensions, size, type, offset) or key takes.
    let tensor_count = bytes.count(part, "tensors", 32, TENSORS_MAX)?;
    let key_count = bytes.count(part, "keys", 13, KEYS_MAX)?;
    Ok((tensor_count, key_count))
}

fn read_metadata(bytes: &mut Bounded<impl Read>, count: u64) -> Result<Metadata, Flaw> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = bytes.string(&format!("key number {index}"), NAME_BYTES_MAX)?;
        let part = format!("key {key}");
        let kind = bytes.u32(&part)?;
        let value = read_value(bytes, &part, kind)?;
        if !metadata.insert(key, value) {
            return Err(Flaw::malformed(part, "is there twice"));
        }
    }
    Ok(metadata)
}

fn read_value(bytes: &mut Bounded<impl Read>, part: &str, kind: u32) -> Result<Value, Flaw> {
    Ok(match kind {
        0..=5 | 10 | 11 => Value::Integer(bytes.integer(part, kind)?),
        6 | 12 => Value::Number(bytes.number(part, kind)?),
        7 => Value::Flag(bytes.flag(part)?),
        8 => Value::Text(bytes.string(part, STRING_BYTES_MAX)?),
        9 => read_array(bytes, part)?,
        _ => {
            return Err(Flaw::malformed(
                part,
                format!("has the unknown type {kind}"),
            ));
        }
    })
}

fn read_array(bytes: &mut Bounded<impl Read>, part: &str) -> Result<Value, Flaw> {
    let kind = bytes.u32(part)?;
    let Some(bytes_min) = bytes_min(kind) else {
        // llama.cpp reads no arrays of arrays either.
        return Err(Flaw::malformed(
            part,
            format!("is an array of the unusable type {kind}"),
        ));
    };
    let count = bytes.count(part, "array elements", bytes_min, ARRAY_MAX)?;
    Ok(match kind {
        6 | 12 => Value::Numbers(
            (0..count)
                .map(|_| bytes.number(part, kind).map(narrow))
                .collect::<Result<_, _>>()?,
        ),
        7 => {
            (0..count).try_for_each(|_| bytes.flag(part).map(drop))?;
            Value::Flags(usize::try_from(count).expect("counts are below ARRAY_MAX"))
        }
        8 => Value::Texts(
            (0..count)
                .map(|_| bytes.string(part, STRING_BYTES_MAX))
                .collect::<Result<_, _>>()?,
        ),
        _ => Value::Integers(
            (0..count)
                .map(|_| {
                    let value = bytes.integer(part, kind)?;
                    i64::try_from(value)
                        .map_err(|_| Flaw::malformed(part, format!("{value} needs over 63 bits")))
                })
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// Bytes that an array's element takes at least; none for a type that arrays may not have.
fn bytes_min(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        8 | 10..=12 => Some(8),
        _ => None,
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, Flaw> {
    let alignment = metadata.size_or("general.alignment", ALIGNMENT_DEFAULT)?;
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        let reason = format!("{alignment} is no power of two up to {ALIGNMENT_MAX}");
        return Err(Flaw::malformed("key general.alignment", reason));
    }
    Ok(alignment as u64)
}

fn describe(bytes: &mut Bounded<impl Read>, index: u64) -> Result<Described, Flaw> {
    let name = bytes.string(&format!("tensor number {index}"), NAME_BYTES_MAX)?;
    let part = format!("tensor {name}");
    let dimension_count = bytes.u32(&part)?;
    if !(1..=DIMENSIONS_MAX).contains(&dimension_count) {
        return Err(Flaw::malformed(
            part,
            format!("has {dimension_count} dimensions"),
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimension_count {
        let size = bytes.u64(&part)?;
        let size = usize::try_from(size).ok().filter(|&size| size > 0);
        shape.push(size.ok_or_else(|| Flaw::malformed(&part, "has an impossible dimension"))?);
    }
    // The file lists the innermost dimension first.
    shape.reverse();
    let encoding = encoding(bytes.u32(&part)?).map_err(|kind| Flaw::Unsupported {
        what: format!("type {kind} of {part}"),
        supported: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are",
    })?;
    let offset = bytes.u64(&part)?;
    Ok(Described {
        name,
        encoding,
        shape,
        offset,
    })
}

/// `ggml_type` numbers.
fn encoding(kind: u32) -> Result<GgmlDType, u32> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => return Err(other),
    })
}

/// No two tensors share a byte.
fn apart(tensors: &BTreeMap<String, Stored>) -> Result<(), Flaw> {
    let mut by_start: Vec<(&str, &Range<u64>)> = tensors
        .iter()
        .map(|(name, stored)| (name.as_str(), &stored.range))
        .collect();
    by_start.sort_by_key(|(_, range)| (range.start, range.end));
    for pair in by_start.windows(2) {
        let ((first, range), (second, next)) = (pair[0], pair[1]);
        if next.start < range.end {
            let reason = format!("overlaps tensor {first}");
            return Err(Flaw::malformed(format!("tensor {second}"), reason));
        }
    }
    Ok(())
}

// === impl Described ===

impl Described {
    /// Where the tensor lies in a file of `length` bytes whose data begins at `start`.
    fn place(self, start: u64, length: u64, alignment: u64) -> Result<Stored, Flaw> {
        let part = format!("tensor {}", self.name);
        let fault = |reason: String| Flaw::malformed(part.clone(), reason);
        if !self.offset.is_multiple_of(alignment) {
            return Err(fault(format!(
                "starts at {}, off the alignment {alignment}",
                self.offset
            )));
        }
        let bytes = self
            .size_bytes()
            .map_err(|reason| fault(reason.to_owned()))?;
        let begin = start.checked_add(self.offset);
        let end = begin.and_then(|begin| begin.checked_add(bytes));
        match (begin, end) {
            (Some(begin), Some(end)) if end <= length => Ok(Stored {
                encoding: self.encoding,
                shape: self.shape,
                range: begin..end,
            }),
            _ => Err(fault(format!(
                "takes {bytes} bytes from {} on, the file ends at {length}",
                begin.map_or_else(|| "past 2^64".to_owned(), |begin| begin.to_string()),
            ))),
        }
    }

    fn size_bytes(&self) -> Result<u64, &'static str> {
        let columns = self.shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(self.encoding.block_size()) {
            return Err("has rows that are no whole blocks of its type");
        }
        let blocks = columns / self.encoding.block_size();
        let row_bytes = blocks.checked_mul(self.encoding.type_size());
        let rows = self.shape.iter().rev().skip(1);
        row_bytes
            .and_then(|row_bytes| rows.copied().try_fold(row_bytes, usize::checked_mul))
            .map(|bytes| bytes as u64)
            .ok_or("has a size past 2^64")
    }
}
