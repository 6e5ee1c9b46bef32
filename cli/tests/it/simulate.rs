//! `berth simulate`: whole stories on recorded machines.

use expect_test::expect_file;

use crate::program::{run, text, transcript};

/// Every script beside its transcript; all of their expectations hold.
#[test]
fn scripts_tell_what_they_told_before() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut scripts: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "{scripts:?}");
    for script in scripts {
        let told = transcript(&format!("simulate {}", script.display()));
        let told = told.replace(&format!("{folder}/"), "");
        expect_file![script.with_extension("out")].assert_eq(&told);
        assert!(told.ends_with("= 0\n"), "{}", script.display());
    }
}

fn transcript_of(script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    std::fs::write(&path, script).unwrap();
    let told = transcript(&format!("simulate {}", path.display()));
    told.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn an_expectation_that_does_not_hold_is_a_no() {
    let script =
        "node a l40s-4\npod p gpus=2\nbind p\nexpect p bound gpus 2,3\nexpect p refused Stale";
    let told = transcript_of(script);
    let lines: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with(['!', '=']))
        .collect();
    assert_eq!(
        lines,
        [
            "! script: line 4: p is bound to a, GPUs [0, 1]",
            "! script: line 5: p is bound to a",
            "= 3"
        ]
    );
}

#[test]
fn a_script_that_cannot_be_played_names_the_line() {
    let told = transcript_of("node a dgx-9000");
    assert!(
        told.starts_with("! berth: script: line 1: \"dgx-9000\" is no recorded machine"),
        "{told}"
    );
    assert!(told.ends_with("= 2\n"));
    let told = transcript_of("bind p");
    assert_eq!(told, "! berth: script: line 1: there is no pod p\n= 2\n");
    let told = transcript_of("node a dgx2\n\nnode a dgx2");
    assert_eq!(
        told,
        "! berth: script: line 3: there is a node a already\n= 2\n"
    );
}

#[test]
fn as_json_each_event_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    std::fs::write(&path, "node a l40s-4\npod p gpus=2 count=2\nbind p\nshow").unwrap();
    let output = run(&format!("simulate --json {}", path.display()));
    let lines: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[0]["event"], &lines[0]["gpus"]),
        (&"bound".into(), &serde_json::json!([0, 1]))
    );
    assert_eq!(lines[2]["nodes"][0]["gpus"][3], "p-1");
}
