//! The page about metrics, and the formats against the real promtool.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_placement::Inexact;
use berth_topology::link::LinkClass;

use super::*;

/// Every metric with at least one sample.
fn used() -> Metrics {
    let metrics = Metrics::default();
    metrics.request("filter", Duration::from_millis(1));
    metrics.refused("NotEnoughFree", 2);
    metrics.bad_request("filter");
    metrics.bound("bound");
    metrics.conflict();
    metrics.placed(Placed {
        link: Some(LinkClass::NvLink),
        score: 6,
        inexact: Some(Inexact::PluginNotOurs),
    });
    metrics.waited(Duration::from_micros(2));
    metrics.poked("poked");
    metrics.watch_failed("pods");
    metrics
}

fn text(format: Format) -> String {
    let gauges = Gauges {
        ages: vec![("pods", Duration::from_millis(1_500))],
        mismatches: 1,
        ..Gauges::default()
    };
    used().text(&gauges, true, format)
}

#[test]
fn both_formats_have_the_same_samples() {
    let samples = |format| -> BTreeSet<String> {
        let text = text(format);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let open = samples(Format::OpenMetrics);
    assert_eq!(open, samples(Format::Prometheus));
    assert!(open.contains(r#"berth_extender_placements_total{link="nvlink",exact="false"} 1"#));
    assert!(open.contains(r#"berth_extender_set_quality_ratio_bucket{le="0.6"} 1"#));
    assert!(open.contains(r#"berth_extender_snapshot_age_seconds{kind="pods"} 1.5"#));
    assert!(text(Format::OpenMetrics).ends_with("# EOF\n"));
    assert!(!text(Format::Prometheus).contains("# EOF"));
}

#[test]
fn open_metrics_is_written_only_to_who_asks_for_it() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
    assert_eq!(Format::of_accept(Some(prometheus)), Format::OpenMetrics);
    assert_eq!(Format::of_accept(Some("text/plain")), Format::Prometheus);
    assert_eq!(Format::of_accept(None), Format::Prometheus);
}

/// Name, type and labels of every metric, as the text for Prometheus tells them.
fn exported() -> BTreeSet<String> {
    let text = text(Format::Prometheus);
    let of_type = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let is_sample = |line: &&str| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            line[..end].trim_end_matches("_bucket") == name
        };
        let sample = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find(is_sample)?;
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest);
        let labels = labels
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<_> = labels.filter(|label| *label != "le").collect();
        Some(format!("{name} {kind} {}", labels.join(",")))
    };
    text.lines().filter_map(of_type).collect()
}

#[test]
fn the_page_about_metrics_lists_exactly_what_is_exported() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = |line: &str| -> Option<String> {
        let cells: Vec<_> = line
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        cells.get(1)?.starts_with("berth_extender_").then(|| {
            let labels = cells[3].replace(' ', "");
            format!("{} {} {labels}", cells[1], cells[2])
        })
    };
    let listed: BTreeSet<String> = page.lines().filter_map(cells).collect();
    assert_eq!(listed, exported());
}

/// `promtool` of the PATH, or the one that `./x test` unpacks.
fn promtool() -> Option<PathBuf> {
    let given = std::env::var_os("BERTH_PROMTOOL").map(PathBuf::from);
    let of_path = std::env::var_os("PATH").into_iter();
    let of_path = of_path.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut all = given
        .into_iter()
        .chain(of_path.map(|folder| folder.join("promtool")));
    all.find(|path| Path::new(path).is_file())
}

#[test]
fn promtool_finds_no_fault_with_names_and_format() {
    let Some(promtool) = promtool() else {
        assert!(
            !std::env::var("CI").is_ok_and(|value| value == "true"),
            "with CI=true promtool must be there, or BERTH_PROMTOOL name it"
        );
        println!("SKIP promtool_finds_no_fault software: ./x test fetches promtool");
        return;
    };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = text(Format::Prometheus);
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
