//! A server of ours, and callers who take their time.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use berth_extender_core::fixtures::cluster;

use super::*;
use crate::http::tests::world;
use crate::http::{Listen, start};

/// Above what anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
const BETWEEN_MAX: Duration = Duration::from_secs(60);

// === impl Connections ===

impl Connections {
    /// How many are answered, and how many are not.
    fn count(&self) -> (usize, usize) {
        let all = lock(&self.all);
        let states = all.iter().filter_map(Weak::upgrade);
        let states: Vec<State> = states.map(|one| *lock(&one.state)).collect();
        let answered = states.iter().filter(|state| state.answering > 0).count();
        (answered, states.len() - answered)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// Bytes that came until there were some, or none at the end.
fn read(mut connection: &TcpStream) -> usize {
    connection.read(&mut [0; 4_096]).unwrap()
}

/// One lets its second head drip, the other the body of its first request.
fn call(address: SocketAddr, connections: &Connections) {
    let [mut drips, mut asks] = [(); 2].map(|()| connect(address));
    let head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    drips.write_all(head).unwrap();
    assert!(read(&drips) > 0);
    drips.write_all(&head[..9]).unwrap();
    let head = b"POST /simulate HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n{";
    asks.write_all(head).unwrap();
    let began = Instant::now();
    while connections.count() != (1, 1) {
        assert!(began.elapsed() < PATIENCE, "{:?}", connections.count());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(connections.look(began), 0, "nobody is late");
    let late = Instant::now() + BETWEEN_MAX + Duration::from_secs(1);
    assert_eq!(connections.look(late), 1);
    assert_eq!(read(&drips), 0, "it is closed");
    asks.write_all(br#""nodes": [], "pods": []}"#).unwrap();
    assert!(read(&asks) > 0, "it is answered");
}

#[actix_web::test]
async fn whoever_lets_a_later_head_drip_is_cut_off_and_whoever_is_answered_is_not() {
    let mut shared = world(cluster(&["a"]), None).shared;
    let connections = Arc::new(Connections::new(BETWEEN_MAX));
    shared.connections = connections.clone();
    let address = "127.0.0.1:0".to_owned();
    let (server, addresses) = start(Listen { address, tls: None }, shared).unwrap();
    let handle = server.handle();
    let serving = actix_web::rt::spawn(server);
    let callers = move || call(addresses[0], &connections);
    actix_web::rt::task::spawn_blocking(callers).await.unwrap();
    handle.stop(false).await;
    serving.await.unwrap().unwrap();
}
