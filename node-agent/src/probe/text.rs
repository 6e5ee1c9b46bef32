//! Files, read up to a bound.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// The longest file of sysfs that is read, a page of the kernel, is 4 KiB; CPU lists may be longer.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// A small text file without the white space around it; `None` where it cannot be read.
pub(crate) fn read(path: &Path) -> Option<String> {
    let bytes = read_bounded(path, TEXT_BYTES_MAX).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

/// A file of at most `bytes_max` bytes.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read <= bytes_max) {
        return Ok(bytes);
    }
    Err(Error::new(
        ErrorKind::FileTooLarge,
        format!("longer than {bytes_max} bytes"),
    ))
}
