//! How many NVLinks a model has, and how fast one is.

/// Models whose NVLinks are all wired on every board that carries them, so that one less than this
/// is a fault. Cards (PCIe, NVL) take as many as their bridges join, and V100-SXM2 and P100-SXM2
/// boards and virtual machines differ in wiring: they are counted, not looked up.
const WIRED_MODELS: [(&str, u32); 12] = [
    ("V100-SXM3", 6),
    ("A100-SXM", 12),
    ("A800-SXM", 8),
    ("GB200", 18),
    ("GB300", 18),
    ("B200", 18),
    ("B300", 18),
    ("H800", 8),
    ("H100", 18),
    ("H200", 18),
    ("H20", 18),
    ("B100", 18),
];

/// NVLinks of a model of which all are wired; `None` for the others.
pub(crate) fn wired(model: &str) -> Option<u32> {
    let is_card = ["PCIe", "PCIE", " NVL", "GH200"]
        .iter()
        .any(|card| model.contains(card));
    let known = WIRED_MODELS.iter().find(|(name, _)| model.contains(name));
    known.filter(|_| !is_card).map(|(_, lanes)| *lanes)
}

/// Speed of one NVLink, one direction, in 10⁶ bytes a second, where the driver does not tell.
/// By compute capability, from the published totals: 160, 300, 600, 900 and 1800 GB/s both ways
/// over 4, 6, 12, 18 and 18 links.
pub(crate) fn speed_mb_per_second(compute_capability: (i32, i32)) -> Option<u64> {
    match compute_capability {
        (6, 0) => Some(20_000),
        (7, 0) => Some(25_000),
        (8, 0) => Some(25_781),
        (9, 0) => Some(26_562),
        (10, 0 | 3) => Some(53_125),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::wired;

    #[test]
    fn modules_are_known_and_cards_are_counted() {
        let cases = [
            ("NVIDIA H100 80GB HBM3", Some(18)),
            ("NVIDIA H100 PCIe", None),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA H200", Some(18)),
            ("NVIDIA H800", Some(8)),
            ("NVIDIA A100-SXM4-80GB", Some(12)),
            ("NVIDIA A100 80GB PCIe", None),
            ("NVIDIA A100-PCIE-40GB", None),
            ("NVIDIA GB200", Some(18)),
            ("NVIDIA GH200 480GB", None),
            ("Tesla V100-SXM2-16GB", None),
            ("Tesla V100-SXM3-32GB", Some(6)),
            ("NVIDIA L40S", None),
        ];
        for (model, expected) in cases {
            assert_eq!(wired(model), expected, "{model}");
        }
    }
}
