//! A kubelet that serves TLS with real certificates, and what it gets to see.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::*;

const NODE: &str = "gpu-7";
const TOKEN: &str = "token-of-the-agent";
const CONFIGZ: &str =
    r#"{"kubeletconfig": {"topologyManagerPolicy": "restricted", "port": 10250}}"#;

/// Certificates, a kubeconfig, and a kubelet that answers one caller.
struct Scene {
    folder: tempfile::TempDir,
    kubelet: Kubelet,
    /// What its caller said, once, unless there was no handshake.
    heard: Receiver<String>,
}

// === impl Scene ===

impl Scene {
    /// The kubelet shows a certificate of `ca` for `name` (`IP:127.0.0.1`), and answers this. The agent
    /// trusts the authority `ca`.
    fn new(name: &str, status: &str, body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for ca in ["ca", "other"] {
            authority(folder.path(), ca);
        }
        sign(folder.path(), name);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let (told, heard) = sync_channel(8);
        let tls = Arc::new(tls(folder.path()));
        thread::spawn(move || {
            for stream in server.incoming() {
                let connection = ServerConnection::new(tls.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                let mut request = [0; 4096];
                // a caller that does not like the certificate hangs up
                let Ok(read) = stream.read(&mut request) else {
                    continue;
                };
                let _ = told.send(String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let kubeconfig = folder.path().join("kubeconfig");
        write_kubeconfig(&kubeconfig, &json!({"certificate-authority": "ca.crt"}));
        let kubelet = Kubelet {
            address,
            node: NodeName(NODE.to_owned()),
            ca: None,
            kubeconfig: Some(kubeconfig),
        };
        Self {
            folder,
            kubelet,
            heard,
        }
    }

    fn ask(&self) -> Answer<RawKubelet> {
        // fails where another test has installed one
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.kubelet.told())
    }

    #[track_caller]
    fn is_refused(&self, sentence: &str) {
        let answer = self.ask();
        let why = answer.error().expect("it is no answer");
        assert!(why.contains(sentence), "{why}");
    }
}

/// A cluster that nobody calls.
fn write_kubeconfig(path: &Path, trust: &Value) {
    let mut cluster = trust.clone();
    cluster["server"] = json!("https://127.0.0.1:1");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": cluster}],
        "users": [{"name": "a", "user": {"token": TOKEN}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    fs::write(path, config.to_string()).unwrap();
}

#[track_caller]
fn openssl(folder: &Path, line: &str) {
    let made = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "openssl {line}: {why}");
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

fn authority(folder: &Path, name: &str) {
    let files = format!("-keyout {name}.key -out {name}.crt");
    openssl(folder, &format!("req -x509 {KEY} -subj /CN={name} {files}"));
}

fn sign(folder: &Path, name: &str) {
    fs::write(folder.join("names"), format!("subjectAltName={name}")).unwrap();
    let files = "-keyout kubelet.key -out kubelet.csr";
    openssl(folder, &format!("req {KEY} -subj /CN=kubelet {files}"));
    let by = "-CA ca.crt -CAkey ca.key -CAcreateserial -extfile names";
    openssl(
        folder,
        &format!("x509 -req -in kubelet.csr {by} -out kubelet.crt"),
    );
}

fn tls(folder: &Path) -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(folder.join("kubelet.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("kubelet.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

#[test]
fn a_kubelet_whose_certificate_is_for_its_address_or_its_node_tells_its_policies() {
    for name in ["IP:127.0.0.1", "DNS:gpu-7"] {
        let scene = Scene::new(name, "200 OK", CONFIGZ);
        let answer = scene.ask();
        let config = answer.value().unwrap_or_else(|| panic!("{answer:?}"));
        assert_eq!(
            config.topology_manager_policy.as_deref(),
            Some("restricted")
        );
        let heard = scene.heard.recv().unwrap();
        assert!(heard.starts_with("GET /configz HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains(TOKEN), "{heard}");
    }
}

#[test]
fn nobody_else_is_shown_the_token() {
    let sentence = "the kubelet's certificate is not trusted, and it was shown no token";
    let other_name = Scene::new("DNS:gpu-8", "200 OK", CONFIGZ);
    other_name.is_refused(sentence);
    let mut other_ca = Scene::new("IP:127.0.0.1", "200 OK", CONFIGZ);
    other_ca.kubelet.ca = Some(other_ca.folder.path().join("other.crt"));
    other_ca.is_refused(sentence);
    for scene in [other_name, other_ca] {
        assert!(scene.heard.try_recv().is_err());
    }
}

/// Such a kubeconfig says so of the API server.
#[test]
fn without_a_ca_it_is_not_asked_even_if_the_kubeconfig_trusts_everybody() {
    let scene = Scene::new("IP:127.0.0.1", "200 OK", CONFIGZ);
    let kubeconfig = scene.folder.path().join("kubeconfig");
    write_kubeconfig(&kubeconfig, &json!({"insecure-skip-tls-verify": true}));
    scene.is_refused("no CA vouches for the kubelet, so it is not asked: give --kubelet-ca");
    assert!(scene.heard.try_recv().is_err());
    write_kubeconfig(
        &kubeconfig,
        &json!({"insecure-skip-tls-verify": true, "certificate-authority": "other.crt"}),
    );
    scene.is_refused("it was shown no token");
    assert!(scene.heard.try_recv().is_err());
}

#[test]
fn a_kubelet_that_refuses_or_says_something_else_is_unknown_with_a_sentence() {
    let long = " ".repeat(2 << 20) + CONFIGZ;
    for (status, body, sentence) in [
        (
            "401 Unauthorized",
            "",
            "does not take the account's token (401)",
        ),
        (
            "403 Forbidden",
            "",
            "apply daemonset/optional/kubelet-configz.yaml",
        ),
        ("404 Not Found", "", "the kubelet answers 404 Not Found"),
        (
            "302 Found\r\nlocation: https://127.0.0.1:1/",
            "",
            "the kubelet answers 302",
        ),
        (
            "200 OK",
            "{}",
            "what the kubelet answers is no configuration",
        ),
        ("200 OK", long.as_str(), "is longer than 1048576 bytes"),
    ] {
        Scene::new("IP:127.0.0.1", status, body).is_refused(sentence);
    }
}

#[test]
fn a_ca_that_cannot_be_read_is_named() {
    let mut scene = Scene::new("IP:127.0.0.1", "200 OK", CONFIGZ);
    scene.kubelet.ca = Some("/nonexistent/ca.crt".into());
    scene.is_refused("cannot read the kubelet's CA /nonexistent/ca.crt: No such file");
    let broken = scene.folder.path().join("broken.crt");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\n?").unwrap();
    scene.kubelet.ca = Some(broken);
    scene.is_refused("broken.crt is no certificate in PEM");
    scene.kubelet.ca = Some(scene.folder.path().join("ca.key"));
    scene.is_refused("no CA vouches for the kubelet");
}

#[test]
fn a_kubelet_that_does_not_answer_is_unknown() {
    let mut scene = Scene::new("IP:127.0.0.1", "200 OK", CONFIGZ);
    // bound and gone: nobody listens there
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.kubelet.address = gone.local_addr().unwrap();
    drop(gone);
    scene.is_refused("cannot ask the kubelet");
}

#[test]
fn it_is_asked_seldom_and_after_failures_sooner_at_first() {
    assert_eq!(wait_after(0), ASK_EVERY);
    assert_eq!(wait_after(1), AGAIN_AFTER);
    assert_eq!(wait_after(2), 2 * AGAIN_AFTER);
    for failures in [8, 40, u32::MAX] {
        assert_eq!(wait_after(failures), ASK_EVERY);
    }
}

#[test]
fn only_news_has_the_machine_looked_at() {
    let (sender, mut told) = watch::channel(Answer::failed("late"));
    told.mark_unchanged();
    tell(&sender, Answer::failed("late"));
    assert!(!told.has_changed().unwrap());
    tell(&sender, Answer::Value(RawKubelet::default()));
    assert!(told.has_changed().unwrap());
}
