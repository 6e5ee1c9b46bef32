//! Little-endian values from a file of known length, none of them believed beyond it.

use std::io::{self, Read};

use crate::source::Flaw;

/// Reads at most `length` bytes, and knows how many are left.
pub(crate) struct Bounded<R> {
    inner: R,
    position: u64,
    length: u64,
}

// === impl Bounded ===

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R, length: u64) -> Self {
        Self {
            inner,
            position: 0,
            length,
        }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Refuses before taking memory for more than what is left.
    fn need(&self, part: &str, bytes: u64) -> Result<(), Flaw> {
        let left = self.length.saturating_sub(self.position);
        if bytes > left {
            let reason = format!("the file ends at {} within it", self.length);
            return Err(Flaw::malformed(part, reason));
        }
        Ok(())
    }

    fn fill(&mut self, part: &str, buffer: &mut [u8]) -> Result<(), Flaw> {
        self.need(part, buffer.len() as u64)?;
        self.inner
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Flaw::malformed(part, "the file ends within it"),
                _ => Flaw::Io(error),
            })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self, part: &str) -> Result<[u8; N], Flaw> {
        let mut buffer = [0; N];
        self.fill(part, &mut buffer)?;
        Ok(buffer)
    }

    pub(crate) fn u32(&mut self, part: &str) -> Result<u32, Flaw> {
        self.array(part).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, part: &str) -> Result<u64, Flaw> {
        self.array(part).map(u64::from_le_bytes)
    }

    /// A count of things that take `bytes_min` each, at most `max` of them.
    pub(crate) fn count(
        &mut self,
        part: &str,
        of: &str,
        bytes_min: u64,
        max: u64,
    ) -> Result<u64, Flaw> {
        let count = self.u64(part)?;
        if count > max {
            return Err(Flaw::malformed(
                part,
                format!("{count} {of} are more than {max}"),
            ));
        }
        self.need(part, count * bytes_min)?;
        Ok(count)
    }

    pub(crate) fn string(&mut self, part: &str, bytes_max: u64) -> Result<String, Flaw> {
        let length = self.u64(part)?;
        if length > bytes_max {
            let reason = format!("a string of {length} bytes is longer than {bytes_max}");
            return Err(Flaw::malformed(part, reason));
        }
        self.need(part, length)?;
        let mut buffer = vec![0; usize::try_from(length).expect("strings are below 1 MiB")];
        self.fill(part, &mut buffer)?;
        // Some vocabularies hold pieces of UTF-8 sequences; their tokens are never asked for.
        Ok(String::from_utf8(buffer)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    pub(crate) fn integer(&mut self, part: &str, kind: u32) -> Result<i128, Flaw> {
        Ok(match kind {
            0 => self.array(part).map(u8::from_le_bytes)?.into(),
            1 => self.array(part).map(i8::from_le_bytes)?.into(),
            2 => self.array(part).map(u16::from_le_bytes)?.into(),
            3 => self.array(part).map(i16::from_le_bytes)?.into(),
            4 => self.array(part).map(u32::from_le_bytes)?.into(),
            5 => self.array(part).map(i32::from_le_bytes)?.into(),
            10 => self.array(part).map(u64::from_le_bytes)?.into(),
            _ => self.array(part).map(i64::from_le_bytes)?.into(),
        })
    }

    pub(crate) fn number(&mut self, part: &str, kind: u32) -> Result<f64, Flaw> {
        Ok(match kind {
            6 => self.array(part).map(f32::from_le_bytes)?.into(),
            _ => self.array(part).map(f64::from_le_bytes)?,
        })
    }

    pub(crate) fn flag(&mut self, part: &str) -> Result<bool, Flaw> {
        match self.array::<1>(part)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Flaw::malformed(part, format!("{other} is no boolean"))),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}
