//! Pointers that the caller passes: the only place that writes through them.

use std::ffi::{CStr, c_char, c_uint};
use std::ptr::NonNull;

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use crate::code::{ARGUMENT_VERSION_MISMATCH, INSUFFICIENT_SIZE, INVALID_ARGUMENT};
use crate::state::is_unterminated;

/// More of anything than NVML can be asked for at once.
const COUNT_MAX: usize = 1 << 16;

/// A pointer to a `T`, or to several, that a function fills. Null is allowed and refused.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Out<T>(Option<NonNull<T>>);

// === impl Out ===

#[cfg(test)]
impl<T> Out<T> {
    pub(crate) fn to(place: &mut T) -> Self {
        Self(Some(NonNull::from(place)))
    }

    pub(crate) fn null() -> Self {
        Self(None)
    }
}

impl<T: Copy> Out<T> {
    fn pointer(self) -> Result<NonNull<T>, nvmlReturn_t> {
        self.0.ok_or(INVALID_ARGUMENT)
    }

    /// Writes one value.
    pub(crate) fn put(self, value: T) -> Result<(), nvmlReturn_t> {
        let pointer = self.pointer()?;
        // SAFETY: not null, and by the C interface valid for writing one `T`.
        unsafe { pointer.write_unaligned(value) };
        Ok(())
    }

    /// What the caller put there.
    pub(crate) fn value(self) -> Result<T, nvmlReturn_t>
    where
        T: Into<u64>,
    {
        let pointer = self.pointer()?;
        // SAFETY: not null, and by the C interface valid for reading one number.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// Writes `values` into an array of `length`, zeroes behind them; what does not fit is cut.
    pub(crate) fn fill(self, length: c_uint, values: &[T], zero: T) -> Result<(), nvmlReturn_t> {
        let pointer = self.pointer()?;
        let length = count(length)?;
        for position in 0..length {
            let value = values.get(position).copied().unwrap_or(zero);
            // SAFETY: not null, and by the C interface valid for writing `length` values.
            unsafe { pointer.add(position).write_unaligned(value) };
        }
        Ok(())
    }

    /// Replaces each of `length` values by what `change` makes of it.
    pub(crate) fn update(
        self,
        length: c_uint,
        mut change: impl FnMut(T) -> T,
    ) -> Result<(), nvmlReturn_t> {
        let pointer = self.pointer()?;
        for position in 0..count(length)? {
            // SAFETY: not null, and by the C interface valid for reading and writing `length`
            // values, which are plain numbers.
            unsafe {
                let place = pointer.add(position);
                place.write_unaligned(change(place.read_unaligned()));
            }
        }
        Ok(())
    }

    /// The version that the caller put into a versioned struct: its first field, which must be one
    /// of the `accepted`.
    pub(crate) fn version(self, accepted: &[c_uint]) -> Result<c_uint, nvmlReturn_t> {
        let pointer = self.pointer()?.cast::<c_uint>();
        // SAFETY: not null, and every versioned struct of NVML begins with its version.
        let version = unsafe { pointer.read_unaligned() };
        accepted
            .contains(&version)
            .then_some(version)
            .ok_or(ARGUMENT_VERSION_MISMATCH)
    }

    /// The same place as another type.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.map(NonNull::cast))
    }
}

impl Out<c_char> {
    /// Writes a text and its terminator into a buffer of `length` bytes, or fills that: see
    /// [`is_unterminated`].
    pub(crate) fn put_text(self, length: c_uint, text: &str) -> Result<(), nvmlReturn_t> {
        let bytes: Vec<c_char> = chars(text);
        match count(length)? {
            fits if fits <= bytes.len() && is_unterminated() => self.fill(length, &bytes, 0),
            length if length <= bytes.len() => Err(INSUFFICIENT_SIZE),
            _ => self.fill(
                c_uint::try_from(bytes.len() + 1).unwrap_or(length),
                &bytes,
                0,
            ),
        }
    }
}

/// A text that the caller passes.
pub(crate) fn text(pointer: *const c_char) -> Result<String, nvmlReturn_t> {
    if pointer.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and by the C interface ended by a zero byte.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str()
        .map(str::to_owned)
        .map_err(|_| INVALID_ARGUMENT)
}

/// A text in a C array of `N` bytes, cut to leave a terminator: see [`is_unterminated`].
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    let length = if is_unterminated() { N } else { N - 1 };
    for (place, byte) in array.iter_mut().take(length).zip(chars(text)) {
        *place = byte;
    }
    array
}

fn chars(text: &str) -> Vec<c_char> {
    text.bytes()
        .map(|byte| c_char::from_ne_bytes([byte]))
        .collect()
}

fn count(length: c_uint) -> Result<usize, nvmlReturn_t> {
    usize::try_from(length)
        .ok()
        .filter(|length| (1..=COUNT_MAX).contains(length))
        .ok_or(INVALID_ARGUMENT)
}
