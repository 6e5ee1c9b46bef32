//! Keys and certificates for a story, by openssl.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs openssl with the words of `line`, in that folder.
///
/// # Errors
/// When it fails; with what it says.
pub fn openssl(folder: &Path, line: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .context("running openssl")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl {line}: {why}");
    Ok(())
}

/// An authority (`ca.crt`), and a certificate of it for each name (`NAME.crt`, `NAME.key`), good for
/// 127.0.0.1.
///
/// # Errors
/// When openssl fails.
pub fn make(folder: &Path, names: &[&str]) -> Result<()> {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.crt"),
    )?;
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").context("naming hosts")?;
    for name in names {
        openssl(
            folder,
            &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        )?;
        let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -extfile names";
        openssl(
            folder,
            &format!("x509 -req -in {name}.csr {sign} -out {name}.crt"),
        )?;
    }
    Ok(())
}
