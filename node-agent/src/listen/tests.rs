//! The endpoint over a real socket, with clients that behave and clients that do not.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const POLL: Duration = Duration::from_secs(10);
/// Far more than a loaded machine needs.
const DEADLINE: Duration = Duration::from_secs(60);

async fn endpoint(tally: Arc<Tally>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint {
        address,
        tally,
        poll_every: POLL,
    };
    let mut serving = JoinSet::new();
    serving.spawn(endpoint.serve(listener));
    (address, serving)
}

/// All that comes back until the end.
async fn ask(address: SocketAddr, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // a reset after the answer is as good as an end
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    timeout(DEADLINE, exchange).await.unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: it\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_health_and_readiness_are_told_and_nothing_else() {
    let tally = Arc::new(Tally::default());
    drop(tally.probing());
    let (address, _serving) = endpoint(tally.clone()).await;
    let page = get(address, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("\nberth_node_probe_seconds_count 1\n"),
        "{page}"
    );
    assert!(get(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
    let unready = get(address, "/readyz").await;
    assert!(unready.starts_with("HTTP/1.1 503 "), "{unready}");
    assert!(unready.ends_with("nothing is published yet\n"), "{unready}");
    tally.published(None, Some(Instant::now()));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    let posted = ask(
        address,
        "POST /metrics HTTP/1.1\r\nhost: it\r\ncontent-length: 0\r\n\r\n",
    );
    assert!(posted.await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection_and_not_the_endpoint() {
    let (address, _serving) = endpoint(Arc::default()).await;
    let long = format!(
        "GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(100_000)
    );
    for wrong in ["\r\n\r\n\u{1}", "GET / HTTP/9.9\r\n\r\n", &long] {
        let answer = ask(address, wrong).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn silent_connections_do_not_take_more_than_their_room() {
    let (address, _serving) = endpoint(Arc::default()).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // one too many is closed at once, without an answer
    let mut last = TcpStream::connect(address).await.unwrap();
    let closed = timeout(DEADLINE, last.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    drop(silent);
    let answers = async {
        while !get(address, "/healthz").await.starts_with("HTTP/1.1 200 ") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, answers).await.unwrap();
}
