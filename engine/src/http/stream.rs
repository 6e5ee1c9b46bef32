//! Answers as server-sent events: `data: {json}` lines, then `data: [DONE]`.
//!
//! When the client leaves, the server drops the stream, and with it the generation.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use futures::FutureExt as _;
use futures::stream::{Stream, unfold};
use serde_json::Value;

use super::error::ApiError;
use super::options::StreamUsage;
use super::reply::{Header, broken};
use crate::generation::{Generation, Piece};

const DONE: &str = "data: [DONE]\n\n";

/// ```text
/// opening ──► running ──► ended (usage and [DONE], or an error and [DONE])
/// ```
#[derive(Clone, Copy, Debug)]
enum Stage {
    Opening,
    Running,
    Ended,
}

struct Events {
    header: Header,
    generation: Generation,
    usage: StreamUsage,
    stage: Stage,
}

pub(super) fn response(header: Header, generation: Generation, usage: StreamUsage) -> HttpResponse {
    let events = Events {
        header,
        generation,
        usage,
        stage: Stage::Opening,
    };
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-cache"))
        // nginx would hold events back.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events.into_stream())
}

// === impl Events ===

impl Events {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        unfold(self, |mut events| async move {
            // A panic ends this stream as an error would.
            let bytes = match AssertUnwindSafe(events.next()).catch_unwind().await {
                Ok(bytes) => bytes?,
                Err(_) => events.broken_off(),
            };
            Some((Ok(Bytes::from(bytes)), events))
        })
    }

    async fn next(&mut self) -> Option<String> {
        match self.stage {
            Stage::Opening => {
                self.stage = Stage::Running;
                let opening = self.header.opening(&self.generation);
                if opening.is_empty() {
                    return self.running().await;
                }
                Some(opening.into_iter().map(|chunk| self.event(chunk)).collect())
            }
            Stage::Running => self.running().await,
            Stage::Ended => None,
        }
    }

    /// Tokens that add no text, because characters are held back, make no event.
    async fn running(&mut self) -> Option<String> {
        loop {
            match self.generation.next().await {
                Some(Ok(piece)) if !self.shows(&piece) => {}
                Some(Ok(piece)) => {
                    let chunk = self.header.piece(&piece, &self.generation);
                    return Some(self.event(chunk));
                }
                Some(Err(_)) => return Some(self.broken_off()),
                None => {
                    self.stage = Stage::Ended;
                    return Some(self.closing());
                }
            }
        }
    }

    fn broken_off(&mut self) -> String {
        self.stage = Stage::Ended;
        failure(&broken())
    }

    fn shows(&self, piece: &Piece) -> bool {
        !piece.text.is_empty() || piece.end.is_some() || self.header.shows_every_token()
    }

    fn closing(&self) -> String {
        if !self.usage.at_end {
            return DONE.to_owned();
        }
        let mut chunk = self.header.chunk(vec![]);
        chunk["usage"] = self.generation.usage();
        format!("data: {chunk}\n\n{DONE}")
    }

    /// With usage asked for at the end, every chunk before that says that it has none.
    fn event(&self, mut chunk: Value) -> String {
        if self.usage.always {
            chunk["usage"] = self.generation.usage();
        } else if self.usage.at_end {
            chunk["usage"] = Value::Null;
        }
        format!("data: {chunk}\n\n")
    }
}

/// The status line is long gone: clients look for a top-level `error`.
fn failure(error: &ApiError) -> String {
    format!("data: {}\n\n{DONE}", error.body())
}
