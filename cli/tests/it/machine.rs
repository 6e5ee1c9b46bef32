//! `berth machine`.

use expect_test::expect;

use crate::program::{run, text, transcript};

#[test]
fn list_names_every_machine_that_scripts_know() {
    let output = run("machine list --json");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = list["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["name"].as_str().unwrap())
        .collect();
    for name in [
        "dgx1-v100",
        "dgx1-p100",
        "dgx2",
        "dgx-a100",
        "hgx-a100-4",
        "a100-pcie-01",
        "a100-pcie-02",
        "dgx-h100",
        "dgx-h200",
        "h100-nps4",
        "hgx-b200",
        "b200-6numa",
        "gb200-tray",
        "l40s-4",
        "pix-8",
        "aws-p4d",
        "aws-p5",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(list["schema"], "berth.dev/v1alpha1");
}

#[test]
fn list_is_a_table_without_colour_in_a_pipe() {
    let shown = transcript("machine list");
    let first: String = shown
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    expect![[r#"
        NAME           GPUS  NUMA  LINKS                  MODEL
        a100-pcie-01      8     2  nvlink,numa,any        NVIDIA A100 80GB PCIe
        a100-pcie-02      8     2  nvlink,numa,any        NVIDIA A100 80GB PCIe
    "#]]
    .assert_eq(&first);
    assert!(!shown.contains('\x1b'));
}

#[test]
fn show_draws_the_matrix() {
    let shown = transcript("machine show dgx1-v100");
    let matrix: String = shown
        .lines()
        .take(9)
        .map(|line| format!("{line}\n"))
        .collect();
    expect![[r#"
        	GPU0	GPU1	GPU2	GPU3	GPU4	GPU5	GPU6	GPU7	NIC0	NIC1	NIC2	NIC3	CPU Affinity	NUMA Affinity	GPU NUMA ID
        GPU0	 X 	NV1	NV1	NV2	NV2	SYS	SYS	SYS	PIX	PHB	SYS	SYS	0-19,40-59	0		N/A
        GPU1	NV1	 X 	NV2	NV1	SYS	NV2	SYS	SYS	PIX	PHB	SYS	SYS	0-19,40-59	0		N/A
        GPU2	NV1	NV2	 X 	NV2	SYS	SYS	NV1	SYS	PHB	PIX	SYS	SYS	0-19,40-59	0		N/A
        GPU3	NV2	NV1	NV2	 X 	SYS	SYS	SYS	NV1	PHB	PIX	SYS	SYS	0-19,40-59	0		N/A
        GPU4	NV2	SYS	SYS	SYS	 X 	NV1	NV1	NV2	SYS	SYS	PIX	PHB	20-39,60-79	1		N/A
        GPU5	SYS	NV2	SYS	SYS	NV1	 X 	NV2	NV1	SYS	SYS	PIX	PHB	20-39,60-79	1		N/A
        GPU6	SYS	SYS	NV1	SYS	NV1	NV2	 X 	NV2	SYS	SYS	PHB	PIX	20-39,60-79	1		N/A
        GPU7	SYS	SYS	SYS	NV1	NV2	NV1	NV2	 X 	SYS	SYS	PHB	PIX	20-39,60-79	1		N/A
    "#]].assert_eq(&matrix);
    assert!(shown.ends_with("= 0\n"));
}

#[test]
fn show_as_json_can_be_shown_again() {
    let json = run("machine show l40s-4 --json").stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &json).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        text(&run(&format!("machine show {path} --json")).stdout),
        text(&json)
    );
    assert_eq!(
        run(&format!("machine show {path}")).stdout,
        run("machine show l40s-4").stdout
    );
}

#[test]
fn unknown_machine_is_wrong_usage_and_names_the_known_ones() {
    let shown = transcript("machine show dgx9");
    assert!(
        shown.starts_with(
            "! berth: \"dgx9\" is neither a recorded machine nor a file; recorded: a100-pcie-01, "
        ),
        "{shown}"
    );
    assert!(shown.ends_with("= 2\n"));
}

#[test]
fn what_is_no_topology_is_an_error_that_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    for (content, sentence) in [("{", "reading the NodeTopology"), ("{}", "has no status")] {
        std::fs::write(file.path(), content).unwrap();
        let shown = transcript(&format!("machine show {path}"));
        assert!(shown.contains(sentence), "{shown}");
        assert!(shown.ends_with("= 1\n"));
    }
}

#[test]
fn missing_agent_is_an_error_that_says_what_to_do() {
    let shown = transcript("machine show - --agent /nonexistent/agent");
    expect![[r#"
        ! berth: berth-node-agent: there is no file /nonexistent/agent
        = 1
    "#]]
    .assert_eq(&shown);
}
