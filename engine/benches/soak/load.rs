//! The mixed load: clients that behave, clients that do not, and bursts.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{answer, send};
use crate::dice::Dice;
use crate::{RUNNING, WAITING};

/// As many as the engine runs; with those that wait, bursts find it full.
const CLIENTS: u64 = 12;
const BURST_EVERY: Duration = Duration::from_secs(20);
/// Four times what the engine takes.
const BURST: usize = 4 * (RUNNING + WAITING);
/// More of the same tell no more.
const FAULTS_MAX: usize = 20;

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers by what was done and their status.
    answers: BTreeMap<String, u64>,
    pub(crate) faults: Vec<String>,
}

/// What one client does once.
#[derive(Clone, Copy, Debug)]
enum Act {
    Whole,
    Stream,
    Choices,
    Logprobs,
    Wrong,
    /// Leaves in the middle of a stream.
    Leave,
    /// Leaves before the first byte.
    LeaveAtOnce,
    /// Takes a few bytes now and then.
    Drip,
    /// Takes nothing for longer than the engine waits.
    Silent,
}

/// Everything until `duration` has passed.
pub(crate) fn run(address: SocketAddr, duration: Duration, seed: u64) -> Tally {
    let tally = Mutex::new(Tally::default());
    let deadline = Instant::now() + duration;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let tally = &tally;
            let mut dice = Dice::new(seed.wrapping_mul(1000) + client);
            scope.spawn(move || {
                while Instant::now() < deadline {
                    act(address, &mut dice, tally);
                }
            });
        }
        while Instant::now() + BURST_EVERY < deadline {
            thread::sleep(BURST_EVERY);
            burst(address, &tally);
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn act(address: SocketAddr, dice: &mut Dice, tally: &Mutex<Tally>) {
    let act = Act::choose(dice);
    let body = act.body(dice);
    let path = "/v1/completions";
    match act {
        Act::Whole | Act::Stream | Act::Choices | Act::Logprobs | Act::Wrong => {
            note(tally, act, answer(address, path, Some(&body)));
        }
        Act::Leave | Act::LeaveAtOnce | Act::Drip | Act::Silent => {
            let gone = send(address, path, Some(&body)).map(|mut stream| {
                let mut bytes = [0; 256];
                let (reads, pause) = act.patience();
                for _ in 0..reads {
                    if matches!(stream.read(&mut bytes), Ok(0) | Err(_)) {
                        break;
                    }
                    thread::sleep(pause);
                }
                if matches!(act, Act::Silent) {
                    thread::sleep(Duration::from_secs(8));
                }
            });
            if let Err(error) = gone {
                note(tally, act, Err(error));
            } else {
                count(tally, &format!("{act:?}"));
            }
        }
    }
}

fn burst(address: SocketAddr, tally: &Mutex<Tally>) {
    thread::scope(|scope| {
        for _ in 0..BURST {
            scope.spawn(|| {
                let body = json!({"prompt": "One, two,", "max_tokens": 4});
                let (path, body) = ("/v1/completions", Some(&body));
                let answered = answer(address, path, body);
                if let Ok((200 | 429, _)) = &answered {
                    let status = answered.as_ref().map_or(0, |(status, _)| *status);
                    count(tally, &format!("Burst {status}"));
                } else {
                    note(tally, Act::Whole, answered);
                }
            });
        }
    });
}

fn note(tally: &Mutex<Tally>, act: Act, answered: std::io::Result<(u16, String)>) {
    match answered {
        Ok((status, body)) => {
            count(tally, &format!("{act:?} {status}"));
            if !act.is_right(status, &body) {
                blame(tally, format!("{act:?}: {status} {body:.300}"));
            }
        }
        Err(error) => blame(tally, format!("{act:?}: {error}")),
    }
}

fn count(tally: &Mutex<Tally>, what: &str) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    *tally.answers.entry(what.to_owned()).or_default() += 1;
}

fn blame(tally: &Mutex<Tally>, fault: String) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if tally.faults.len() < FAULTS_MAX {
        tally.faults.push(fault);
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn json(&self) -> Value {
        json!(self.answers)
    }
}

// === impl Act ===

impl Act {
    fn choose(dice: &mut Dice) -> Self {
        match dice.roll(20) {
            0..=5 => Self::Whole,
            6..=9 => Self::Stream,
            10 => Self::Choices,
            11 => Self::Logprobs,
            12 => Self::Wrong,
            13..=15 => Self::Leave,
            16 | 17 => Self::LeaveAtOnce,
            18 => Self::Drip,
            _ => Self::Silent,
        }
    }

    fn body(self, dice: &mut Dice) -> Value {
        // At most three tokens each, and one for each space: what is asked for must fit into 1,024.
        let words = 1 + dice.roll(150);
        let prompt: Vec<String> = (0..words).map(|_| dice.roll(1000).to_string()).collect();
        let mut body = json!({
            "prompt": prompt.join(" "),
            "max_tokens": 1 + dice.roll(48),
            "temperature": 1,
            "seed": dice.roll(1 << 20),
            "stream": !matches!(self, Self::Whole | Self::Choices | Self::Wrong),
        });
        match self {
            Self::Choices => body["n"] = 4.into(),
            Self::Logprobs => body["logprobs"] = 5.into(),
            Self::Wrong => body["temperature"] = (-1).into(),
            Self::Leave | Self::LeaveAtOnce | Self::Drip | Self::Silent => {
                body["max_tokens"] = 200.into();
                body["ignore_eos"] = true.into();
            }
            Self::Whole | Self::Stream => {}
        }
        if matches!(self, Self::Silent) {
            body["logprobs"] = 20.into();
            body["n"] = 4.into();
        }
        body
    }

    /// How often it reads, and what it waits between.
    fn patience(self) -> (u32, Duration) {
        match self {
            Self::Leave => (3, Duration::ZERO),
            Self::Drip => (20, Duration::from_millis(100)),
            _ => (0, Duration::ZERO),
        }
    }

    /// Too much at a time is refused, all else is answered.
    fn is_right(self, status: u16, body: &str) -> bool {
        match (self, status) {
            (Self::Wrong, status) => status == 400 && body.contains("\"param\":\"temperature\""),
            (_, 429) => true,
            (Self::Stream | Self::Logprobs, 200) => {
                body.contains("data: [DONE]") && !body.contains("\"error\"")
            }
            (_, status) => status == 200 && body.contains("finish_reason"),
        }
    }
}
