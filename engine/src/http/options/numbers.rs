//! Numbers within bounds, refused by their field's name.

use std::ops::RangeInclusive;

use super::super::error::ApiError;
use super::super::fields::Fields;

/// A whole number.
pub(super) fn within(
    fields: &mut Fields,
    name: &str,
    range: RangeInclusive<usize>,
) -> Result<Option<usize>, ApiError> {
    match fields.take::<usize>(name)? {
        Some(number) if !range.contains(&number) => {
            let (least, most) = (range.start(), range.end());
            let most = if *most == usize::MAX {
                String::new()
            } else {
                format!(" and at most {most}")
            };
            Err(ApiError::invalid(
                name,
                format!("`{name}` must be at least {least}{most}"),
            ))
        }
        number => Ok(number),
    }
}

/// A number that is one, of which `is_good` holds; `bounds` says in words what that is.
pub(super) fn real(
    fields: &mut Fields,
    name: &str,
    is_good: impl Fn(f32) -> bool,
    bounds: &str,
) -> Result<Option<f32>, ApiError> {
    match fields.take::<f32>(name)? {
        Some(number) if !(number.is_finite() && is_good(number)) => Err(ApiError::invalid(
            name,
            format!("`{name}` must be {bounds}"),
        )),
        number => Ok(number),
    }
}
