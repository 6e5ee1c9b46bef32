//! What the end-to-end stories stand on: a real control plane, our binaries, and a hand that plays kubelet.
//!
//! * [`story`]: tells one story in a folder of its own, or says what this machine lacks for it
//! * [`control_plane`]: etcd and kube-apiserver; [`process`] keeps any program running
//! * [`cluster`]: a control plane with our shipped manifests applied, patched as [`patches`] lists
//! * [`agent`], [`pair`], [`engine`]: our services as the manifests start them; [`certificates`] for TLS
//! * [`agent_pod`], [`engine_pod`]: two of them as pods of their own [`images`]
//! * [`kubelet`]: nodes and pods without a kubelet; [`real_node`]: a kubelet and containerd that run them, which
//!   may take the CPUs and NUMA nodes of a recorded machine for this one's
//! * [`given`]: the whole loop on a real node, and whether promises are kept; [`plugin_relay`]: stands in between
//! * [`wait`]: deadlines instead of sleeps; [`dice`]: chance that a seed repeats
//!
//! Prints to stdout, which the test runner keeps and shows where a story fails.
//!
//! Decides nothing that the product decides: it starts, watches and asks.

#![expect(
    clippy::print_stdout,
    reason = "what a story did is shown where it fails"
)]

pub mod accounts;
pub mod agent;
pub mod agent_pod;
pub mod certificates;
pub mod cluster;
pub mod control_plane;
pub mod dice;
pub mod engine;
pub mod engine_pod;
pub mod given;
pub mod http1;
pub mod images;
pub mod kubelet;
pub mod manifests;
pub mod openai;
pub mod pair;
pub mod patches;
pub mod plugin_relay;
pub mod pods;
pub mod ports;
pub mod process;
pub mod programs;
pub mod real_node;
pub mod relay;
pub mod story;
pub mod wait;
