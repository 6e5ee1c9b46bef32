//! A recorded decision made again, offline, from the inputs that were recorded: bit for bit the same,
//! or something that decided is not in the inputs.

use std::collections::BTreeMap;

use crate::bind;
use crate::decide::{self, Ask, NODES_PER_LOOK, No, Outcome};
use crate::preempt::{self, Offer, stranded};
use crate::record::{Decided, Inputs, Reason, Record};

/// How a record compares with its replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The same.
    Same,
    /// Another answer.
    Differs {
        /// What was recorded.
        recorded: Box<Decided>,
        /// What is decided now.
        replayed: Box<Decided>,
    },
    /// The inputs were not kept, or nothing was decided from any.
    NotKept,
}

/// Why a record cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its pod is none.
    #[error("reading the pod of record {number}")]
    Pod {
        /// The record.
        number: u64,
        /// Where it breaks.
        source: serde_json::Error,
    },
}

/// Decides that record again.
///
/// # Errors
/// When the record's pod cannot be read.
pub fn replay(record: &Record, resource: &str) -> Result<Replayed, Error> {
    let Some(inputs) = record.inputs() else {
        return Ok(Replayed::NotKept);
    };
    let pod = record.asked.read().map_err(|source| Error::Pod {
        number: record.number,
        source,
    })?;
    let ask = Ask::of_pod(&pod, resource);
    let replayed = decide_again(&ask, inputs, &record.decided);
    Ok(if replayed == record.decided {
        Replayed::Same
    } else {
        Replayed::Differs {
            recorded: Box::new(record.decided.clone()),
            replayed: Box::new(replayed),
        }
    })
}

fn decide_again(ask: &Ask, inputs: &Inputs, recorded: &Decided) -> Decided {
    let snapshot = inputs.snapshot();
    let offered = snapshot.named(inputs.names());
    match recorded {
        Decided::Filter { outcomes, reasons } => {
            let is_over = over_as(outcomes, reasons);
            let verdicts = decide::filter_until(&snapshot, ask, offered, is_over);
            Decided::filter(&verdicts)
        }
        Decided::Prioritize { .. } => {
            let scores = decide::prioritize(&snapshot, ask, &offered, inputs.preference);
            Decided::Prioritize {
                scores: scores.into_iter().map(|(_, score)| score).collect(),
            }
        }
        Decided::Preempt { .. } => {
            let none = BTreeMap::new();
            let (ask, offers) = asked_to_preempt(ask, inputs, &none);
            Decided::preempt(&preempt::preempt(&snapshot, &ask, offers))
        }
        Decided::Evict { error, .. } => {
            let none = BTreeMap::new();
            let (ask, offers) = asked_to_preempt(ask, inputs, &none);
            let open: Vec<&str> = offers.keys().map(String::as_str).collect();
            let chosen = stranded::choose(&snapshot, &ask, &inputs.names(), &open);
            let (node, victims) = chosen.unwrap_or_default();
            // What became of the calls is not decided here.
            Decided::evict(node, &victims, error.clone())
        }
        Decided::Bind {
            node,
            annotation,
            error,
            ..
        } => {
            let chosen = bind::choose(&snapshot, ask, node);
            match chosen {
                // What became of the POST is not decided here.
                Ok((text, _, placed)) => Decided::Bind {
                    node: node.clone(),
                    annotation: Some(text),
                    inexact: placed.inexact.map(|doubt| doubt.kind().to_owned()),
                    error: annotation.as_ref().and(error.clone()),
                },
                Err(refused) => Decided::Bind {
                    node: node.clone(),
                    annotation: None,
                    inexact: None,
                    error: Some(refused.to_string()),
                },
            }
        }
    }
}

/// The pod on its own terms, and the nodes that were offered.
fn asked_to_preempt<'a>(
    ask: &Ask,
    inputs: &'a Inputs,
    none: &'a BTreeMap<String, Offer>,
) -> (Ask, &'a BTreeMap<String, Offer>) {
    let offered = inputs.offered.as_deref();
    let terms = offered.map_or_else(|| ask.terms.clone(), |offered| offered.terms.clone());
    let ask = Ask {
        terms,
        ..ask.clone()
    };
    (ask, offered.map_or(none, |offered| &offered.offers))
}

/// Says that the time is over where it was when the decision was made.
fn over_as(outcomes: &[Outcome], reasons: &[Reason]) -> impl FnMut() -> bool {
    let is_late = |outcome: &Outcome| match outcome {
        Outcome::Refused(at) => reasons
            .get(*at as usize)
            .is_some_and(|reason| reason.kind == No::OutOfTime.kind()),
        Outcome::Fits(_) => false,
    };
    let first = outcomes.iter().position(is_late).unwrap_or(usize::MAX);
    let mut position = 0;
    move || {
        let is_over = position >= first;
        position += NODES_PER_LOOK;
        is_over
    }
}

#[cfg(test)]
mod tests;
