//! The older Prometheus text format, for scrapers that do not ask for `OpenMetrics`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The same series as `openmetrics`, which this process has encoded. There, a counter's samples end
/// in `_total` and its name does not; in the older format both do, or the samples have no type.
pub(super) fn plain(openmetrics: &str) -> String {
    let counters: BTreeSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| is_known(line)) {
        let written = match described(line) {
            Some((keyword, name, rest)) if counters.contains(name) => {
                writeln!(text, "# {keyword} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
        written.expect("writing to a string works");
    }
    text
}

/// Units and the end mark are new in `OpenMetrics`.
fn is_known(line: &str) -> bool {
    !line.starts_with("# UNIT ") && line != "# EOF"
}

/// Keyword, name and the rest of a HELP or TYPE line.
fn described(line: &str) -> Option<(&str, &str, &str)> {
    let (keyword, line) = line.strip_prefix("# ")?.split_once(' ')?;
    let (name, rest) = line.split_once(' ')?;
    Some((keyword, name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let openmetrics = "# HELP a:b Things.\n# TYPE a:b counter\n# UNIT a:b things\n\
                           a:b_total{x=\"# TYPE y counter\"} 1\n\
                           # HELP a:b_now Now.\n# TYPE a:b_now gauge\na:b_now 2\n# EOF\n";
        let expected = "# HELP a:b_total Things.\n# TYPE a:b_total counter\n\
                        a:b_total{x=\"# TYPE y counter\"} 1\n\
                        # HELP a:b_now Now.\n# TYPE a:b_now gauge\na:b_now 2\n";
        assert_eq!(plain(openmetrics), expected);
    }
}
