//! One HTTP request over a connection of its own, for metrics, health and the engine's API.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer may take as long as a small model needs for a sentence on a loaded machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// No answer that the stories ask for comes near it.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// `GET` of a path on this machine.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn get(port: u16, path: &str) -> Result<Answer> {
    send(
        port,
        &format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
    )
    .await
}

/// `POST` of a JSON body.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn post(port: u16, path: &str, body: &serde_json::Value) -> Result<Answer> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    send(port, &(head + &body)).await
}

/// Version 1.0: the body ends with the connection, so nothing is chunked.
async fn send(port: u16, request: &str) -> Result<Answer> {
    let exchange = async {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, exchange)
        .await
        .with_context(|| format!("waiting for 127.0.0.1:{port}"))?
        .with_context(|| format!("asking 127.0.0.1:{port}"))?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("finding the end of the head")?;
    let status = head.split(' ').nth(1).context("finding the status")?;
    let status = status
        .parse()
        .with_context(|| format!("reading the status {status}"))?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

/// The samples of one metric, by their labels as written (`{verb="bind"}`, or nothing).
///
/// # Errors
/// When the scrape fails.
pub async fn samples(port: u16, metric: &str) -> Result<Vec<(String, f64)>> {
    let answer = get(port, "/metrics").await?;
    ensure!(answer.status == 200, "/metrics answered {}", answer.status);
    let lines = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix(metric));
    Ok(lines.filter_map(sample).collect())
}

/// `{labels} 1.0` or ` 1.0`; another metric's longer name gives nothing.
fn sample(rest: &str) -> Option<(String, f64)> {
    let (labels, value) = rest.rsplit_once(' ')?;
    let is_this_metric = labels.is_empty() || labels.starts_with('{');
    is_this_metric
        .then(|| Some((labels.to_owned(), value.parse().ok()?)))
        .flatten()
}
