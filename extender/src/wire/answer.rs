//! Filter's answer as text: thousands of names, and a few sentences over and over.

use std::sync::Arc;

use serde_json::Result;

use berth_extender_core::decide::{No, Outcome, Verdicts};

use super::{ExtenderArgs, FilterResult, Reasons, whole};

/// Sentences as JSON, by the text that they share.
#[derive(Default)]
struct Sentences(Vec<(Arc<str>, Vec<u8>)>);

// === impl FilterResult ===

impl<'a> FilterResult<'a> {
    /// What was found of the nodes of `args`, in the form that was asked: names for names, whole nodes
    /// for whole nodes.
    #[must_use]
    pub fn of(args: &'a ExtenderArgs, verdicts: &Verdicts<'_>) -> Self {
        let outcomes = verdicts.outcomes.iter();
        let names = args.names();
        let named = || names.iter().copied().zip(outcomes.clone());
        let fits = |outcome: &Outcome| matches!(outcome, Outcome::Fits(_));
        let (failed, never) = refused(named(), &verdicts.reasons);
        let (nodes, node_names) = match (&args.node_names, &args.nodes) {
            (None, Some(list)) => {
                let places = list.names().map(|(place, _)| place).zip(outcomes.clone());
                let places = places.filter(|(_, outcome)| fits(outcome));
                (Some(places.map(|(place, _)| place).collect()), None)
            }
            _ => {
                let names = named().filter(|(_, outcome)| fits(outcome));
                (None, Some(names.map(|(name, _)| name).collect()))
            }
        };
        Self {
            nodes,
            node_names,
            failed_nodes: failed,
            failed_and_unresolvable_nodes: never,
            error: String::new(),
        }
    }

    /// An answer that is none.
    #[must_use]
    pub fn failure(error: String) -> Self {
        Self {
            error,
            ..Self::default()
        }
    }

    /// The answer to `body`, whose nodes it names by their place.
    ///
    /// # Errors
    /// When a name cannot be written, which no name that was read can cause.
    pub fn encode(&self, body: &[u8]) -> Result<Vec<u8>> {
        let mut sentences = Sentences::default();
        let mut answer = Vec::with_capacity(self.bytes_about());
        answer.extend_from_slice(b"{\"Nodes\":");
        self.encode_nodes(body, &mut answer);
        answer.extend_from_slice(b",\"NodeNames\":");
        serde_json::to_writer(&mut answer, &self.node_names)?;
        answer.extend_from_slice(b",\"FailedNodes\":");
        self.failed_nodes.encode(&mut sentences, &mut answer)?;
        answer.extend_from_slice(b",\"FailedAndUnresolvableNodes\":");
        self.failed_and_unresolvable_nodes
            .encode(&mut sentences, &mut answer)?;
        answer.extend_from_slice(b",\"Error\":");
        serde_json::to_writer(&mut answer, &self.error)?;
        answer.push(b'}');
        Ok(answer)
    }

    /// Names of a few dozen bytes, and as much of a sentence beside those that were refused.
    fn bytes_about(&self) -> usize {
        let kept = self.node_names.as_ref().map_or(0, Vec::len);
        let refused = self.failed_nodes.0.len() + self.failed_and_unresolvable_nodes.0.len();
        256 + 32 * kept + 128 * refused
    }

    fn encode_nodes(&self, body: &[u8], answer: &mut Vec<u8>) {
        let Some(places) = &self.nodes else {
            return answer.extend_from_slice(b"null");
        };
        let sent = whole::items(body);
        let kept: Vec<&[u8]> = places
            .iter()
            .filter_map(|place| sent.get(*place))
            .copied()
            .collect();
        answer.reserve(kept.iter().map(|item| item.len() + 1).sum());
        answer.extend_from_slice(b"{\"items\":[");
        answer.extend_from_slice(&kept.join(&b','));
        answer.extend_from_slice(b"]}");
    }
}

/// Reasons by node: those that pods leaving could resolve, and those that nothing resolves.
/// kube-scheduler tries preemption on the first only.
fn refused<'a, 'b>(
    named: impl Iterator<Item = (&'a str, &'b Outcome)>,
    reasons: &[No],
) -> (Reasons<'a>, Reasons<'a>) {
    let sentence = |no: &No| (no.is_resolvable(), Arc::from(no.to_string()));
    let sentences: Vec<(bool, Arc<str>)> = reasons.iter().map(sentence).collect();
    let (mut resolvable, mut never) = (Reasons::default(), Reasons::default());
    for (name, outcome) in named {
        let Outcome::Refused(at) = outcome else {
            continue;
        };
        let Some((is_resolvable, sentence)) = sentences.get(*at as usize) else {
            continue;
        };
        let of = match is_resolvable {
            true => &mut resolvable,
            false => &mut never,
        };
        of.0.push((name, sentence.clone()));
    }
    (resolvable, never)
}

// === impl Reasons ===

impl Reasons<'_> {
    /// The nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| *name)
    }

    fn encode(&self, sentences: &mut Sentences, answer: &mut Vec<u8>) -> Result<()> {
        answer.push(b'{');
        for (position, (name, sentence)) in self.0.iter().enumerate() {
            if position > 0 {
                answer.push(b',');
            }
            serde_json::to_writer(&mut *answer, name)?;
            answer.push(b':');
            answer.extend_from_slice(sentences.json(sentence)?);
        }
        answer.push(b'}');
        Ok(())
    }
}

// === impl Sentences ===

impl Sentences {
    fn json(&mut self, sentence: &Arc<str>) -> Result<&[u8]> {
        let known = |(known, _): &(Arc<str>, _)| Arc::ptr_eq(known, sentence);
        let at = match self.0.iter().position(known) {
            Some(at) => at,
            None => {
                let json = serde_json::to_vec(&**sentence)?;
                self.0.push((sentence.clone(), json));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}
