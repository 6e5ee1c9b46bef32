//! The command line's part on the kubelet's policies.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

/// Where a kubelet serves (`port` of its configuration).
const KUBELET_PORT: u16 = 10_250;

/// Where the kubelet's policies are read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The kubelet's policies")]
pub struct KubeletArgs {
    /// The kubelet's configuration file: its policies are then published, and the extender foresees
    /// them. Flags that the kubelet has beside it, and drop-ins, are not seen.
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// Ask the running kubelet instead, at https://IP:10250/configz: what its file, drop-ins and flags
    /// came to.
    ///
    /// Needs `get` on nodes/configz (daemonset/optional/kubelet-configz.yaml), which Kubernetes 1.33 and
    /// newer know. The account's token is sent to a kubelet only whose certificate --kubelet-ca vouches
    /// for, and is for this address or for the Node's name. Asked again every ten minutes.
    #[arg(long, value_name = "IP[:PORT]", conflicts_with = "kubelet_config", value_parser = parse_address)]
    pub kubelet_configz: Option<SocketAddr>,
    /// Who vouches for the kubelet's certificate, in PEM; without it the cluster's CA.
    #[arg(long, value_name = "FILE", requires = "kubelet_configz")]
    pub kubelet_ca: Option<PathBuf>,
}

/// No host name: who answers for that is not ours to say.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>().ok();
    let alone = || text.parse::<IpAddr>().ok();
    with_port
        .or_else(|| alone().map(|ip| SocketAddr::new(ip, KUBELET_PORT)))
        .ok_or_else(|| "allowed are 10.0.0.7, 10.0.0.7:10250, fd00::7, [fd00::7]:10250".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args as AgentArgs;

    #[test]
    fn a_kubelet_is_at_an_address_and_a_port_that_may_be_left_out() {
        let at = |text: &str| parse_address(text).map(|address| address.to_string());
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7:10250"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("fd00::7", "[fd00::7]:10250"),
            ("[fd00::7]:1", "[fd00::7]:1"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected));
        }
        for wrong in ["", "localhost", "10.0.0.7:", "https://10.0.0.7", ":10250"] {
            assert!(at(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn one_source_of_policies_is_asked_for_and_a_ca_is_for_the_kubelet() {
        let parse = |line: &str| AgentArgs::try_parse_from(line.split(' ')).is_ok();
        assert!(parse(
            "agent --kubelet-configz=10.0.0.7 --kubelet-ca=ca.crt"
        ));
        assert!(!parse(
            "agent --kubelet-configz=10.0.0.7 --kubelet-config=config.yaml"
        ));
        assert!(!parse("agent --kubelet-ca=ca.crt"));
    }
}
