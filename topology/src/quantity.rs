//! Kubernetes quantities (`80Gi`, `500m`, `1e3`) as whole numbers.

/// Longer texts are refused unread.
const TEXT_BYTES_MAX: usize = 64;

/// The value of a quantity, rounded up to a whole number; `None` when the text is none, is
/// negative, or is above `u64::MAX`.
///
/// Source: `k8s.io/apimachinery/pkg/api/resource/quantity.go`.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    parse_times(text, 1)
}

/// The same in thousandths: `Quantity.MilliValue`.
#[must_use]
pub fn parse_milli(text: &str) -> Option<u64> {
    parse_times(text, 1_000)
}

fn parse_times(text: &str, times: u128) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (mantissa, fraction_digits) = mantissa(number)?;
    let mantissa = mantissa.checked_mul(times)?;
    scale(mantissa, fraction_digits, multiplier(suffix)?)
}

/// A suffix as (multiplier, divisor).
fn multiplier(suffix: &str) -> Option<(u128, u128)> {
    let binary = |shift: u32| Some((1_u128 << shift, 1));
    let decimal = |power: u32| Some((10_u128.pow(power), 1));
    match suffix {
        "" => decimal(0),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        _ => exponent(suffix),
    }
}

/// `e3`, `E-2`.
fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    let size = 10_u128.pow(power.unsigned_abs().min(30));
    Some(if power < 0 { (1, size) } else { (size, 1) })
}

/// Digits without the point, and how many stood behind it.
fn mantissa(number: &str) -> Option<(u128, u32)> {
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: String = [whole, fraction].concat();
    let fraction_digits = u32::try_from(fraction.len()).ok()?;
    (fraction_digits <= 18).then_some(())?;
    Some((digits.parse().ok()?, fraction_digits))
}

fn scale(mantissa: u128, fraction_digits: u32, (multiplier, divisor): (u128, u128)) -> Option<u64> {
    let divisor = divisor.checked_mul(10_u128.pow(fraction_digits))?;
    u64::try_from(mantissa.checked_mul(multiplier)?.div_ceil(divisor)).ok()
}
