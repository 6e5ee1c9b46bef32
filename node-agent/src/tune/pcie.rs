//! A PCIe device's configuration space: link and read request size. Pure.
//!
//! The PCI Express capability is found by walking the list of capabilities, for its place differs
//! from device to device (PCI Express Base Specification 6.0, 7.5.3).

use serde::Serialize;

/// Status register, whose bit 4 says that there is a list.
const STATUS: usize = 0x06;
const HAS_LIST: u16 = 1 << 4;
/// Where the list begins.
const FIRST: usize = 0x34;
/// The PCI Express capability's id.
const PCI_EXPRESS: u8 = 0x10;
/// Capabilities fit between 0x40 and 0x100, four bytes each at least: a longer walk is a loop.
const CAPABILITIES_MAX: usize = 48;
/// Registers of the capability.
const DEVICE_CONTROL: usize = 0x08;
const LINK_CAPABILITIES: usize = 0x0c;
const LINK_STATUS: usize = 0x12;

/// What a device negotiated, and could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pcie {
    /// The largest read that it asks for at once, in bytes.
    pub read_request_bytes_max: u32,
    /// Lanes now.
    pub width: u8,
    /// Lanes that the device has.
    pub width_max: u8,
    /// Generation now; a link at rest may be slower.
    pub generation: u8,
    /// Generation that the device has.
    pub generation_max: u8,
}

/// Reads a configuration space; `None` where it has no such capability, or ends before it, as it
/// does for who is not root.
#[must_use]
pub fn read(config: &[u8]) -> Option<Pcie> {
    let at = capability(config)?;
    let control = word(config, at + DEVICE_CONTROL)?;
    let able = word(config, at + LINK_CAPABILITIES)?;
    let status = word(config, at + LINK_STATUS)?;
    let (generation_max, width_max) = link(able);
    let (generation, width) = link(status);
    Some(Pcie {
        // Bits 14:12; 6 and 7 are reserved.
        read_request_bytes_max: 128 << (control >> 12 & 0x7).min(5),
        width,
        width_max,
        generation,
        generation_max,
    })
}

fn capability(config: &[u8]) -> Option<usize> {
    if word(config, STATUS)? & HAS_LIST == 0 {
        return None;
    }
    let mut at = usize::from(*config.get(FIRST)? & !0x3);
    for _ in 0..CAPABILITIES_MAX {
        if at < 0x40 {
            return None;
        }
        if *config.get(at)? == PCI_EXPRESS {
            return Some(at);
        }
        at = usize::from(*config.get(at + 1)? & !0x3);
    }
    None
}

/// Speed in bits 3:0 and width in bits 9:4, in both link registers.
fn link(register: u16) -> (u8, u8) {
    let [low, _] = (register & 0xf).to_le_bytes();
    let [width, _] = (register >> 4 & 0x3f).to_le_bytes();
    (low, width)
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at + 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Power management at 0x60, MSI at 0x68, PCI Express at 0x78: as an H100 has them.
    pub(crate) fn config() -> Vec<u8> {
        let mut config = vec![0; 256];
        config[STATUS] = 0x10;
        config[FIRST] = 0x60;
        config[0x60..0x62].copy_from_slice(&[0x01, 0x68]);
        config[0x68..0x6a].copy_from_slice(&[0x05, 0x78]);
        config[0x78..0x7a].copy_from_slice(&[0x10, 0x00]);
        config[0x80..0x82].copy_from_slice(&(2_u16 << 12).to_le_bytes());
        config[0x84..0x86].copy_from_slice(&(16_u16 << 4 | 5).to_le_bytes());
        config[0x8a..0x8c].copy_from_slice(&(8_u16 << 4 | 1).to_le_bytes());
        config
    }

    #[test]
    fn the_capability_is_found_by_walking_the_list() {
        let expected = Pcie {
            read_request_bytes_max: 512,
            width: 8,
            width_max: 16,
            generation: 1,
            generation_max: 5,
        };
        assert_eq!(read(&config()), Some(expected));
    }

    #[test]
    fn short_looping_and_listless_spaces_say_nothing() {
        assert_eq!(read(&config()[..64]), None, "all that others than root see");
        let mut looping = config();
        looping[0x69] = 0x60;
        assert_eq!(read(&looping), None);
        let mut listless = config();
        listless[STATUS] = 0;
        assert_eq!(read(&listless), None);
        let mut low = config();
        low[0x61] = 0x04;
        assert_eq!(read(&low), None, "a pointer into the header");
    }

    proptest! {
        #[test]
        fn no_space_breaks_the_walk(config in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&config);
        }
    }
}
