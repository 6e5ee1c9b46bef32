//! A server on a free port, its model, and a client that speaks just enough HTTP.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use berth_engine_core::batch::{Sampled, StepBatch, StepSequence, TokenId};
use berth_engine_core::sampling::TokenLogprob;
use berth_engine_core::schedule::{Limits, Rules};
use berth_engine_model::backend::{Backend, Shard, StepError};
use berth_engine_text::{ChatTemplate, GgufVocab, Tokenizer};
use clap::Parser;
use serde_json::Value;

use crate::args::{Args, Command, ServeArgs};
use crate::assign::{self, Identity};
use crate::lifecycle::Lifecycle;
use crate::model::{Choice, Defaults, Model, ModelText};
use crate::serve;

const END: TokenId = 29;
/// Output tokens after which the model wants to end.
const END_AT: u64 = 30;
const TEMPLATE: &str = "{% for message in messages %}{{ message.role + ' ' + message.content }}\
                        {% endfor %}{% if add_generation_prompt %}x{% endif %}";

/// A server with two ranks that runs until it is dropped.
pub(super) struct Fixture {
    pub(super) model: Arc<Alphabet>,
    pub(super) lifecycle: Arc<Lifecycle>,
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// The model: its n-th token is the n-th letter, or the one after it where that is forbidden;
/// drawn rather than greedy, the seed is added. Tests hold it, or make it fail.
#[derive(Debug, Default)]
pub(super) struct Alphabet {
    loading: AtomicBool,
    hold: AtomicBool,
    held: AtomicBool,
    failing: AtomicBool,
    dying: AtomicBool,
}

struct AlphabetRank {
    model: Arc<Alphabet>,
    rank: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: BTreeMap<String, String>,
    pub(super) body: String,
}

/// A request whose answer comes later.
pub(super) struct Held(mpsc::Receiver<Answer>);

// === impl Fixture ===

impl Fixture {
    pub(super) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(super) fn start_with(change: impl FnOnce(&mut ServeArgs)) -> Self {
        let fixture = Self::launch(change, false);
        super::eventually("loaded", || fixture.get("/ready").status == 200);
        fixture
    }

    pub(super) fn start_loading() -> Self {
        Self::launch(|_| {}, true)
    }

    fn launch(change: impl FnOnce(&mut ServeArgs), loading: bool) -> Self {
        let line = "berth-engine serve --model alphabet --max-waiting-requests 8";
        let Command::Serve(mut args) = Args::parse_from(line.split(' ')).command else {
            panic!("serve was asked for");
        };
        change(&mut args);
        let alphabet = Arc::new(Alphabet {
            loading: loading.into(),
            ..Alphabet::default()
        });
        let model = model(&alphabet);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (started, starting) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let running = serve::start(&args, model, listener).unwrap();
                started
                    .send((running.server.handle(), running.lifecycle))
                    .unwrap();
                running.server.await.unwrap();
            });
        });
        let (handle, lifecycle) = starting.recv().unwrap();
        Self {
            model: alphabet,
            lifecycle,
            address,
            handle,
            thread: Some(thread),
        }
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &body.to_string())
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send_with(method, path, "", body)
    }

    pub(super) fn send_with(&self, method: &str, path: &str, more: &str, body: &str) -> Answer {
        answer(self.address, &request(method, path, more, body))
    }

    /// Sends, and reads nothing until it is dropped.
    pub(super) fn post_open(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .write_all(&request("POST", path, "", &body.to_string()))
            .unwrap();
        stream
    }

    /// Sends the head of a request whose body does not come.
    pub(super) fn announce(&self, path: &str, body_bytes: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {body_bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Sends, and reads on a thread of its own.
    pub(super) fn post_held(&self, path: &str, body: &Value) -> Held {
        let (sender, receiver) = mpsc::sync_channel(1);
        let request = request("POST", path, "", &body.to_string());
        let address = self.address;
        thread::spawn(move || sender.send(answer(address, &request)));
        Held(receiver)
    }

    pub(super) fn gauge(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").body;
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.model.finish_loading();
        self.model.hold(false);
        // The command is sent at once; the future only waits for its end.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Two ranks on this machine's CPUs.
fn model(alphabet: &Arc<Alphabet>) -> Model {
    let tokenizer = Arc::new(Tokenizer::from_gguf(vocab()).unwrap());
    let template = ChatTemplate::new(TEMPLATE, tokenizer.special_tokens()).unwrap();
    let places =
        assign::resolve(&Identity::default(), None, Some(2), &assign::read_machine()).unwrap();
    let alphabet = Arc::clone(alphabet);
    Model {
        vocab_size: tokenizer.vocab_size(),
        text: ModelText {
            tokenizer,
            template: Some(Arc::new(template)),
            eos: vec![END],
            defaults: Defaults::default(),
        },
        limits: Limits {
            max_num_seqs: 4,
            max_num_batched_tokens: 64,
            max_model_len: 256,
            block_size: 8,
            block_count: 200,
            max_waiting: 8,
            rules: Rules::default(),
        },
        places,
        name: "alphabet".to_owned(),
        backend: Choice::Reference,
        load: Arc::new(move |shard: Shard, _| {
            alphabet.wait_until_loaded();
            Ok(Box::new(AlphabetRank {
                model: Arc::clone(&alphabet),
                rank: shard.rank,
            }))
        }),
    }
}

/// Token n is the n-th letter; then space, newline and the special tokens.
fn vocab() -> GgufVocab {
    let mut tokens: Vec<String> = (b'a'..=b'z')
        .map(|letter| char::from(letter).into())
        .collect();
    tokens.extend(["Ġ", "Ċ", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: "smollm".to_owned(),
        scores: Vec::new(),
        unknown: None,
        add_space_prefix: None,
        token_types: (0..30).map(|id| if id < 28 { 1 } else { 3 }).collect(),
        tokens,
        eos: Some(END),
        add_bos: Some(false),
        ..GgufVocab::default()
    }
}

// === impl Alphabet ===

impl Alphabet {
    /// Stops the next step until it is let go.
    pub(super) fn hold(&self, hold: bool) {
        self.hold.store(hold, Ordering::SeqCst);
    }

    /// Whether a step is stopped now.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// The step that runs or comes next fails.
    pub(super) fn fail(&self) {
        self.failing.store(true, Ordering::SeqCst);
        self.hold(false);
    }

    /// Rank 1's thread panics in the step that runs or comes next.
    pub(super) fn kill_a_rank(&self) {
        self.dying.store(true, Ordering::SeqCst);
        self.hold(false);
    }

    pub(super) fn finish_loading(&self) {
        self.loading.store(false, Ordering::SeqCst);
    }

    fn wait_until_loaded(&self) {
        while self.loading.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass(&self) {
        while self.hold.load(Ordering::SeqCst) {
            self.held.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
        }
        self.held.store(false, Ordering::SeqCst);
    }
}

impl Backend for AlphabetRank {
    fn step(&mut self, batch: &StepBatch) -> Result<Vec<Sampled>, StepError> {
        self.model.pass();
        let dies = self.rank == 1 && self.model.dying.load(Ordering::SeqCst);
        assert!(!dies, "killed by its test");
        if self.model.failing.load(Ordering::SeqCst) {
            return Err(StepError::PeerGone { rank: self.rank });
        }
        Ok(batch
            .sequences
            .iter()
            .filter(|_| self.rank == 0)
            .filter_map(spell)
            .collect())
    }
}

fn spell(sequence: &StepSequence) -> Option<Sampled> {
    let row = sequence.sample.as_ref()?;
    let seed = if row.sampling.temperature > 0.0 {
        row.sampling.seed
    } else {
        0
    };
    let letter = u32::try_from((row.output_position + seed) % 26).unwrap();
    let token = if row.output_position == END_AT {
        END
    } else {
        letter
    };
    let token = if row.forbidden.contains(&token) {
        (token + 1) % 26
    } else {
        token
    };
    Some(Sampled {
        id: sequence.id,
        token,
        logprob: -0.5,
        top_logprobs: (0..row.sampling.top_logprob_count)
            .zip(1_u8..)
            .map(|(rank, place)| TokenLogprob {
                token: u32::try_from(rank).unwrap(),
                logprob: -0.25 * f32::from(place),
            })
            .collect(),
    })
}

// === impl Answer ===

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The events, less what differs from run to run.
    pub(super) fn events(&self) -> String {
        let mut text = String::new();
        for event in self.body.split_inclusive("\n\n") {
            let json = event.strip_prefix("data: ").map(str::trim_end);
            match json.and_then(|json| serde_json::from_str::<Value>(json).ok()) {
                Some(mut value) => {
                    let object = value.as_object_mut().unwrap();
                    for name in ["id", "created", "model", "system_fingerprint"] {
                        object.remove(name);
                    }
                    text.push_str(&format!("data: {value}\n\n"));
                }
                None => text.push_str(event),
            }
        }
        text
    }
}

impl Held {
    pub(super) fn try_answer(&self) -> Option<Answer> {
        self.0.try_recv().ok()
    }
}

fn request(method: &str, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn answer(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    // A server that refuses a long body closes before it is all sent.
    let _ = stream.write_all(request);
    let bytes = read_to_end(&mut stream).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {text:?}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let is_chunked = headers
        .get("transfer-encoding")
        .is_some_and(|value| value == "chunked");
    let body = if is_chunked {
        dechunk(body)
    } else {
        body.to_owned()
    };
    Answer {
        status,
        headers,
        body,
    }
}

fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    match stream.read_to_end(&mut bytes) {
        // What was not read of the request resets the connection after the answer.
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !bytes.is_empty() => Ok(bytes),
        Err(error) => Err(error),
        Ok(_) => Ok(bytes),
    }
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    body
}
