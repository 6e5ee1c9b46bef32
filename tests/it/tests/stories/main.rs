//! The stories: what a user of the loop sees, on a real control plane.

mod agent_pod;
mod aligned;
mod api_server;
mod churn;
mod configz;
mod crashes;
mod engine;
mod engine_openai;
mod failover;
mod given;
mod given_churn;
mod given_crashes;
mod given_health;
mod given_reboot;
mod kubelet;
mod live;
mod policies;
mod preemption;
mod preemption_for_wiring;
mod quads;
mod rbac;
mod real_node;
mod silence;
mod standalone;
mod zones;
