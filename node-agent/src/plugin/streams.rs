//! How many streams of devices are open: the kubelet holds one as long as it takes devices from us.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts open streams and ends them.
#[derive(Debug)]
pub(crate) struct Streams {
    count: watch::Sender<usize>,
    closing: watch::Receiver<bool>,
}

/// One open stream; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    streams: Arc<Streams>,
    closing: watch::Receiver<bool>,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new(closing: watch::Receiver<bool>) -> Arc<Self> {
        let count = watch::Sender::new(0);
        Arc::new(Self { count, closing })
    }

    pub(crate) fn open(self: &Arc<Self>) -> Open {
        self.count.send_modify(|count| *count += 1);
        Open {
            streams: self.clone(),
            closing: self.closing.clone(),
        }
    }

    /// Changes whenever a stream opens or ends.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }
}

// === impl Open ===

impl Open {
    /// Resolves when the session is over.
    pub(crate) async fn closed(&mut self) {
        let _ = self.closing.wait_for(|closing| *closing).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams
            .count
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}
