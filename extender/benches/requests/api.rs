//! An API server that lists and watches the generated cluster: paging and events as kube's watcher
//! reads them, over plain HTTP. Lists are of the beginning; what happened since is in the watches.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use actix_web::web::{self, Bytes, Data, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use futures::stream;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{Outcome, objects};

/// As the agents do.
const LEASE_EVERY: Duration = Duration::from_secs(15);
/// Leases are renewed in portions.
const PORTION_EVERY: Duration = Duration::from_millis(50);
/// Of the lists.
const FIRST_VERSION: u64 = 1;

/// Everything that is listed, as JSON.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) nodes: Vec<String>,
    pub(crate) topologies: Vec<String>,
    pub(crate) leases: Vec<String>,
    pub(crate) pods: Vec<String>,
    /// The nodes' names.
    pub(crate) names: Vec<String>,
}

/// What happens to one pod.
#[derive(Debug)]
pub(crate) struct Change {
    /// `ADDED` or `DELETED`.
    pub(crate) kind: &'static str,
    pub(crate) pod: String,
}

/// It runs until the process ends.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) url: String,
    log: Arc<Log>,
}

/// What has happened since the lists.
#[derive(Debug)]
struct Log {
    events: Mutex<Vec<Event>>,
    /// How many.
    length: watch::Sender<usize>,
}

#[derive(Debug)]
struct Event {
    is_pod: bool,
    line: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    limit: Option<usize>,
    #[serde(rename = "continue")]
    from: Option<String>,
    #[serde(default)]
    watch: bool,
    #[serde(rename = "resourceVersion")]
    version: Option<String>,
}

// === impl Api ===

impl Api {
    /// On that port of the loopback address; 0 is any free one.
    pub(crate) fn serve(objects: Outcome<Objects>, port: u16) -> Outcome<Self> {
        let objects = Arc::new(objects?);
        let log = Arc::new(Log::default());
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (served, followed) = (Data::from(objects.clone()), Data::from(log.clone()));
        thread::spawn(move || run(listener, served, followed));
        let renewed = log.clone();
        thread::spawn(move || renew(&objects.names, &renewed));
        Ok(Self { url, log })
    }

    /// The version of the next change.
    pub(crate) fn next_version(&self) -> u64 {
        self.log.next_version()
    }

    pub(crate) fn publish(&self, change: &Change) {
        let line = format!(
            "{{\"type\":\"{}\",\"object\":{}}}\n",
            change.kind, change.pod
        );
        self.log.push(Event { is_pod: true, line });
    }
}

fn run(listener: TcpListener, objects: Data<Objects>, log: Data<Log>) -> io::Result<()> {
    let app = move || {
        App::new()
            .app_data(objects.clone())
            .app_data(log.clone())
            .default_service(web::to(answer))
    };
    actix_web::rt::System::new().block_on(async {
        let server = HttpServer::new(app).workers(1).disable_signals();
        server.listen(listener)?.run().await
    })
}

/// Every agent, again and again.
fn renew(names: &[String], log: &Log) {
    let portion = names.len().div_ceil(300).max(1);
    for (round, second) in (0..).zip(1_i64..) {
        for part in names.chunks(portion) {
            thread::sleep(PORTION_EVERY.min(LEASE_EVERY));
            for name in part {
                // Its version only has to be one.
                let Ok(lease) = objects::lease(name, second, round + 2) else {
                    return;
                };
                let line = format!("{{\"type\":\"MODIFIED\",\"object\":{lease}}}\n");
                log.push(Event {
                    is_pod: false,
                    line,
                });
            }
        }
    }
}

async fn answer(request: HttpRequest, objects: Data<Objects>, log: Data<Log>) -> HttpResponse {
    let Ok(asked) = Query::<Asked>::from_query(request.query_string()) else {
        return HttpResponse::BadRequest().finish();
    };
    let kind = request.path().rsplit('/').next().unwrap_or_default();
    let none = Vec::new();
    let list = match kind {
        "nodes" => &objects.nodes,
        "nodetopologies" => &objects.topologies,
        "pods" => &objects.pods,
        "leases" if request.path().contains("berth-system") => &objects.leases,
        // Whatever else is watched, there is none of it.
        _ => &none,
    };
    if asked.watch {
        return follow(kind, &asked, &log);
    }
    HttpResponse::Ok()
        .content_type("application/json")
        .body(page(list, &asked))
}

fn page(list: &[String], asked: &Asked) -> String {
    let from = asked
        .from
        .as_deref()
        .and_then(|from| from.parse().ok())
        .unwrap_or(0);
    let rest = list.get(from..).unwrap_or_default();
    let items = &rest[..asked
        .limit
        .filter(|limit| *limit > 0)
        .unwrap_or(rest.len())
        .min(rest.len())];
    let next = from + items.len();
    let next = if next < list.len() {
        next.to_string()
    } else {
        String::new()
    };
    format!(
        "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{FIRST_VERSION}\",\
         \"continue\":\"{next}\"}},\"items\":[{}]}}",
        items.join(",")
    )
}

/// The events of that kind since the version asked for, and all that come.
fn follow(kind: &str, asked: &Asked, log: &Data<Log>) -> HttpResponse {
    let is_watched: fn(&Event) -> bool = match kind {
        "pods" => |event| event.is_pod,
        "leases" => |event| !event.is_pod,
        _ => |_| false,
    };
    // Only ever asked with the lists' version; after a break everything is told again.
    let _ = asked.version.as_deref();
    let start = (log.clone(), log.length.subscribe(), 0);
    let lines = stream::unfold(start, move |(log, mut length, mut position)| async move {
        loop {
            let (lines, now) = log.since(position, is_watched);
            position = now;
            if !lines.is_empty() {
                return Some((
                    Ok::<_, io::Error>(Bytes::from(lines)),
                    (log, length, position),
                ));
            }
            length.changed().await.ok()?;
        }
    });
    HttpResponse::Ok()
        .content_type("application/json")
        .streaming(lines)
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            length: watch::Sender::new(0),
        }
    }
}

impl Log {
    fn push(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        let length = events.len();
        drop(events);
        self.length.send_replace(length);
    }

    fn since(&self, position: usize, is_watched: fn(&Event) -> bool) -> (String, usize) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let new = events[position..].iter().filter(|event| is_watched(event));
        (new.map(|event| event.line.as_str()).collect(), events.len())
    }

    fn next_version(&self) -> u64 {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        FIRST_VERSION + 1 + u64::try_from(events.len()).unwrap_or(u64::MAX - 2)
    }
}
