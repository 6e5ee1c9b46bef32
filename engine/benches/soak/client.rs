//! Just enough HTTP, so that the clients cost little of the CPU that the engine needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Far above what an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Sends a request and reads nothing.
pub(crate) fn send(address: SocketAddr, path: &str, body: Option<&Value>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.map(ToString::to_string).unwrap_or_default();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n\
         {body}"
    )?;
    Ok(stream)
}

/// Status and everything after the head.
pub(crate) fn answer(
    address: SocketAddr,
    path: &str,
    body: Option<&Value>,
) -> io::Result<(u16, String)> {
    let mut text = String::new();
    send(address, path, body)?.read_to_string(&mut text)?;
    let fault = || io::Error::other(format!("no HTTP: {text:.80}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(fault)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(fault)?, body.to_owned()))
}
