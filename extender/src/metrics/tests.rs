//! The page about metrics, and the formats against the real promtool.

use std::collections::BTreeSet;

use berth_placement::Inexact;
use berth_topology::link::LinkClass;

use super::*;

#[path = "../../../tests/promtool.rs"]
mod promtool;

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

#[test]
fn the_page_about_metrics_lists_exactly_what_is_exported() {
    let exported = promtool::exported(&text(Format::Prometheus));
    assert_eq!(promtool::listed("berth_extender_"), exported);
}

#[test]
fn promtool_finds_no_fault_with_names_and_format() {
    promtool::check(&text(Format::Prometheus));
}
