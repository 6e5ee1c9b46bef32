//! Plays one round: the same requests to every target in turn, pods coming and going in between.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::times::{Times, Took};
use crate::{Outcome, facts, objects, waits};

/// Not counted: the first requests fill caches, on both sides.
const WARM_UP: usize = 50;
/// Requests in one slice.
const SLICE: usize = 50;
/// Between two requests, so that a change reaches the index.
const PAUSE: Duration = Duration::from_millis(1);
/// As kube-scheduler's patience.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Until an extender answers filter at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// How nodes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Names,
    Whole,
}

/// One extender.
#[derive(Debug)]
pub(crate) struct Target {
    name: &'static str,
    url: String,
    pid: Option<u32>,
    agent: ureq::Agent,
}

/// So many requests of one form.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) form: Form,
    /// Nodes in each.
    pub(crate) count: usize,
    pub(crate) requests: usize,
}

/// What one target took in this round.
#[derive(Debug, Default)]
struct Tally {
    filter: Times,
    prioritize: Times,
    both: Times,
    feasible: usize,
    body_bytes: usize,
    failures: usize,
}

/// One pod's filter and prioritize.
struct Exchange {
    filter: Took,
    prioritize: Option<Took>,
    feasible: usize,
    body_bytes: usize,
}

// === impl Target ===

impl Target {
    pub(crate) fn new(name: &'static str, url: &str, pid: Option<u32>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        Self {
            name,
            url: url.trim_end_matches('/').to_owned(),
            pid,
            agent: config.into(),
        }
    }

    /// Until it answers filter. Ours is ready before: for some seconds a process that ran before it
    /// might still bind.
    pub(crate) fn wait(&self) -> Outcome<()> {
        let began = Instant::now();
        loop {
            let asked = self.agent.post(format!("{}/filter", self.url)).send("{}");
            let why = match asked {
                Ok(answer) if answer.status() != 503 => return Ok(()),
                Ok(_) => "it says 503".to_owned(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > ANSWERS_WITHIN {
                return Err(format!("{} at {}: {why}", self.name, self.url).into());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn post(&self, verb: &str, body: &str) -> Outcome<(Took, Value)> {
        let waited = || waits::waited_here() + self.pid.map_or(Duration::ZERO, waits::waited);
        let waited_before = waited();
        let began = Instant::now();
        let request = self.agent.post(format!("{}/{verb}", self.url));
        let mut response = request
            .header("Content-Type", "application/json")
            .send(body)?;
        let answer = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()?;
        let wall = began.elapsed();
        let waited = waited().saturating_sub(waited_before);
        if response.status() != 200 {
            return Err(format!("{verb}: status {}", response.status()).into());
        }
        Ok((Took { wall, waited }, serde_json::from_slice(&answer)?))
    }

    fn exchange(&self, pod: &str, nodes: &str, form: Form) -> Outcome<Exchange> {
        let body = body(pod, nodes, form);
        let (filter, answer) = self.post("filter", &body)?;
        let refusal = answer["Error"].as_str().unwrap_or_default();
        if !refusal.is_empty() {
            return Err(format!("filter: {refusal}").into());
        }
        let survivors = match form {
            Form::Names => &answer["NodeNames"],
            Form::Whole => &answer["Nodes"]["items"],
        };
        let feasible = survivors.as_array().map_or(0, Vec::len);
        // As kube-scheduler: one node needs no score.
        let prioritize = match feasible {
            0 | 1 => None,
            _ => Some(
                self.post("prioritize", &self::body(pod, &survivors.to_string(), form))?
                    .0,
            ),
        };
        Ok(Exchange {
            filter,
            prioritize,
            feasible,
            body_bytes: body.len(),
        })
    }
}

// === impl Round ===

impl Round {
    /// Times by target, as JSON.
    pub(crate) fn play(
        &self,
        targets: &[Target],
        cluster: &mut Cluster,
        api: &Api,
    ) -> Outcome<Value> {
        let nodes = match self.form {
            Form::Names => json!(cluster.offered(self.count)).to_string(),
            Form::Whole => format!("[{}]", cluster.whole(self.count).join(",")),
        };
        let mut tallies: Vec<Tally> = targets.iter().map(|_| Tally::default()).collect();
        let ran = |target: &Target| target.pid.map(waits::ran);
        let ran_before: Vec<_> = targets.iter().map(ran).collect();
        let mut stolen = facts::stolen_ticks();
        let mut stolen_slices = 0;
        for number in 0..WARM_UP + self.requests {
            api.publish(&cluster.next_change(api.next_version())?);
            thread::sleep(PAUSE);
            let pod = objects::pod(
                &format!("asks-{}-{number}", self.count),
                [1, 2, 4, 8][number % 4],
            )?;
            let pod = serde_json::to_string(&cluster.joining(pod, number))?;
            for (target, tally) in targets.iter().zip(&mut tallies) {
                let exchange = target.exchange(&pod, &nodes, self.form);
                if number >= WARM_UP {
                    tally.add(exchange, target)?;
                }
            }
            if (number + 1) % SLICE == 0 || number + 1 == WARM_UP + self.requests {
                let now = facts::stolen_ticks();
                stolen_slices += usize::from(now != stolen);
                tallies
                    .iter_mut()
                    .for_each(|tally| tally.end_slice(now != stolen));
                stolen = now;
            }
        }
        let mut report = json!({"form": self.form.to_string(), "offered": self.count,
            "slices_with_stolen_time": stolen_slices, "load": facts::load()});
        for ((target, tally), before) in targets.iter().zip(tallies).zip(ran_before) {
            report[target.name] = tally.report(self.requests);
            // Everything that it did in the round, watches included.
            let ran_ms = before
                .zip(ran(target))
                .map(|(before, now)| (now - before).as_secs_f64() * 1_000.0);
            report[target.name]["cpu_ms_per_pod"] =
                json!(ran_ms.map(|ms| ms / count_f64(WARM_UP + self.requests)));
        }
        Ok(report)
    }
}

fn count_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn body(pod: &str, nodes: &str, form: Form) -> String {
    match form {
        Form::Names => format!("{{\"Pod\":{pod},\"Nodes\":null,\"NodeNames\":{nodes}}}"),
        Form::Whole => {
            format!(
                "{{\"Pod\":{pod},\"Nodes\":{{\"metadata\":{{}},\"items\":{nodes}}},\"NodeNames\":null}}"
            )
        }
    }
}

// === impl Tally ===

impl Tally {
    /// A failure is counted; the first is an error, since nothing that follows would mean much.
    fn add(&mut self, exchange: Outcome<Exchange>, target: &Target) -> Outcome<()> {
        let exchange = match exchange {
            Ok(exchange) => exchange,
            Err(error) if self.failures == 0 && self.feasible == 0 => {
                return Err(format!("{} does not answer: {error}", target.name).into());
            }
            Err(_) => {
                self.failures += 1;
                return Ok(());
            }
        };
        self.feasible += exchange.feasible;
        self.body_bytes = self.body_bytes.max(exchange.body_bytes);
        self.filter.add(exchange.filter);
        if let Some(prioritize) = exchange.prioritize {
            self.prioritize.add(prioritize);
        }
        self.both.add(
            exchange
                .filter
                .then(exchange.prioritize.unwrap_or_default()),
        );
        Ok(())
    }

    fn end_slice(&mut self, was_stolen_from: bool) {
        for times in [&mut self.filter, &mut self.prioritize, &mut self.both] {
            times.end_slice(was_stolen_from);
        }
    }

    fn report(self, requests: usize) -> Value {
        json!({
            "filter": self.filter.report(),
            "prioritize": self.prioritize.report(),
            "filter_and_prioritize": self.both.report(),
            "feasible_mean": self.feasible / requests.max(1),
            "body_bytes_max": self.body_bytes,
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "names",
            Self::Whole => "whole nodes",
        })
    }
}
