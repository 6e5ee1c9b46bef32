//! Asks the engine as any OpenAI client would.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;

/// A slow machine may take minutes over its first answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(600);
/// Readiness is asked again and again: one try may be short.
const READY_WAIT_MAX: Duration = Duration::from_secs(2);
/// An answer of any length that we ask for takes a tenth of it.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// A client of one engine.
#[derive(Clone)]
pub(super) struct Client {
    address: SocketAddr,
    http: ureq::Agent,
}

/// One answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    tokens: u64,
    took: Duration,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u64,
}

// === impl Client ===

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        // A proxy from the environment must not stand between us and our own machine.
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self {
            address,
            http: config.new_agent(),
        }
    }

    /// Whether it takes requests now; any failure is a no.
    pub(super) async fn is_ready(&self) -> bool {
        let client = self.clone();
        let ask = move || client.get("/ready", READY_WAIT_MAX).is_ok();
        tokio::task::spawn_blocking(ask).await.unwrap_or(false)
    }

    /// The name that it serves its model by.
    pub(super) async fn model(&self) -> anyhow::Result<String> {
        let client = self.clone();
        let body = tokio::task::spawn_blocking(move || client.get("/v1/models", ANSWER_WAIT_MAX))
            .await??;
        let models: Models = serde_json::from_str(&body).context("reading the engine's models")?;
        let first = models.data.into_iter().next();
        first
            .map(|model| model.id)
            .context("the engine names no model")
    }

    /// One greedy answer.
    pub(super) async fn chat(
        &self,
        model: &str,
        prompt: &str,
        max_tokens: usize,
    ) -> anyhow::Result<Answer> {
        let request = json!({
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        });
        let client = self.clone();
        let start = Instant::now();
        let ask = move || client.post("/v1/chat/completions", &request.to_string());
        let body = tokio::task::spawn_blocking(ask).await??;
        Answer::read(&body, start.elapsed())
    }

    /// The command that asks again.
    pub(super) fn curl(&self, model: &str) -> String {
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 64,
        });
        // A single quote would end the shell's string.
        let body = body.to_string().replace('\'', r"'\''");
        let url = format!("http://{}/v1/chat/completions", self.address);
        format!("  curl -s {url} -H 'content-type: application/json' \\\n    -d '{body}'")
    }

    fn get(&self, path: &str, wait_max: Duration) -> anyhow::Result<String> {
        let url = format!("http://{}{path}", self.address);
        let request = self
            .http
            .get(&url)
            .config()
            .timeout_global(Some(wait_max))
            .build();
        let response = request.call().with_context(|| format!("asking {url}"))?;
        body(response, &url)
    }

    fn post(&self, path: &str, json: &str) -> anyhow::Result<String> {
        let url = format!("http://{}{path}", self.address);
        let request = self
            .http
            .post(&url)
            .config()
            .timeout_global(Some(ANSWER_WAIT_MAX))
            .build();
        let request = request.header("content-type", "application/json");
        let response = request
            .send(json)
            .with_context(|| format!("asking {url}"))?;
        body(response, &url)
    }
}

// === impl Answer ===

impl Answer {
    fn read(body: &str, took: Duration) -> anyhow::Result<Self> {
        let completion: Completion =
            serde_json::from_str(body).context("reading the engine's answer")?;
        let first = completion
            .choices
            .into_iter()
            .next()
            .context("the engine's answer has no choice")?;
        let text = first.message.content.unwrap_or_default();
        Ok(Self {
            text,
            tokens: completion.usage.completion_tokens,
            took,
        })
    }

    /// How fast, the prompt included.
    pub(super) fn speed(&self) -> String {
        let seconds = self.took.as_secs_f64();
        let tokens = u32::try_from(self.tokens).unwrap_or(u32::MAX);
        let rate = f64::from(tokens) / seconds.max(1e-9);
        format!("{tokens} tokens in {seconds:.2} s, {rate:.1} tokens per second")
    }
}

fn body(mut response: http::Response<ureq::Body>, url: &str) -> anyhow::Result<String> {
    let status = response.status();
    let body = response
        .body_mut()
        .with_config()
        .limit(BODY_BYTES_MAX)
        .read_to_string();
    let body = body.with_context(|| format!("reading the answer of {url}"))?;
    if !status.is_success() {
        let start: String = body.chars().take(500).collect();
        bail!("{url} answered {status}: {start}");
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_counts_what_was_generated() {
        let body = r#"{"choices":[{"message":{"role":"assistant","content":"Aye."}}],
                       "usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#;
        let answer = Answer::read(body, Duration::from_millis(1_500)).unwrap();
        assert_eq!(answer.text, "Aye.");
        assert_eq!(answer.speed(), "12 tokens in 1.50 s, 8.0 tokens per second");
    }

    #[test]
    fn an_answer_without_choices_is_an_error() {
        let body = r#"{"choices":[],"usage":{"completion_tokens":0}}"#;
        assert!(Answer::read(body, Duration::ZERO).is_err());
        assert!(Answer::read("<html>", Duration::ZERO).is_err());
    }

    #[test]
    fn curl_survives_quotes_in_a_model_name() {
        let client = Client::new(([127, 0, 0, 1], 8000).into());
        assert!(client.curl("it's").contains(r"it'\''s"));
    }
}
