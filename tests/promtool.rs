//! A page of metrics against the real promtool, and against docs/metrics.md: for every program that has one.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Name, type and labels of every metric of a page, as the text for Prometheus tells them.
pub(crate) fn exported(page: &str) -> BTreeSet<String> {
    let of_type = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let is_sample = |line: &&str| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            line[..end].trim_end_matches("_bucket") == name
        };
        let mut samples = page.lines().filter(|line| !line.starts_with('#'));
        let sample = samples.find(is_sample).expect("each has a sample");
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest);
        let labels = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<_> = labels.filter(|label| *label != "le").collect();
        Some(format!("{name} {kind} {}", labels.join(",")))
    };
    page.lines().filter_map(of_type).collect()
}

/// The same as docs/metrics.md lists it, of the metrics whose names begin so.
pub(crate) fn listed(prefix: &str) -> BTreeSet<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("the page about metrics");
    let cells = |line: &str| -> Option<String> {
        let cells: Vec<_> = line
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        cells.get(1)?.starts_with(prefix).then(|| {
            let labels = cells[3].replace(' ', "");
            format!("{} {} {labels}", cells[1], cells[2])
        })
    };
    page.lines().filter_map(cells).collect()
}

/// `promtool` of the PATH, or the one that `./x test` unpacks.
fn promtool() -> Option<PathBuf> {
    let given = std::env::var_os("BERTH_PROMTOOL").map(PathBuf::from);
    let of_path = std::env::var_os("PATH").into_iter();
    let of_path = of_path.flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut all = given
        .into_iter()
        .chain(of_path.map(|folder| folder.join("promtool")));
    all.find(|path| path.is_file())
}

/// Fails where promtool finds a fault, and with CI=true where it is not there; elsewhere it is a skip.
pub(crate) fn check(page: &str) {
    let said = complaints(page).unwrap_or_default();
    assert!(said.trim().is_empty(), "{said}");
}

/// What promtool says of a page, nothing if it finds no fault; none where it is not there, which with CI=true
/// is a failure.
pub(crate) fn complaints(page: &str) -> Option<String> {
    let Some(promtool) = promtool() else {
        assert!(
            !std::env::var("CI").is_ok_and(|value| value == "true"),
            "with CI=true promtool must be there, or BERTH_PROMTOOL name it"
        );
        println!("SKIP promtool_finds_no_fault software: ./x test fetches promtool");
        return None;
    };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = check.stdin.take().expect("its stdin is piped");
    stdin
        .write_all(page.as_bytes())
        .expect("promtool reads to the end");
    drop(stdin);
    let output = check.wait_with_output().expect("promtool ends");
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && said.trim().is_empty() {
        said = format!("it ended with {}", output.status);
    }
    Some(said)
}
