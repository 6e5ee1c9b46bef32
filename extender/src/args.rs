//! The command line, checked once.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_topology::{lease, names};
use clap::Parser;

use crate::leadership::LeaderLease;
use crate::tls;
use berth_extender_core::decide::Preference;
use berth_extender_core::group::DEFAULT_RACK_LABEL;

/// Answers kube-scheduler: which nodes fit a pod, how well, and at bind which exact GPUs.
#[derive(Clone, Debug, Parser)]
#[command(name = "berth-extender", version)]
pub struct Args {
    /// Address to serve on. Anything but loopback wants --tls-cert, --tls-key and --client-ca.
    #[arg(long, env = "BERTH_LISTEN", default_value = "127.0.0.1:8888")]
    pub listen: String,
    /// The extended resource that GPUs are asked by.
    #[arg(long, env = "BERTH_RESOURCE", default_value = names::DEFAULT_RESOURCE)]
    pub resource: String,
    /// A node whose agent was not seen to renew its Lease for so long is refused: `60s`, `1500ms`, `2m`.
    #[arg(long, env = "BERTH_STALE_AFTER", value_parser = duration, default_value_t = DEFAULT_STALE_AFTER)]
    pub stale_after: Span,
    /// Answer only while the holder of this Lease of kube-scheduler's is us: NAMESPACE/NAME.
    /// Without it, always.
    #[arg(long, env = "BERTH_LEADER_LEASE", value_parser = leader_lease)]
    pub leader_lease: Option<LeaderLeaseArg>,
    /// Who we are: what stands before `_` in the holder's identity. The host name unless given.
    #[arg(long, env = "BERTH_LEADER_IDENTITY", requires = "leader_lease")]
    pub leader_identity: Option<String>,
    /// Of equally wired nodes prefer the one with the fewest free GPUs. The default.
    #[arg(long, conflicts_with = "spread")]
    pub pack: bool,
    /// Of equally wired nodes prefer the one with the most free GPUs.
    #[arg(long)]
    pub spread: bool,
    /// The Node label that names a node's rack: pods of one group are drawn to one, where they cannot
    /// be drawn to one NVLink fabric.
    #[arg(long, env = "BERTH_RACK_LABEL", default_value = DEFAULT_RACK_LABEL)]
    pub rack_label: String,
    /// Evict pods of lower priority for a pod that fits by count but not by wiring, which
    /// kube-scheduler does not do. Wants the rights of scheduler-config/optional/preempt-for-topology.yaml.
    #[arg(long, env = "BERTH_PREEMPT_FOR_TOPOLOGY")]
    pub preempt_for_topology: bool,
    /// Certificate chain to serve with, PEM.
    #[arg(long, env = "BERTH_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "BERTH_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Only callers with a certificate of these authorities, PEM.
    #[arg(long, env = "BERTH_CLIENT_CA", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
    /// Kubeconfig; else KUBECONFIG, ~/.kube/config, or the Pod's own account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

const DEFAULT_STALE_AFTER: Span = Span(Duration::from_secs(lease::STALE_AFTER_SECONDS as u64));

/// A duration as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A Lease as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderLeaseArg(pub LeaderLease);

// === impl Args ===

impl Args {
    /// Which of equally wired nodes comes first.
    #[must_use]
    pub fn preference(&self) -> Preference {
        if self.spread {
            Preference::Spread
        } else {
            Preference::Pack
        }
    }

    /// The scheduler's Lease.
    #[must_use]
    pub fn leader_lease(&self) -> Option<&LeaderLease> {
        self.leader_lease.as_ref().map(|lease| &lease.0)
    }

    /// Our name in that Lease; `None` where there is none.
    ///
    /// # Errors
    /// When it is not given and the host has no readable name.
    pub fn leader_identity(&self) -> anyhow::Result<Option<String>> {
        match (&self.leader_lease, &self.leader_identity) {
            (None, _) => Ok(None),
            (Some(_), Some(identity)) => Ok(Some(identity.clone())),
            (Some(_), None) => host_name().map(Some),
        }
    }

    /// TLS files, where they are given.
    ///
    /// # Errors
    /// When the address is reachable from outside and callers would not be asked who they are.
    pub fn tls(&self) -> anyhow::Result<Option<tls::Files>> {
        let files = self.tls_cert.clone().zip(self.tls_key.clone());
        if !is_loopback(&self.listen) && (files.is_none() || self.client_ca.is_none()) {
            bail!(
                "--listen {} is reachable from outside, and whoever calls /bind places pods: \
                 give --tls-cert, --tls-key and --client-ca, or listen on 127.0.0.1",
                self.listen
            );
        }
        Ok(files.map(|(cert, key)| tls::Files {
            cert,
            key,
            client_ca: self.client_ca.clone(),
        }))
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

/// kube-scheduler's identity begins with what `os.Hostname` says, which is this file.
fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("reading the host name; give --leader-identity instead")?;
    Ok(name.trim().to_owned())
}

fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn duration(text: &str) -> Result<Span, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number and a unit, such as 60s")?;
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => return Err("the unit is ms, s or m".to_owned()),
    };
    let span = number
        .checked_mul(millis)
        .filter(|millis| (100..=86_400_000).contains(millis));
    span.map(|millis| Span(Duration::from_millis(millis)))
        .ok_or_else(|| "write at least 100ms and at most a day".to_owned())
}

fn leader_lease(text: &str) -> Result<LeaderLeaseArg, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Ok(LeaderLeaseArg(LeaderLease { namespace, name }))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str) -> anyhow::Result<Args> {
        Ok(Args::try_parse_from(
            format!("berth-extender {line}").split_whitespace(),
        )?)
    }

    #[test]
    fn what_is_not_given_is_as_documented() {
        let args = check("").unwrap();
        assert_eq!(args.listen, "127.0.0.1:8888");
        assert_eq!(args.resource, "nvidia.com/gpu");
        assert_eq!(args.stale_after.0, Duration::from_secs(60));
        assert_eq!(args.preference(), Preference::Pack);
        assert_eq!(args.leader_identity().unwrap(), None);
        assert_eq!(args.tls().unwrap(), None);
    }

    #[test]
    fn the_identity_is_the_host_name_unless_given() {
        let args = check("--leader-lease berth-system/berth-scheduler").unwrap();
        assert_eq!(args.leader_lease().unwrap().name, "berth-scheduler");
        assert!(!args.leader_identity().unwrap().unwrap().is_empty());
        let args = check("--leader-lease a/b --leader-identity me").unwrap();
        assert_eq!(args.leader_identity().unwrap().as_deref(), Some("me"));
        assert!(check("--leader-lease berth-scheduler").is_err());
    }

    #[test]
    fn an_address_that_others_reach_needs_mutual_tls() {
        let error = check("--listen 0.0.0.0:8888").unwrap().tls().unwrap_err();
        assert!(error.to_string().contains("--client-ca"), "{error}");
        let given = "--listen 0.0.0.0:8888 --tls-cert c --tls-key k --client-ca a";
        assert!(check(given).unwrap().tls().unwrap().is_some());
        assert!(check("--listen [::1]:8888").unwrap().tls().is_ok());
    }

    #[test]
    fn durations_have_a_unit_and_bounds() {
        assert_eq!(duration("1500ms").unwrap().0, Duration::from_millis(1_500));
        assert_eq!(duration("2m").unwrap().0, Duration::from_secs(120));
        for text in [
            "",
            "s",
            "1h",
            "0s",
            "99999999999999999999s",
            "1000000s",
            "-1s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
