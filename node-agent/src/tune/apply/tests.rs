//! Real files in a made-up tree: what is written, what is put back, what is never touched.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::super::args::HugePages;
use super::super::gpus::{Gpus, Setting};
use super::super::host;
use super::super::plan::{Wish, plan};
use super::*;

/// Two CPUs of one policy each, one NUMA node, one GPU with one interrupt.
struct Tree {
    folder: tempfile::TempDir,
    machine: Machine,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine {
            sys: folder.path().join("sys"),
            proc: folder.path().join("proc"),
            gpus: Gpus::none(),
        };
        let tree = Self { folder, machine };
        for cpu in 0..2 {
            let policy = format!("sys/devices/system/cpu/cpufreq/policy{cpu}");
            tree.put(&format!("{policy}/scaling_governor"), "powersave");
            let offered = "performance powersave";
            tree.put(&format!("{policy}/scaling_available_governors"), offered);
            // As the kernel has it.
            let cpufreq = tree.path(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq"));
            fs::create_dir_all(cpufreq.parent().unwrap()).unwrap();
            symlink(format!("../cpufreq/policy{cpu}"), cpufreq).unwrap();
        }
        tree.put("sys/devices/system/cpu/online", "0-3");
        tree.put("sys/devices/system/node/node0/cpulist", "0-1");
        tree.put(
            "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
            "0",
        );
        let gpu = "sys/bus/pci/devices/0000:1a:00.0";
        for (name, text) in [
            ("vendor", "0x10de"),
            ("class", "0x030200"),
            ("numa_node", "0"),
        ] {
            tree.put(&format!("{gpu}/{name}"), text);
        }
        tree.put(&format!("{gpu}/msi_irqs/40"), "msix");
        tree.put("proc/irq/40/smp_affinity_list", "0-3");
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Every file's text, by path.
    fn all(&self) -> BTreeMap<PathBuf, String> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let data = fs::symlink_metadata(&path).unwrap();
                if data.is_dir() {
                    walk(&path, found);
                } else if data.is_file() {
                    found.insert(path.clone(), fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.folder.path(), &mut found);
        found
    }

    fn plan(&self) -> Plan {
        let wish = Wish {
            governor: Some("performance".to_owned()),
            irq_affinity: true,
            huge_pages: vec![HugePages {
                node: 0,
                size_kb: 2048,
                count: 64,
            }],
            ..Wish::default()
        };
        plan(&host::read(&self.machine), &wish)
    }
}

/// The paths whose text differs, below the tree.
fn changed(tree: &Tree, before: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let after = tree.all();
    assert_eq!(before.len(), after.len(), "no file comes or goes");
    let differing = after.iter().filter(|(path, text)| before[*path] != **text);
    let below = |path: &PathBuf| path.strip_prefix(tree.folder.path()).unwrap().to_owned();
    differing
        .map(|(path, text)| format!("{}={}", below(path).display(), text.trim()))
        .collect()
}

const ALL_CHANGED: [&str; 4] = [
    "proc/irq/40/smp_affinity_list=0-1",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor=performance",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_governor=performance",
    "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages=64",
];

#[test]
fn what_was_planned_is_written_and_nothing_else_and_all_of_it_comes_back() {
    let tree = Tree::new();
    let before = tree.all();
    let plan = tree.plan();
    assert_eq!(changed(&tree, &before), [""; 0], "a plan writes nothing");
    let done = apply(&plan.changes, &tree.machine);
    assert_eq!(changed(&tree, &before), ALL_CHANGED);
    assert_eq!(tree.plan().changes, [], "there is nothing left to do");
    assert!(restore(&done, &tree.machine));
    assert_eq!(changed(&tree, &before), [""; 0]);
}

#[test]
fn what_somebody_else_changed_meanwhile_is_left() {
    let tree = Tree::new();
    let done = apply(&tree.plan().changes, &tree.machine);
    tree.put("proc/irq/40/smp_affinity_list", "1");
    let before = tree.all();
    assert!(restore(&done, &tree.machine));
    let back = changed(&tree, &before);
    assert!(!back.iter().any(|line| line.contains("irq")), "{back:?}");
    assert_eq!(back.len(), 3);
}

#[test]
fn after_a_kill_the_state_file_brings_the_first_values_back() {
    let tree = Tree::new();
    let before = tree.all();
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("tune.json");
    let changes = with_former_values(&tree.plan().changes, Some(&state), &tree.machine).unwrap();
    keep(&changes, &state).unwrap();
    apply(&changes, &tree.machine);
    // Killed here; the next one finds everything as it should be, and the file.
    let plan = tree.plan();
    assert_eq!(plan.changes, []);
    let changes = with_former_values(&plan.changes, Some(&state), &tree.machine).unwrap();
    let done = apply(&changes, &tree.machine);
    assert!(restore(&done, &tree.machine));
    assert_eq!(changed(&tree, &before), [""; 0]);
}

#[test]
fn a_broken_state_file_stops_before_anything_is_written() {
    let tree = Tree::new();
    let state = tempfile::NamedTempFile::new().unwrap();
    fs::write(state.path(), "[{\"target\":{\"file\":\"/etc/passwd\"}}]").unwrap();
    let error = with_former_values(&tree.plan().changes, Some(state.path()), &tree.machine);
    assert!(format!("{:#}", error.unwrap_err()).contains("holds no former values"));
}

#[test]
fn a_link_that_leads_out_of_the_mount_is_not_followed() {
    let tree = Tree::new();
    let victim = tree.path("victim");
    fs::write(&victim, "powersave\n").unwrap();
    let folder = tree.path("outside");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("scaling_governor"), "powersave\n").unwrap();
    let governor = tree.path("sys/devices/system/cpu/cpufreq/policy0/scaling_governor");
    fs::remove_file(&governor).unwrap();
    symlink(&victim, &governor).unwrap();
    let cpufreq = tree.path("sys/devices/system/cpu/cpu1/cpufreq");
    fs::remove_file(&cpufreq).unwrap();
    symlink(&folder, &cpufreq).unwrap();
    let before = tree.all();
    for cpu in 0..2 {
        let target = Target::Governor { cpu };
        let error = write::write(&tree.machine, &target, "performance").unwrap_err();
        assert!(error.to_string().contains("leads to"), "{error}");
    }
    assert_eq!(changed(&tree, &before), [""; 0]);
}

#[test]
fn values_of_another_form_and_files_that_are_not_there_are_refused() {
    let tree = Tree::new();
    let before = tree.all();
    let cpu = &Target::Governor { cpu: 0 };
    let irq = &Target::IrqAffinity { irq: 40 };
    let pages = &Target::HugePages {
        node: 0,
        size_kb: 2048,
    };
    let clocks = Target::Gpu {
        uuid: "GPU-0".into(),
        setting: Setting::ApplicationClocks,
    };
    for (target, value) in [
        (&clocks, "1530"),
        (&clocks, "877,max"),
        (cpu, ""),
        (cpu, "per\nformance"),
        (cpu, "a_name_that_is_too_long"),
        (irq, ""),
        (irq, "0-1\n2"),
        (irq, "99999999"),
        (pages, "-1"),
        (pages, "1 2"),
    ] {
        let error = write::write(&tree.machine, target, value).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{value:?}");
    }
    let missing = Target::IrqAffinity { irq: 41 };
    assert!(write::write(&tree.machine, &missing, "0").is_err());
    assert_eq!(changed(&tree, &before), [""; 0]);
}

#[test]
fn a_tree_of_nonsense_reads_as_little_and_plans_nothing() {
    let tree = Tree::new();
    for (name, text) in [
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            "\u{1b}[2J",
        ),
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_available_governors",
            "",
        ),
        ("sys/devices/system/cpu/online", "99999999-1"),
        ("sys/devices/system/node/node0/cpulist", "x"),
        ("sys/bus/pci/devices/0000:1a:00.0/numa_node", "-1"),
        ("sys/bus/pci/devices/0000:1a:00.0/config", "short"),
        ("sys/bus/pci/devices/0000:1a:00.0/msi_irqs/../../x", "1"),
        ("proc/irq/40/smp_affinity_list", "9-1"),
    ] {
        tree.put(name, text);
    }
    let before = tree.all();
    let plan = tree.plan();
    assert!(
        plan.changes
            .iter()
            .all(|change| change.target != Target::IrqAffinity { irq: 40 })
    );
    assert!(
        plan.changes
            .iter()
            .all(|change| change.target != Target::Governor { cpu: 0 })
    );
    assert_eq!(changed(&tree, &before), [""; 0]);
}
