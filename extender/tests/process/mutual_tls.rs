//! Over TLS: who shows no certificate of the right authority is not heard, and what
//! changes on the disk is used for the next connection.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::extender::Extender;

/// The files are looked at every second; the rest is for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let flags = [
        ("--tls-cert", "tls.crt"),
        ("--tls-key", "tls.key"),
        ("--client-ca", "ca.crt"),
    ];
    let args = flags.map(|(flag, name)| format!("{flag}={}", files.join(name).display()));
    Extender::start(files.parent().expect("it lies in a folder"), args)
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
    command.arg(format!("https://{}{path}", extender.address));
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
