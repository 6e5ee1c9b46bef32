//! Against callers that mean harm: everything ends, with a 4xx, and memory stays.
//!
//! The scheduler's verbs say 503 before they read anything; `/simulate` reads bodies by the same code and
//! needs no cluster.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::extender::Extender;

/// Above every limit of the server, with room for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// 91 MiB were seen. Five million empty pods, decoded, would be gigabytes.
const RESIDENT_KIB_MAX: u64 = 300 << 10;

fn start(folder: &TempDir) -> Extender {
    Extender::start(folder.path(), [""; 0])
}

// === impl Extender ===

impl Extender {
    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(&self.address).expect("the test can do this");
        connection
            .set_read_timeout(Some(PATIENCE))
            .expect("the test can do this");
        connection
            .set_write_timeout(Some(PATIENCE))
            .expect("the test can do this");
        connection
    }

    /// The status of a POST to `/simulate`, with whatever could be sent of the body.
    fn post(&self, body: &[u8]) -> u16 {
        let mut connection = self.connect();
        let head = format!(
            "POST /simulate HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection
            .write_all(head.as_bytes())
            .expect("the test can do this");
        // It may close before it has read everything.
        let _ = connection.write_all(body);
        status(&mut connection)
    }

    fn peak_resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))
            .expect("the test can do this");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("the test can do this");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("the test can do this")
    }
}

fn status(connection: &mut TcpStream) -> u16 {
    let mut first = [0; 12];
    connection
        .read_exact(&mut first)
        .expect("the test can do this");
    String::from_utf8_lossy(&first[9..])
        .parse()
        .expect("the test can do this")
}

/// Sends one byte a second until the server closes or answers; what it answered.
fn drip(mut connection: TcpStream, bytes: &[u8]) -> String {
    let began = Instant::now();
    let mut answer = Vec::new();
    connection
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("the test can do this");
    for byte in bytes.iter().cycle() {
        assert!(began.elapsed() < PATIENCE, "it is still listened to");
        let is_open = connection.write_all(&[*byte]).is_ok();
        let mut buffer = [0; 1_024];
        match connection.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(_) if is_open => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn bodies_that_are_no_request_get_a_4xx_and_memory_stays() {
    let folder = tempfile::tempdir().expect("the test can do this");
    let extender = start(&folder);
    assert_eq!(extender.post(br#"{"nodes": [], "pods": []}"#), 200);
    let deep = [b"{\"pods\":".to_vec(), vec![b'['; 1 << 20]].concat();
    let many = [&b"{\"pods\":["[..], &b"{},".repeat(5 << 20), b"{}]}"].concat();
    let objects = [&b"{\"pods\":["[..], &b"{},".repeat(400_000), b"{}]}"].concat();
    let names = [
        &b"{\"NodeNames\":["[..],
        &b"\"n\",".repeat(5 << 20),
        b"\"n\"]}",
    ]
    .concat();
    let long = [
        &b"{\"pods\":[{\"metadata\":{\"name\":\""[..],
        &[b'x'; 1 << 20],
        b"\"}}]",
    ]
    .concat();
    let twice = br#"{"pods": [], "pods": [], "nodes": 1}"#;
    let hostile: [&[u8]; 10] = [
        b"",
        b"\0",
        b"\xff\xfe{}",
        b"{\"pods\":\"\xc3\x28\"}",
        twice,
        &deep,
        &many,
        &objects,
        &names,
        &long,
    ];
    for round in 0..3 {
        for (index, body) in hostile.iter().enumerate() {
            assert_eq!(extender.post(body), 400, "body {index} in round {round}");
        }
        assert_eq!(extender.post(&vec![b' '; 33 << 20]), 413);
    }
    let peak = extender.peak_resident_kib();
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB");
    println!("at most {} MiB resident", peak >> 10);
}

#[test]
fn heads_that_are_none_or_have_no_end_are_refused() {
    let folder = tempfile::tempdir().expect("the test can do this");
    let extender = start(&folder);
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1_000));
    let large = format!(
        "GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n",
        "b".repeat(1 << 20)
    );
    for head in ["\0\r\n\r\n", "GET\r\n\r\n", &many, &large] {
        let mut connection = extender.connect();
        let _ = connection.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    let mut good = extender.connect();
    good.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("the test can do this");
    assert_eq!(status(&mut good), 200, "it still answers");
}

#[test]
fn whoever_sends_a_byte_a_second_is_cut_off() {
    let folder = tempfile::tempdir().expect("the test can do this");
    let extender = start(&folder);
    let head = b"POST /simulate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    std::thread::scope(|scope| {
        scope.spawn(|| drip(extender.connect(), b"A"));
        scope.spawn(|| {
            let mut connection = extender.connect();
            connection.write_all(head).expect("the test can do this");
            let answer = drip(connection, b" ");
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        });
    });
}
