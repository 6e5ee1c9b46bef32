//! The real binary over TLS: who shows no certificate of the right authority is not heard, and what
//! changes on the disk is used for the next connection.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The files are looked at every second; the rest is for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Extender(Child, String);

impl Drop for Extender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(folder: &Path, line: &str) {
    let made = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl is there");
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "openssl {line}: {why}");
}

/// An authority, and certificates of it for the server (`tls`) and for a caller (`client`).
fn make(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.crt"),
    );
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1")
        .expect("a file can be written");
    for name in ["tls", "client"] {
        openssl(
            folder,
            &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out {name}.crt"
            ),
        );
    }
}

fn start(files: &Path) -> Extender {
    let kubeconfig = files.with_file_name("kubeconfig");
    let nowhere = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]}"#;
    std::fs::write(&kubeconfig, nowhere).expect("a file can be written");
    let mut process = Command::new(env!("CARGO_BIN_EXE_berth-extender"))
        .args(["--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(kubeconfig)
        .arg("--tls-cert")
        .arg(files.join("tls.crt"))
        .arg("--tls-key")
        .arg(files.join("tls.key"))
        .arg("--client-ca")
        .arg(files.join("ca.crt"))
        .env("RUST_LOG", "info")
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    let mut log = BufReader::new(process.stderr.take().expect("it is piped")).lines();
    let line = log.find_map(|line| line.ok().filter(|line| line.contains("listening")));
    // What it says later must not fill the pipe.
    std::thread::spawn(move || log.for_each(drop));
    let line = line.expect("it listens");
    let (_, address) = line.rsplit_once("address=").expect("it says where");
    Extender(process, address.trim().to_owned())
}

/// What curl gets that trusts that folder's authority, and shows that folder's certificate.
fn curl(extender: &Extender, trusts: &Path, shows: Option<&Path>, path: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]);
    command.arg(trusts.join("ca.crt"));
    if let Some(folder) = shows {
        command.arg("--cert").arg(folder.join("client.crt"));
        command.arg("--key").arg(folder.join("client.key"));
    }
    command.arg(format!("https://{}{path}", extender.1));
    command.output().expect("curl is there")
}

#[test]
fn both_sides_show_a_certificate_and_new_ones_are_used_without_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| root.path().join(name));
    make(&old);
    make(&new);
    let mounted = root.path().join("mounted");
    symlink(&old, &mounted).unwrap();
    let extender = start(&mounted);

    let answer = curl(&extender, &old, Some(&old), "/healthz");
    assert_eq!(answer.stdout, b"ok", "{answer:?}");
    assert!(!curl(&extender, &old, None, "/healthz").status.success());
    assert!(
        !curl(&extender, &old, Some(&new), "/healthz")
            .status
            .success()
    );
    let metrics = curl(&extender, &old, Some(&old), "/metrics");
    let text = String::from_utf8_lossy(&metrics.stdout);
    assert!(
        text.contains("berth_extender_certificate_expiry_timestamp_seconds "),
        "{text}"
    );

    // As a kubelet swaps a Secret.
    symlink(&new, root.path().join("next")).unwrap();
    std::fs::rename(root.path().join("next"), &mounted).unwrap();
    let began = Instant::now();
    while curl(&extender, &new, Some(&new), "/healthz").stdout != b"ok" {
        assert!(began.elapsed() < PATIENCE, "the new files are not used");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        !curl(&extender, &new, Some(&old), "/healthz")
            .status
            .success()
    );
}
