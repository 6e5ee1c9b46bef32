//! The driver's files and NVML's lines, as they were seen on machines, and broken ones.

use proptest::prelude::*;

use super::*;

/// As driver 570 writes it.
fn information_of(uuid: &str, at: &str, minor: u32) -> String {
    format!(
        "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 311\nGPU UUID: \t {uuid}\n\
         Video BIOS: \t 96.00.68.00.01\nBus Type: \t PCIe\nDMA Size: \t 52 bits\n\
         DMA Mask: \t 0xfffffffffffff\nBus Location: \t {at}\nDevice Minor: \t {minor}\n\
         GPU Firmware: \t 570.86.15\nGPU Excluded:\t No\n"
    )
}

fn machine(gpus: &[(&str, &str, u32)], here: &[u32]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (uuid, at, minor) in gpus {
        let folder = root.path().join("proc/driver/nvidia/gpus").join(at);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("information"), information_of(uuid, at, *minor)).unwrap();
    }
    fs::create_dir_all(root.path().join("dev")).unwrap();
    for minor in here {
        fs::write(root.path().join(format!("dev/nvidia{minor}")), "").unwrap();
    }
    root
}

const FOUR: [(&str, &str, u32); 4] = [
    ("GPU-a", "0000:1a:00.0", 3),
    ("GPU-b", "0000:4b:00.0", 2),
    ("GPU-c", "0000:ca:00.0", 1),
    ("GPU-d", "10000:01:00.0", 0),
];

#[track_caller]
fn check(here: &[u32], expected: Result<&[&str], &str>) {
    let root = machine(&FOUR, here);
    match (from_driver(root.path()).map(ordered), expected) {
        (Ok(Gpus::Known(found)), Ok(expected)) => assert_eq!(found, expected),
        (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
        (found, _) => panic!("{found:?}"),
    }
}

#[test]
fn the_index_is_the_turn_by_pci_address_among_the_gpus_whose_device_file_is_here() {
    check(&[0, 1, 2, 3], Ok(&["GPU-a", "GPU-b", "GPU-c", "GPU-d"]));
    check(&[0, 2], Ok(&["GPU-b", "GPU-d"]));
    check(&[], Err("names no GPU that is here"));
}

#[test]
fn a_gpu_that_was_never_opened_has_no_uuid_yet_and_the_driver_cannot_tell() {
    let gpus = [
        ("GPU-????????-????", "0000:1a:00.0", 0),
        ("GPU-b", "0000:4b:00.0", 1),
    ];
    let others = from_driver(machine(&gpus, &[1]).path()).map(ordered);
    assert_eq!(others, Ok(Gpus::Known(vec!["GPU-b".to_owned()])));
    let error = from_driver(machine(&gpus, &[0, 1]).path()).unwrap_err();
    assert!(error.contains("does not tell"), "{error}");
    let nothing = tempfile::tempdir().unwrap();
    assert!(from_driver(nothing.path()).is_err());
}

#[test]
fn nvidia_smi_is_read_in_the_order_of_addresses() {
    let text = "GPU-b, 00000000:CA:00.0\nGPU-a, 00000000:1A:00.0\n";
    let Gpus::Known(found) = ordered(answer_lines(text).unwrap()) else {
        panic!("known");
    };
    assert_eq!(found, ["GPU-a", "GPU-b"]);
    for broken in [
        "",
        "No devices were found\n",
        "GPU-a, 1a",
        "GPU-a;b, 0:1:2.3",
        "a, 0:1:2.3",
    ] {
        assert_eq!(answer_lines(broken), None, "{broken:?}");
    }
}

#[test]
fn nobody_is_asked_where_no_gpu_was_assigned() {
    assert_eq!(
        find(Path::new("/nonexistent"), false),
        Gpus::Known(Vec::new())
    );
}

proptest! {
    #[test]
    fn whatever_is_written_in_the_drivers_files_nothing_breaks(text in ".{0,400}") {
        let _ = information(&text);
        let _ = answer_lines(&text);
        let _ = address(&text);
    }
}
