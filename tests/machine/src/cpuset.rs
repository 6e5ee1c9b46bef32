//! hwloc's text form of a set: 32-bit words in hexadecimal, the highest first.

use berth_topology::cpus::CpuList;

/// `0x00000001,0x0000ffff` for 0-15,32; `0x0` for the empty set.
pub(crate) fn text(set: &CpuList) -> String {
    let Some(last) = set.iter().last() else {
        return "0x0".to_owned();
    };
    let word = |number: u32| {
        let bits = (0..32).filter(|bit| set.contains(number * 32 + bit));
        bits.fold(0_u32, |word, bit| word | 1 << bit)
    };
    let words: Vec<String> = (0..=last / 32)
        .rev()
        .map(|number| format!("0x{:08x}", word(number)))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &str, expected: &str) {
        assert_eq!(text(&list.parse().unwrap()), expected);
    }

    #[test]
    fn sets_are_written_as_hwloc_reads_them() {
        check("", "0x0");
        check("0-15", "0x0000ffff");
        check("0-15,32", "0x00000001,0x0000ffff");
        check("64-95", "0xffffffff,0x00000000,0x00000000");
    }
}
