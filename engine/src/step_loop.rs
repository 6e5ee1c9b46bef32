//! The loop that turns queued requests into tokens, on a thread of its own.
//!
//! ```text
//! handlers ── Submission (bounded) ──► StepLoop ── Token (bounded, per sequence) ──► handlers
//!                              next ▲        │ batch
//!                                   └ Team ◄─┘
//! ```
//!
//! It never waits for a client: a sequence whose client is gone, or takes no more, is dropped.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use berth_engine_core::batch::{Sampled, SequenceId, StepBatch};
use berth_engine_core::sampling::Choice;
use berth_engine_core::schedule::{Limits, Output, Rejected, Scheduler};
use berth_engine_core::sequence::{FinishReason, Request};
use tokio::sync::{mpsc, oneshot};

use crate::assign::Places;
use crate::http::error::describe;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::rank::LoadBackend;
use crate::team::{self, Team};

/// Submissions on the way to the loop; it takes all of them between two steps.
const SUBMISSIONS_MAX: usize = 1024;
/// An idle loop shows that it lives at least this often.
const IDLE_BEAT: Duration = Duration::from_millis(500);

/// Requests that are accepted or refused together.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) requests: Vec<(Request, mpsc::Sender<Token>)>,
    pub(crate) reply: oneshot::Sender<Result<(), Rejected>>,
}

/// One new token on its way to a client.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) chosen: Choice,
    pub(crate) finish: Option<FinishReason>,
    /// When the sequence was first part of a step.
    pub(crate) scheduled: Instant,
    /// Prompt tokens that were found in the prefix cache.
    pub(crate) cached_count: usize,
}

/// The handlers' end; when the last is dropped, the loop finishes its work and ends.
#[derive(Clone, Debug)]
pub(crate) struct Inbox(SyncSender<Submission>);

/// What a loop needs to start.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) places: Places,
    pub(crate) load: Arc<LoadBackend>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) metrics: Arc<Metrics>,
}

struct StepLoop {
    scheduler: Scheduler,
    /// What the scheduler's times count from.
    started: Instant,
    team: Team,
    clients: HashMap<SequenceId, Client>,
    inbox: Receiver<Submission>,
    lifecycle: Arc<Lifecycle>,
    pace: Pace,
    metrics: Arc<Metrics>,
}

/// Who waits for a sequence's tokens.
struct Client {
    tokens: mpsc::Sender<Token>,
    scheduled: Option<Instant>,
}

/// Starts the thread, which loads the model first. The receiver tells how it ended; when it
/// is closed without a word, the thread panicked.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn(
    setup: Setup,
) -> std::io::Result<(Inbox, oneshot::Receiver<Result<(), team::Error>>)> {
    let (submissions, inbox) = sync_channel(SUBMISSIONS_MAX);
    let (ended, ending) = oneshot::channel();
    thread::Builder::new()
        .name("berth-steps".to_owned())
        .spawn(move || {
            // Probes are told before anybody else: the server may have no time left to tell.
            let lifecycle = Arc::clone(&setup.lifecycle);
            let result = catch_unwind(AssertUnwindSafe(|| run(setup, inbox)));
            tell(&lifecycle, &result);
            if let Ok(result) = result {
                let _ = ended.send(result);
            }
        })?;
    Ok((Inbox(submissions), ending))
}

fn tell(lifecycle: &Lifecycle, result: &thread::Result<Result<(), team::Error>>) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => lifecycle.fail(describe(error)),
        Err(_) => lifecycle.fail("the step loop panicked".to_owned()),
    }
}

fn run(setup: Setup, inbox: Receiver<Submission>) -> Result<(), team::Error> {
    let Setup {
        limits,
        places,
        load,
        lifecycle,
        metrics,
    } = setup;
    let (team, reports) = Team::load(&places.places, &load)?;
    metrics.ranks.show(&places.origin, &reports);
    lifecycle.set_loaded();
    let (scheduler, clients) = (Scheduler::new(limits), HashMap::new());
    StepLoop {
        scheduler,
        started: Instant::now(),
        team,
        clients,
        inbox,
        lifecycle,
        pace: Pace::default(),
        metrics,
    }
    .run()
}

// === impl Inbox ===

impl Inbox {
    /// Hands requests over; they come back when the loop has too many to take in.
    pub(crate) fn try_send(&self, submission: Submission) -> Result<(), TrySendError<Submission>> {
        self.0.try_send(submission)
    }
}

// === impl StepLoop ===

impl StepLoop {
    fn run(mut self) -> Result<(), team::Error> {
        let result = catch_unwind(AssertUnwindSafe(|| self.turns()));
        // Only then do the clients' channels close: who finds his closed finds the failure told.
        tell(&self.lifecycle, &result);
        drop(self);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn turns(&mut self) -> Result<(), team::Error> {
        while self.take_submissions() {
            self.lifecycle.beat();
            self.drop_departed();
            if let Some(batch) = self.scheduler.next() {
                self.step(batch)?;
            }
            self.metrics.show_load(&self.scheduler.stats());
        }
        Ok(())
    }

    fn step(&mut self, batch: StepBatch) -> Result<(), team::Error> {
        self.note_scheduled(&batch);
        self.metrics.count_step(batch.token_count());
        // A step may take seconds: what is running is shown while it runs.
        self.metrics.show_load(&self.scheduler.stats());
        let sampled = self.timed_step(batch)?;
        for output in self.scheduler.advance(&sampled) {
            self.deliver(output);
        }
        Ok(())
    }

    /// Probes see a step that takes longer than others of its size did.
    fn timed_step(&mut self, batch: StepBatch) -> Result<Vec<Sampled>, team::Error> {
        let token_count = batch.token_count();
        let most = self.lifecycle.stall_timeout();
        let patience = self.pace.patience(token_count, most);
        self.lifecycle.expect_beat_within(patience);
        let began = Instant::now();
        let sampled = self.team.step(batch)?;
        let took = began.elapsed();
        self.pace.note(token_count, took);
        self.scheduler.observe(took);
        self.lifecycle.beat();
        Ok(sampled)
    }

    /// Waits when there is nothing to compute. False when nothing can come any more.
    fn take_submissions(&mut self) -> bool {
        if self.scheduler.is_idle() {
            match self.inbox.recv_timeout(IDLE_BEAT) {
                Ok(submission) => self.submit(submission),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while let Ok(submission) = self.inbox.try_recv() {
            self.submit(submission);
        }
        true
    }

    fn submit(&mut self, submission: Submission) {
        let mut accepted = vec![];
        let mut answer = Ok(());
        let now = self.started.elapsed();
        for (request, tokens) in submission.requests {
            let id = request.id;
            if let Err(rejected) = self.scheduler.submit(request, now) {
                answer = Err(rejected);
                break;
            }
            self.clients.insert(
                id,
                Client {
                    tokens,
                    scheduled: None,
                },
            );
            accepted.push(id);
        }
        if answer.is_err() {
            accepted.into_iter().for_each(|id| self.forget(id));
        }
        // A client that left meanwhile is found among the departed.
        let _ = submission.reply.send(answer);
    }

    fn drop_departed(&mut self) {
        let departed =
            |(id, client): (&SequenceId, &Client)| client.tokens.is_closed().then_some(*id);
        let ids: Vec<SequenceId> = self.clients.iter().filter_map(departed).collect();
        ids.into_iter().for_each(|id| self.forget(id));
    }

    fn note_scheduled(&mut self, batch: &StepBatch) {
        let now = Instant::now();
        for sequence in &batch.sequences {
            if let Some(client) = self.clients.get_mut(&sequence.id) {
                client.scheduled.get_or_insert(now);
            }
        }
    }

    fn deliver(&mut self, output: Output) {
        let Output {
            id,
            token,
            logprob,
            top_logprobs,
            finish,
            cached_count,
        } = output;
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let scheduled = client.scheduled.unwrap_or_else(Instant::now);
        // First, so that who has the token finds it counted.
        self.metrics.generation_tokens.inc();
        // The channel holds every token that the request may have, so only a client that left
        // takes no more.
        let delivered = client
            .tokens
            .try_send(Token {
                chosen: Choice {
                    token,
                    logprob,
                    top_logprobs,
                },
                finish,
                scheduled,
                cached_count,
            })
            .is_ok();
        if !delivered || finish.is_some() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SequenceId) {
        self.scheduler.abort(id);
        self.clients.remove(&id);
    }
}
