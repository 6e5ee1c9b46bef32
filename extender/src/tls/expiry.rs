//! When a certificate expires: the one field of X.509 that rustls does not tell.
//!
//! ```text
//! Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE {
//!     [0] version OPTIONAL, serialNumber INTEGER, signature SEQUENCE, issuer SEQUENCE,
//!     validity SEQUENCE { notBefore Time, notAfter Time }, … }, … }      RFC 5280, 4.1
//! ```

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// One DER element, and what follows it.
struct Element<'a> {
    tag: u8,
    value: &'a [u8],
    rest: &'a [u8],
}

/// In seconds of Unix time; `None` where the certificate is not as RFC 5280 has it.
pub(super) fn of(certificate: &[u8]) -> Option<i64> {
    let to_be_signed = sequence(sequence(certificate)?.value)?.value;
    let first = element(to_be_signed)?;
    let serial = match first.tag {
        VERSION => element(first.rest)?,
        _ => first,
    };
    let signature = sequence(serial.rest)?;
    let issuer = sequence(signature.rest)?;
    let validity = sequence(issuer.rest)?;
    let not_before = element(validity.value)?;
    time(&element(not_before.rest)?)
}

fn time(element: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.value).ok()?;
    // Two digits of a year mean 1950 to 2049.
    let century = match (element.tag, text.get(..2)?.parse().ok()?) {
        (UTC_TIME, 50..) => "19",
        (UTC_TIME, 0u32..) => "20",
        (GENERALIZED_TIME, _) => "",
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", format!("{century}{text}")).ok()?;
    let zoned = time.to_zoned(TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_second())
}

fn sequence(bytes: &[u8]) -> Option<Element<'_>> {
    element(bytes).filter(|element| element.tag == SEQUENCE)
}

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&length, bytes) = bytes.split_first()?;
    let (length, bytes) = if length < 0x80 {
        (usize::from(length), bytes)
    } else {
        let (digits, bytes) = bytes.split_at_checked(usize::from(length & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, bytes)
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    Some(Element { tag, value, rest })
}
