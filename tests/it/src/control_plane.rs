//! etcd and kube-apiserver, on ports and in a folder of their own, with the Node and RBAC authorisers on.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context as _, Result, ensure};
use kube::Client;

use crate::accounts;
use crate::certificates::openssl;
use crate::ports::free_port;
use crate::process::{OnExit, Process, Program};
use crate::programs;
use crate::story::Stage;
use crate::wait::{PATIENCE, eventually};

/// A token of the group that may do everything: the hand that plays administrator and kubelet.
const ADMIN_TOKEN: &str = "administrator-of-the-story";

/// The node that a real kubelet may join as, and its token.
pub const REAL_NODE: &str = "real";
/// See [`REAL_NODE`].
pub const KUBELET_TOKEN: &str = "kubelet-of-the-story";

/// Drops in this order: the API server before the etcd that it writes to.
pub struct ControlPlane {
    api_server: Option<Process>,
    api_program: Program,
    _etcd: Process,
    folder: PathBuf,
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// May do everything.
    pub admin: Client,
}

// === impl ControlPlane ===

/// By hand, because a client has no `Debug`.
impl fmt::Debug for ControlPlane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ControlPlane")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// When a program is missing or does not become ready in time.
    pub async fn start(stage: &Stage) -> Result<Self> {
        let binaries = programs::control_plane()?;
        let folder = stage.folder().to_owned();
        let pki = stage.sub_folder("pki")?;
        make_service_account_key(&pki)?;
        fs::write(pki.join("tokens.csv"), tokens()).context("writing the first tokens")?;

        let etcd_port = free_port()?;
        let etcd = etcd(
            &binaries.join("etcd"),
            &stage.sub_folder("etcd")?,
            etcd_port,
        )?;
        let etcd = Process::start(etcd, OnExit::Stay, &folder)?;
        let port = free_port()?;
        let api_program = api_server(&binaries.join("kube-apiserver"), &pki, etcd_port, port);
        let api_server = Some(Process::start(api_program.clone(), OnExit::Stay, &folder)?);
        let url = format!("https://127.0.0.1:{port}");
        let admin = admin_client(&folder, &url).await?;
        let plane = Self {
            api_server,
            api_program,
            _etcd: etcd,
            folder,
            url,
            admin,
        };
        plane.wait_until_ready().await?;
        Ok(plane)
    }

    /// A kubeconfig file for whoever holds the token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        accounts::write_kubeconfig(&self.folder, name, &self.url, token)
    }

    /// `kill -9` of the API server; etcd keeps its data.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// The same API server again, on the same port and data.
    ///
    /// # Errors
    /// When it does not become ready in time.
    pub async fn start_api_server(&mut self) -> Result<()> {
        let program = self.api_program.clone();
        self.api_server = Some(Process::start(program, OnExit::Stay, &self.folder)?);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        eventually("the API server to be ready", PATIENCE, async || {
            let api_server = self.api_server.as_ref().context("it is not started")?;
            ensure!(
                api_server.last_exit().is_none(),
                "it ended: {:?}",
                api_server.last_exit()
            );
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = self.admin.request_text(request).await?;
            ensure!(answer == "ok", "it answered {answer}");
            Ok(())
        })
        .await
    }
}

fn etcd(binary: &Path, data: &Path, port: u16) -> Result<Program> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port()?);
    Ok(Program::new("etcd", binary).args([
        // The data dies with the story.
        "--unsafe-no-fsync".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
    ]))
}

fn api_server(binary: &Path, pki: &Path, etcd_port: u16, port: u16) -> Program {
    let pki = pki.display();
    Program::new("kube-apiserver", binary).args([
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={pki}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={pki}/sa.key"),
        format!("--service-account-signing-key-file={pki}/sa.key"),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--token-auth-file={pki}/tokens.csv"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--allow-privileged=true".to_owned(),
    ])
}

/// Those who are there before any account is: TOKEN,user,uid,"group".
fn tokens() -> String {
    format!(
        "{ADMIN_TOKEN},admin,admin,\"system:masters\"\n\
         {KUBELET_TOKEN},system:node:{REAL_NODE},{REAL_NODE},\"system:nodes\"\n"
    )
}

fn make_service_account_key(pki: &Path) -> Result<()> {
    openssl(pki, "ecparam -name prime256v1 -genkey -noout -out sa.key")
}

/// The API server makes its certificate when it starts first, so there is nothing to trust before.
async fn admin_client(folder: &Path, url: &str) -> Result<Client> {
    let certificate = folder.join("pki/apiserver.crt");
    eventually("the API server's certificate", PATIENCE, async || {
        let text = fs::read_to_string(&certificate)?;
        ensure!(
            text.trim_end().ends_with("-----END CERTIFICATE-----"),
            "it is not whole yet"
        );
        Ok(())
    })
    .await?;
    accounts::client(&accounts::write_kubeconfig(
        folder,
        "admin",
        url,
        ADMIN_TOKEN,
    )?)
    .await
}
