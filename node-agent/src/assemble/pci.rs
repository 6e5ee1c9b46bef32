//! PCI addresses, classes and ancestry.

use berth_topology::ids::BusId;
use berth_topology::link::Path;
use berth_topology::raw::RawPci;

const NVIDIA: &str = "0x10de";

/// What a PCI device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gpu,
    NvSwitch,
    NetworkCard,
}

/// NVML's `00000000:1A:00.0` as sysfs writes it, `0000:1a:00.0`: a domain of at least four digits,
/// in lower case. `None` for what is not an address.
pub(crate) fn from_nvml(text: &str) -> Option<BusId> {
    let text = text.to_ascii_lowercase();
    let (domain, rest) = text.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let address = format!("{domain:04x}:{rest}");
    is_address(&address).then_some(BusId(address))
}

/// Whether a text is an address as sysfs writes it: `0000:1a:00.0`.
pub(crate) fn is_address(text: &str) -> bool {
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts = || {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        Some(hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1))
    };
    parts().unwrap_or(false)
}

/// Whether a device is one that the topology speaks of.
pub(crate) fn is_of_interest(device: &RawPci) -> bool {
    kind(device).is_some()
}

/// By class code: `0x03` display (NVIDIA's), `0x0680` bridge of another kind (NVSwitch),
/// `0x02` network.
pub(crate) fn kind(device: &RawPci) -> Option<Kind> {
    let class = device.class.as_deref()?.strip_prefix("0x")?;
    let is_nvidia = device.vendor.as_deref() == Some(NVIDIA);
    match class.get(..2)? {
        "02" => Some(Kind::NetworkCard),
        "03" if is_nvidia => Some(Kind::Gpu),
        "06" if is_nvidia && class.starts_with("0680") => Some(Kind::NvSwitch),
        _ => None,
    }
}

/// The common ancestor of two devices by where sysfs puts them; `None` below different root
/// complexes, which takes NUMA nodes to tell.
///
/// A switch shows as an upstream port and one downstream port for each device below it: two devices
/// of one switch differ in downstream port and device only.
pub(crate) fn ancestor(one: &str, other: &str) -> Option<Path> {
    let (one, other) = (below_root(one)?, below_root(other)?);
    let shared = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let deepest = one.len().max(other.len()) - shared;
    match (shared, deepest) {
        (0, _) => None,
        // functions of one device
        (shared, 0 | 1) if shared > 1 => Some(Path::Board),
        // only the root complex itself is shared
        (1, _) => Some(Path::HostBridge),
        (_, 0..=2) => Some(Path::Switch),
        _ => Some(Path::Switches),
    }
}

/// `devices/pci0000:16/0000:16:01.0/0000:1a:00.0` from the root complex on.
fn below_root(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').collect();
    let root = parts.iter().position(|part| is_root(part))?;
    Some(parts[root..].to_vec())
}

fn is_root(part: &str) -> bool {
    part.strip_prefix("pci")
        .is_some_and(|rest| rest.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(one: &str, other: &str, expected: Option<Path>) {
        let root = "devices/pci0000:16";
        let one = format!("{root}/{one}");
        let other = if other.starts_with("devices") {
            other.to_owned()
        } else {
            format!("{root}/{other}")
        };
        assert_eq!(ancestor(&one, &other), expected);
        assert_eq!(ancestor(&other, &one), expected);
    }

    #[test]
    fn nvml_addresses_become_those_of_sysfs() {
        let cases = [
            ("00000000:1A:00.0", Some("0000:1a:00.0")),
            ("0000:1A:00.0", Some("0000:1a:00.0")),
            ("00000001:00:00.0", Some("0001:00:00.0")),
            ("00010000:01:00.0", Some("10000:01:00.0")),
            ("", None),
            ("00000000", None),
            ("zz:1A:00.0", None),
        ];
        for (nvml, expected) in cases {
            assert_eq!(
                from_nvml(nvml).as_ref().map(BusId::as_str),
                expected,
                "{nvml}"
            );
        }
    }

    #[test]
    fn two_devices_of_one_switch_share_it() {
        let gpu = "0000:16:01.0/0000:17:00.0/0000:18:00.0/0000:19:00.0";
        let nic = "0000:16:01.0/0000:17:00.0/0000:18:01.0/0000:1a:00.0";
        check(gpu, nic, Some(Path::Switch));
    }

    #[test]
    fn devices_of_a_switch_behind_a_switch_go_through_several() {
        let gpu = "0000:16:01.0/0000:17:00.0/0000:18:00.0/0000:19:00.0/0000:1a:00.0/0000:1b:00.0";
        let nic = "0000:16:01.0/0000:17:00.0/0000:18:01.0/0000:1c:00.0";
        check(gpu, nic, Some(Path::Switches));
    }

    #[test]
    fn different_root_ports_meet_at_the_host_bridge() {
        check(
            "0000:16:01.0/0000:17:00.0",
            "0000:16:02.0/0000:18:00.0",
            Some(Path::HostBridge),
        );
        check("0000:16:05.0", "0000:16:06.0", Some(Path::HostBridge));
    }

    #[test]
    fn functions_of_one_card_share_the_board() {
        check(
            "0000:16:01.0/0000:17:00.0",
            "0000:16:01.0/0000:17:00.1",
            Some(Path::Board),
        );
    }

    #[test]
    fn different_root_complexes_have_no_common_ancestor_in_pci() {
        check(
            "0000:16:01.0/0000:17:00.0",
            "devices/pci0000:d7/0000:d7:01.0/0000:d8:00.0",
            None,
        );
        assert_eq!(ancestor("devices/platform/x", "devices/platform/y"), None);
    }
}
