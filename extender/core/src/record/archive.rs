//! Everything that decisions depend on, as one JSON document: `GET /snapshot`, `berth snapshot`.
//!
//! What many nodes or many records share is written once and named by its position. It holds pods'
//! names and what they ask, but no environment and no arguments beyond the tensor-parallel size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use berth_topology::allocation::Allocation;
use berth_topology::claim::PodClaim;
use berth_topology::ids::{GpuUuid, PodUid};
use berth_topology::names;
use berth_topology::node::Status;
use serde::{Deserialize, Serialize};

use super::wiring::Wiring;
use super::{Asked, Basis, Candidate, Decided, Inputs, Offered, Record};
use crate::decide::Preference;
use crate::node::{Hardware, NodeState, Topology};
use crate::snapshot::Snapshot;

/// What the document is, beside its schema.
const KIND: &str = "Snapshot";
/// States of nodes written at most, some kilobyte each; older records then lose their inputs.
const STATES_MAX: usize = 40_000;

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// [`names::SCHEMA`].
    pub schema: String,
    /// `Snapshot`.
    pub kind: String,
    /// About the replica that wrote it.
    pub replica: Replica,
    /// What is shared.
    tables: Tables,
    /// Every node as it stands, by position in the states.
    nodes: Vec<usize>,
    /// The rest of the snapshot.
    view: Snapshot,
    /// What bound pods asked for, by uid, where it can be read.
    pub claims: BTreeMap<PodUid, PodClaim>,
    /// Decisions, oldest first.
    records: Vec<Entry>,
}

/// Who wrote it, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// When, RFC 3339.
    pub taken_at: String,
    /// Version of the extender.
    pub version: String,
    /// The extended resource.
    pub resource: String,
    /// Which of equally wired nodes comes first.
    pub preference: Preference,
    /// Whether it may answer.
    pub leads: bool,
    /// Whether the whole cluster was listed.
    pub is_synced: bool,
}

/// What the extender knows now.
#[derive(Debug)]
pub struct Now<'a> {
    /// Who writes.
    pub replica: Replica,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// What bound pods asked for.
    pub claims: BTreeMap<PodUid, PodClaim>,
    /// Decisions, oldest first.
    pub records: Vec<Record>,
}

/// A document, read and ready.
#[derive(Debug)]
pub struct Opened {
    /// Who wrote it.
    pub replica: Replica,
    /// The cluster as it stood.
    pub snapshot: Snapshot,
    /// What bound pods asked for.
    pub claims: BTreeMap<PodUid, PodClaim>,
    /// Decisions, oldest first.
    pub records: Vec<Record>,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another schema or kind.
    #[error("the document is {kind:?} of schema {schema:?}; this build reads {KIND} of {SCHEMA}", SCHEMA = names::SCHEMA)]
    Schema {
        /// Its kind.
        kind: String,
        /// Its schema.
        schema: String,
    },
    /// A position that no table has.
    #[error("the document names {0} that it does not hold")]
    Missing(&'static str),
    /// A wiring that is no NodeTopology's.
    #[error("reading a wiring of the document")]
    Wiring(#[source] serde_json::Error),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tables {
    wirings: Vec<Status>,
    topologies: Vec<TopologyRow>,
    states: Vec<StateRow>,
    pods: Vec<Asked>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopologyRow {
    wiring: usize,
    gpus: Vec<GpuUuid>,
    hash: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allocations: Vec<Allocation>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StateRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topology: Option<usize>,
    node: NodeState,
}

/// One record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    number: u64,
    at: String,
    pod: usize,
    inputs_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inputs: Option<InputsRow>,
    decided: Decided,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputsRow {
    candidates: Vec<Row>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    peers: Vec<usize>,
    view: Snapshot,
    preference: Preference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offered: Option<Offered>,
}

/// A node by its state's position, or by name where the snapshot had none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Row {
    State(usize),
    Unknown(String),
}

/// Fills the tables.
#[derive(Default)]
struct Writer {
    tables: Tables,
    wirings: HashMap<Arc<str>, usize>,
    topologies: HashMap<*const Topology, usize>,
    states: HashMap<*const NodeState, usize>,
    pods: HashMap<*const Asked, usize>,
}

// === impl Archive ===

impl Archive {
    /// Writes down what is known.
    ///
    /// # Errors
    /// When a wiring that was kept is none: a mistake of ours.
    pub fn of(now: Now<'_>) -> Result<Self, Error> {
        let mut writer = Writer::default();
        let mut states: Vec<&Arc<NodeState>> = now.snapshot.nodes().collect();
        states.sort_by(|a, b| a.name.cmp(&b.name));
        let mut nodes = Vec::with_capacity(states.len());
        for state in states {
            nodes.push(writer.state(state)?);
        }
        let mut records = Vec::with_capacity(now.records.len());
        for record in now.records.iter().rev() {
            records.push(writer.entry(record)?);
        }
        records.reverse();
        Ok(Self {
            schema: names::SCHEMA.to_owned(),
            kind: KIND.to_owned(),
            replica: now.replica,
            tables: writer.tables,
            nodes,
            view: now.snapshot.without_nodes(),
            claims: now.claims,
            records,
        })
    }

    /// Makes it what it was written from.
    ///
    /// # Errors
    /// When it is of another schema, or contradicts itself.
    pub fn open(self) -> Result<Opened, Error> {
        if self.schema != names::SCHEMA || self.kind != KIND {
            return Err(Error::Schema {
                kind: self.kind,
                schema: self.schema,
            });
        }
        let states = self.tables.states(&self.replica.resource)?;
        let state = |at: &usize| states.get(*at).cloned().ok_or(Error::Missing("a node"));
        let nodes = self.nodes.iter().map(state);
        let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
        let pods: Vec<Arc<Asked>> = self.tables.pods.into_iter().map(Arc::new).collect();
        let records = self.records.into_iter();
        let records = records.map(|entry| entry.open(&pods, &state));
        Ok(Opened {
            replica: self.replica,
            snapshot: self.view.with_nodes(nodes),
            claims: self.claims,
            records: records.collect::<Result<_, _>>()?,
        })
    }
}

// === impl Entry ===

impl Entry {
    fn open(
        self,
        pods: &[Arc<Asked>],
        state: &impl Fn(&usize) -> Result<Arc<NodeState>, Error>,
    ) -> Result<Record, Error> {
        let basis = match self.inputs {
            Some(row) => Basis::Kept(Box::new(row.open(state)?)),
            None => Basis::Dropped {
                hash: self.inputs_hash,
            },
        };
        Ok(Record {
            number: self.number,
            at: self.at,
            asked: pods.get(self.pod).cloned().ok_or(Error::Missing("a pod"))?,
            basis,
            decided: self.decided,
        })
    }
}

impl InputsRow {
    fn open(
        self,
        state: &impl Fn(&usize) -> Result<Arc<NodeState>, Error>,
    ) -> Result<Inputs, Error> {
        let open = |row: Row| match row {
            Row::State(at) => state(&at).map(Candidate::Known),
            Row::Unknown(name) => Ok(Candidate::Unknown(name.into())),
        };
        let candidates = self.candidates.into_iter().map(open);
        Ok(Inputs {
            candidates: candidates.collect::<Result<_, _>>()?,
            peers: self.peers.iter().map(state).collect::<Result<_, _>>()?,
            view: self.view,
            preference: self.preference,
            offered: self.offered.map(Arc::new),
        })
    }
}

// === impl Tables ===

impl Tables {
    fn states(&self, resource: &str) -> Result<Vec<Arc<NodeState>>, Error> {
        let mut hardware = Hardware::of_resource(resource);
        let mut topologies = Vec::with_capacity(self.topologies.len());
        for row in &self.topologies {
            let bare = self.wirings.get(row.wiring);
            let bare = bare.ok_or(Error::Missing("a wiring"))?;
            let text = serde_json::to_string(bare).map_err(Error::Wiring)?;
            let wiring = Wiring {
                text: text.into(),
                uuids: row.gpus.clone().into(),
            };
            let status = Status {
                hash: row.hash.clone(),
                allocations: row.allocations.clone(),
                ..wiring.status().map_err(Error::Wiring)?
            };
            topologies.push(Arc::new(Topology::read(&status, resource, &mut hardware)));
        }
        let mut states = Vec::with_capacity(self.states.len());
        for row in &self.states {
            let topology = row.topology.map(|at| topologies.get(at).cloned());
            let topology = match topology {
                Some(None) => return Err(Error::Missing("a topology")),
                known => known.flatten(),
            };
            states.push(Arc::new(NodeState {
                topology,
                ..row.node.clone()
            }));
        }
        Ok(states)
    }
}

// === impl Writer ===

impl Writer {
    fn entry(&mut self, record: &Record) -> Result<Entry, Error> {
        let is_full = self.tables.states.len() >= STATES_MAX;
        let inputs = match record.inputs() {
            Some(inputs) if !is_full => Some(self.inputs(inputs)?),
            _ => None,
        };
        Ok(Entry {
            number: record.number,
            at: record.at.clone(),
            pod: self.pod(&record.asked),
            inputs_hash: record.inputs_hash(),
            inputs,
            decided: record.decided.clone(),
        })
    }

    fn inputs(&mut self, inputs: &Inputs) -> Result<InputsRow, Error> {
        let mut candidates = Vec::with_capacity(inputs.candidates.len());
        for candidate in &inputs.candidates {
            candidates.push(match candidate {
                Candidate::Known(state) => Row::State(self.state(state)?),
                Candidate::Unknown(name) => Row::Unknown(name.to_string()),
            });
        }
        let mut peers = Vec::with_capacity(inputs.peers.len());
        for state in &inputs.peers {
            peers.push(self.state(state)?);
        }
        let names: BTreeSet<&str> = inputs.names().into_iter().collect();
        let mut view = inputs.view.clone();
        view.stale.retain(|name| names.contains(&**name));
        Ok(InputsRow {
            candidates,
            peers,
            view,
            preference: inputs.preference,
            offered: inputs.offered.as_deref().cloned(),
        })
    }

    fn pod(&mut self, asked: &Arc<Asked>) -> usize {
        let pods = &mut self.tables.pods;
        *self.pods.entry(Arc::as_ptr(asked)).or_insert_with(|| {
            pods.push(Asked::clone(asked));
            pods.len() - 1
        })
    }

    fn state(&mut self, state: &Arc<NodeState>) -> Result<usize, Error> {
        if let Some(at) = self.states.get(&Arc::as_ptr(state)) {
            return Ok(*at);
        }
        let topology = state.topology.as_ref();
        let topology = topology.map(|known| self.topology(known)).transpose()?;
        self.tables.states.push(StateRow {
            topology,
            node: NodeState::clone(state),
        });
        let at = self.tables.states.len() - 1;
        self.states.insert(Arc::as_ptr(state), at);
        Ok(at)
    }

    fn topology(&mut self, topology: &Arc<Topology>) -> Result<usize, Error> {
        if let Some(at) = self.topologies.get(&Arc::as_ptr(topology)) {
            return Ok(*at);
        }
        let row = TopologyRow {
            wiring: self.wiring(&topology.wiring.text)?,
            gpus: topology.wiring.uuids.to_vec(),
            hash: topology.hash.clone(),
            allocations: topology.kept_allocations(),
        };
        self.tables.topologies.push(row);
        let at = self.tables.topologies.len() - 1;
        self.topologies.insert(Arc::as_ptr(topology), at);
        Ok(at)
    }

    fn wiring(&mut self, text: &Arc<str>) -> Result<usize, Error> {
        if let Some(at) = self.wirings.get(text) {
            return Ok(*at);
        }
        let status = serde_json::from_str(text).map_err(Error::Wiring)?;
        self.tables.wirings.push(status);
        let at = self.tables.wirings.len() - 1;
        self.wirings.insert(text.clone(), at);
        Ok(at)
    }
}
