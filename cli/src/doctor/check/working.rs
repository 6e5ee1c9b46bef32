//! Whether Berth itself works here: agent, Lease, CRD, scheduler and extender.

use super::{Finding, error, gpus, note, ok, status, unknown, warning};
use crate::doctor::facts::{Facts, InCluster, SeenCrd, SeenLease};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether the machine could be read at all, by which version, and what it could not read.
pub(super) fn agent(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let status = match &facts.status {
        Ok(status) => status,
        Err(why) => {
            let fix = match facts.cluster.is_ok() {
                true => "kubectl -n berth-system logs -l app.kubernetes.io/name=berth-node-agent",
                false => "name the agent with --agent, and see what it says on stderr",
            };
            let message = "no agent tells what this machine is: nothing below could be looked at";
            return vec![error(check, message).read(why, &facts.status_from).fix(fix)];
        }
    };
    let mut found = Vec::new();
    if let Some(version) = status.agent_version.as_deref()
        && version != VERSION
    {
        found.push(
            note(check, "the agent is of another version than this program")
                .read(version, "status.agentVersion")
                .read(VERSION, "berth --version"),
        );
    }
    if !status.unknowns.is_empty() {
        let told = status.unknowns.iter().map(|unknown| {
            (
                format!("{}: {}", unknown.what, unknown.why),
                "status.unknowns".to_owned(),
            )
        });
        let message = format!("the agent could not read {} facts", status.unknowns.len());
        found.push(note(check, message).read_all(told));
    }
    if found.is_empty() {
        found.push(
            ok(check, "the agent could read everything that it looks for")
                .read("[]", "status.unknowns"),
        );
    }
    found
}

/// The node's place in the cluster.
pub(super) fn cluster(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let cluster = match &facts.cluster {
        Ok(cluster) => cluster,
        Err(why) if gpus(facts).is_empty() && status(facts).is_some() => {
            return vec![unknown(check, "the cluster was not asked").read(why, "API server")];
        }
        Err(why) => {
            return vec![
                unknown(check, "the cluster was not asked: Lease, CRD, pods")
                    .read(why, "API server")
                    .fix("berth doctor --node NODE"),
            ];
        }
    };
    let mut found = vec![node(check, cluster)];
    found.extend(agents(check, cluster));
    found.push(lease(check, &cluster.lease));
    found.push(crd(check, &cluster.crd));
    found
}

fn node(check: &'static str, cluster: &InCluster) -> Finding {
    let node = &cluster.node;
    let version = &node.kubelet_version;
    match (node.is_ready, node.is_cordoned) {
        (Some(true), false) => {
            ok(check, "the Node is ready").read(version, "status.nodeInfo.kubeletVersion")
        }
        (Some(true), true) => note(check, "the Node is cordoned")
            .read("true", "spec.unschedulable")
            .fix("kubectl uncordon NODE"),
        (Some(false), _) => error(check, "the Node is not ready: no pod comes here")
            .read("Ready is not True", "status.conditions")
            .fix("kubectl describe node NODE; journalctl -u kubelet on it"),
        (None, _) => unknown(check, "whether the Node is ready is not known")
            .read("absent", "status.conditions"),
    }
}

fn agents(check: &'static str, cluster: &InCluster) -> Option<Finding> {
    let from = "pods of berth-system on the node, app.kubernetes.io/name=berth-node-agent";
    let agents = match &cluster.agents {
        Ok(agents) => agents,
        Err(why) => return Some(unknown(check, "the agent's pods cannot be read").read(why, from)),
    };
    let told = agents.iter().map(|agent| {
        let reason = agent
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(", {reason}"));
        let value = format!(
            "{} {}, {}, {} restarts{reason}",
            agent.name,
            agent.phase,
            if agent.is_ready { "ready" } else { "not ready" },
            agent.restart_count
        );
        (value, from.to_owned())
    });
    if agents.is_empty() {
        // An agent may run outside a pod; the Lease tells whether one does.
        return Some(
            note(check, "no pod of the agent is on the node")
                .read("none", from)
                .fix("kubectl apply -f daemonset/"),
        );
    }
    let finding = match agents.iter().any(|agent| agent.is_ready) {
        false => error(check, "the agent's pod is not ready")
            .fix("kubectl -n berth-system describe pod and logs of it"),
        true if agents.iter().any(|agent| agent.restart_count > 0) => {
            note(check, "the agent's pod runs, and was restarted")
        }
        true => ok(check, "the agent's pod runs"),
    };
    Some(finding.read_all(told))
}

fn lease(check: &'static str, lease: &Result<Option<SeenLease>, String>) -> Finding {
    let from = "spec.renewTime of the Lease in berth-system";
    match lease {
        Err(why) => unknown(check, "the agent's Lease cannot be read").read(why, from),
        Ok(None) => error(
            check,
            "the agent has no Lease: the extender refuses the node as stale",
        )
        .read("absent", from)
        .fix("see that the agent runs, and that daemonset/rbac.yaml and policy.yaml are applied"),
        Ok(Some(lease)) => {
            let waited = format!(
                "{}, watched for {} s",
                lease.renew_time, lease.watched_seconds
            );
            match lease.was_renewed {
                Some(true) => ok(check, "the agent renews its Lease").read(waited, from),
                Some(false) => error(
                    check,
                    "the agent does not renew its Lease: the extender refuses the node as stale",
                )
                .read(waited, from)
                .fix(
                    "see the agent's log: a probe that hangs in the driver keeps it from renewing",
                ),
                None => unknown(
                    check,
                    "whether the agent renews its Lease was not looked at",
                )
                .read(waited, from)
                .fix("--lease-wait 20"),
            }
        }
    }
}

fn crd(check: &'static str, crd: &Result<Option<SeenCrd>, String>) -> Finding {
    let from = "CRD nodetopologies.berth.dev";
    let fix = "kubectl apply -f daemonset/crd.yaml";
    match crd {
        Err(why) => unknown(check, "the CRD cannot be read").read(why, from),
        Ok(None) => error(check, "the CRD is not there: no agent can publish")
            .read("absent", from)
            .fix(fix),
        Ok(Some(crd))
            if !crd
                .served
                .iter()
                .any(|version| version == berth_topology::names::VERSION) =>
        {
            error(
                check,
                format!("the CRD does not serve {}", berth_topology::names::VERSION),
            )
            .read(crd.served.join(" "), from)
            .fix(fix)
        }
        Ok(Some(crd)) => {
            let missing: Vec<&String> = crd.expected_fields.difference(&crd.fields).collect();
            if missing.is_empty() {
                return ok(check, "the CRD is of this version").read(crd.served.join(" "), from);
            }
            let told = missing
                .into_iter()
                .map(|path| (path.clone(), from.to_owned()));
            note(check, "the CRD is older than this program: it keeps fields that it does not know unchecked")
                .read_all(told)
                .fix(fix)
        }
    }
}

/// Whether it answers, and whether anybody says that it should.
pub(super) fn extender(check: &'static str, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Ok(cluster) = &facts.cluster {
        let from = "Deployment berth-scheduler in berth-system";
        found.push(match &cluster.scheduler {
            Err(why) => unknown(check, "the scheduler's Deployment cannot be read").read(why, from),
            Ok(None) => note(check, "there is no Deployment of scheduler and extender")
                .read("absent", from)
                .fix("kubectl apply -f scheduler-config/"),
            Ok(Some(seen)) => {
                let value = format!("{} of {} ready", seen.ready, seen.wanted);
                match seen.ready {
                    0 => error(
                        check,
                        "no replica of scheduler and extender is ready: GPU pods stay pending",
                    )
                    .read(value, from)
                    .fix("kubectl -n berth-system describe deployment berth-scheduler"),
                    ready if ready < seen.wanted => warning(
                        check,
                        "not every replica of scheduler and extender is ready",
                    )
                    .read(value, from)
                    .fix("kubectl -n berth-system describe deployment berth-scheduler"),
                    _ => ok(check, "scheduler and extender are ready").read(value, from),
                }
            }
        });
    }
    found.extend(answering(check, facts));
    found
}

fn answering(check: &'static str, facts: &Facts) -> Option<Finding> {
    let seen = match &facts.extender {
        Ok(seen) => seen,
        Err(why) => return Some(unknown(check, "no extender was asked").read(why, "/readyz")),
    };
    let from = format!("{}/readyz", seen.url.trim_end_matches('/'));
    let reach = "kubectl -n berth-system port-forward deploy/berth-scheduler 8888, and --extender http://127.0.0.1:8888";
    Some(match &seen.answer {
        Ok((200, body)) => ok(check, "the extender answers and is ready").read(body, from),
        Ok((status, body)) => warning(
            check,
            format!("the extender answers, and is not ready: {status}"),
        )
        .read(body, from)
        .fix("its answer says what it waits for; see its log"),
        Err(why) if seen.is_given => error(check, "the extender does not answer")
            .read(why, from)
            .fix(reach),
        Err(why) => unknown(check, "no extender was reached")
            .read(why, from)
            .fix(reach),
    })
}
