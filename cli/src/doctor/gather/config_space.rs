//! A PCI device's configuration space, as sysfs gives it.

use crate::doctor::facts::Fact;

/// What anybody may read of it.
const HEADER_BYTES: usize = 64;
/// Where the extended capabilities begin (PCIe 6.0, 7.6.1).
const EXTENDED: usize = 0x100;
/// Access Control Services.
const ACS: u32 = 0x000d;
const ACS_CONTROL: usize = 6;
/// A list of capabilities that is longer goes in circles.
const CAPABILITIES_MAX: usize = 480;

/// The ACS control register; none where the device has no such capability.
pub(super) fn acs_control(config: &[u8]) -> Fact<Option<u16>> {
    if config.len() <= HEADER_BYTES {
        return Err(format!("only {} bytes may be read", config.len()));
    }
    let mut offset = EXTENDED;
    for _ in 0..CAPABILITIES_MAX {
        let Some(header) = config.get(offset..offset + 4) else {
            return Ok(None);
        };
        let header = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if header == 0 || header == u32::MAX {
            return Ok(None);
        }
        if header & 0xffff == ACS {
            let control = config.get(offset + ACS_CONTROL..offset + ACS_CONTROL + 2);
            return Ok(control.map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])));
        }
        offset = (header >> 20) as usize & !3;
        if offset < EXTENDED {
            return Ok(None);
        }
    }
    Err("its list of capabilities has no end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AER at 0x100, then ACS at 0x148 with that control register.
    fn bridge(control: u16) -> Vec<u8> {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&(0x1482_0001_u32).to_le_bytes());
        config[0x148..0x14c].copy_from_slice(&(0x0001_000d_u32).to_le_bytes());
        config[0x14e..0x150].copy_from_slice(&control.to_le_bytes());
        config
    }

    #[test]
    fn acs_is_found_by_walking_the_capabilities() {
        assert_eq!(acs_control(&bridge(0x001d)), Ok(Some(0x001d)));
        assert_eq!(acs_control(&bridge(0)), Ok(Some(0)));
    }

    #[test]
    fn a_device_without_it_or_that_fell_off_the_bus_has_none() {
        assert_eq!(acs_control(&vec![0; 4096]), Ok(None));
        assert_eq!(acs_control(&[0; 256]), Ok(None));
        assert_eq!(acs_control(&vec![0xff; 4096]), Ok(None));
        // cut off in the middle of the register
        assert_eq!(acs_control(&bridge(1)[..0x14f]), Ok(None));
    }

    #[test]
    fn who_may_read_only_the_header_cannot_tell() {
        assert_eq!(
            acs_control(&[0; 64]),
            Err("only 64 bytes may be read".to_owned())
        );
    }

    #[test]
    fn a_list_that_goes_in_circles_is_no_endless_loop() {
        let mut config = vec![0; 4096];
        config[0x100..0x104].copy_from_slice(&(0x1002_0001_u32).to_le_bytes());
        assert!(acs_control(&config).is_err());
    }
}
