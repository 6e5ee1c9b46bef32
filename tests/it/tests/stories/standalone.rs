//! The extender apart from its scheduler, over TLS in which both sides show a certificate.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use berth_it::agent::Agent;
use berth_it::certificates;
use berth_it::cluster::{Cluster, SCHEDULER_ACCOUNT, container_args, pod_template};
use berth_it::manifests;
use berth_it::pair::scheduler;
use berth_it::patches::{
    STANDALONE, SchedulerPlace, of_scheduler, of_standalone, over_tls, short_lease,
};
use berth_it::pods::{self, bound, create, gpu_pod, indices, refused};
use berth_it::ports::free_port;
use berth_it::process::{OnExit, Process, Program};
use berth_it::programs;
use berth_it::story::story;
use berth_it::wait::PATIENCE;
use berth_test_machine::raw as recorded;

/// The account of an extender that stands alone.
const ACCOUNT: &str = "berth-extender";

#[test]
fn a_scheduler_binds_through_it_if_it_shows_a_certificate_and_not_otherwise() -> Result<()> {
    story(async |stage| {
        let cluster = Cluster::start(stage).await?;
        let client = cluster.admin();
        manifests::apply_files(client, &[STANDALONE], &[]).await?;
        let _agent = Agent::start(&cluster, "dgx1", &recorded("dgx1-v100")).await?;
        let tls = stage.sub_folder("tls")?;
        certificates::make(&tls, &["tls", "client"])?;
        let port = free_port()?;
        let _extender = extender(&cluster, port, &tls).await?;
        let file = |name: &str| tls.join(name).display().to_string();
        let trusts = format!("caFile: '{}'", file("ca.crt"));
        let shows = format!(
            "certFile: '{}', keyFile: '{}'",
            file("client.crt"),
            file("client.key")
        );

        let remote = Remote {
            cluster: &cluster,
            port,
        };
        let without = remote.start("without", &format!("{{{trusts}}}")).await?;
        create(client, &gpu_pod("waiting", 4, &[])).await?;
        refused(client, "waiting", &["certificate required"], PATIENCE).await?;
        let pod = pods::api(client).get("waiting").await?;
        ensure!(pods::node(&pod).is_empty(), "it was bound all the same");
        drop(without);

        let _with = remote
            .start("with", &format!("{{{trusts}, {shows}}}"))
            .await?;
        let (_, assignment) = bound(client, "waiting", PATIENCE).await?;
        let got = indices(&assignment);
        ensure!(got == [0, 1, 2, 3], "it got {got:?}");
        Ok(())
    })
}

/// The shipped extender with the files of its Secret.
async fn extender(cluster: &Cluster, port: u16, tls: &Path) -> Result<Process> {
    let kubeconfig = cluster.kubeconfig_of("extender", ACCOUNT, None).await?;
    let objects = manifests::read(STANDALONE, &of_standalone(port, tls))?;
    let template = pod_template(&objects, "Deployment")?;
    let program = Program::new("extender", &programs::ours("berth-extender")?)
        .args(container_args(&template, "extender", &[])?)
        .env("KUBECONFIG", &kubeconfig.to_string_lossy())
        .env("RUST_LOG", "info");
    Process::start(program, OnExit::StartAgain, &cluster.folder)
}

/// Where schedulers find the extender.
#[derive(Clone, Copy)]
struct Remote<'a> {
    cluster: &'a Cluster,
    port: u16,
}

// === impl Remote ===

impl Remote<'_> {
    /// A kube-scheduler that is told of certificates in that way.
    async fn start(self, name: &str, tls: &str) -> Result<Process> {
        let folder = &self.cluster.folder;
        let account = self.cluster.kubeconfig_of(name, SCHEDULER_ACCOUNT, None);
        let kubeconfig = account.await?;
        let config: PathBuf = folder.join(format!("{name}-scheduler.yaml"));
        let mut patches = of_scheduler(&SchedulerPlace {
            extender_url: &format!("https://127.0.0.1:{}", self.port),
            port: free_port()?,
            kubeconfig: &kubeconfig,
            config: &config,
        });
        patches.extend([over_tls(tls), short_lease()]);
        let program = scheduler(name, &config, &patches)?;
        Process::start(program, OnExit::StartAgain, folder)
    }
}
