//! Real certificates, made by openssl, and what becomes of them on the disk.

use std::process::{Command, Stdio};

use super::*;

fn files(folder: &Path) -> Files {
    Files {
        cert: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        client_ca: Some(folder.join("ca.crt")),
    }
}

/// A certificate that signs itself, its key, and itself as authority, valid for so many days.
fn make(folder: &Path, days: u32) {
    std::fs::create_dir_all(folder).unwrap();
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args([
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=test",
        ])
        .args(["-days", &days.to_string(), "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "openssl makes a certificate");
    std::fs::copy(cert, folder.join("ca.crt")).unwrap();
}

fn days_left(identity: &Identity) -> i64 {
    let now = jiff::Timestamp::now().as_second();
    (identity.expires_at_seconds().unwrap() - now + 3_600) / 86_400
}

#[test]
fn a_file_that_is_missing_or_holds_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Identity::load(files(folder.path())).unwrap_err();
    assert!(missing.to_string().starts_with("opening "), "{missing}");
    make(folder.path(), 1);
    std::fs::write(folder.path().join("ca.crt"), "").unwrap();
    let empty = Identity::load(files(folder.path())).unwrap_err();
    assert!(
        empty
            .to_string()
            .starts_with("reading the client authorities"),
        "{empty}"
    );
}

#[test]
fn what_changes_on_the_disk_is_used_and_what_is_broken_is_not() {
    let root = tempfile::tempdir().unwrap();
    let [first, second, mixed] = ["first", "second", "mixed"].map(|name| root.path().join(name));
    make(&first, 2);
    make(&second, 30);
    make(&mixed, 90);
    std::fs::copy(second.join("tls.key"), mixed.join("tls.key")).unwrap();

    // As a kubelet does: what is mounted is a link that is exchanged at once.
    let mounted = root.path().join("mounted");
    let point_to = |folder: &Path| {
        let link = root.path().join("next");
        std::os::unix::fs::symlink(folder, &link).unwrap();
        std::fs::rename(link, &mounted).unwrap();
    };
    point_to(&first);
    let identity = Identity::load(files(&mounted)).unwrap();
    assert_eq!(
        (days_left(&identity), identity.reload().unwrap()),
        (2, false)
    );
    point_to(&mixed);
    assert!(identity.reload().is_err(), "the key is another's");
    assert!(!identity.reload().unwrap(), "said once");
    assert_eq!(days_left(&identity), 2, "the old stays");
    point_to(&second);
    assert!(identity.reload().unwrap());
    assert_eq!(days_left(&identity), 30);
}

#[test]
fn what_is_no_certificate_has_no_expiry() {
    for bytes in [
        &b""[..],
        &[0x30],
        &[0x30, 0x84, 255, 255, 255, 255],
        &[0x30, 0x00],
    ] {
        assert_eq!(expiry::of(bytes), None);
    }
}
