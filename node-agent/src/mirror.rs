//! What is published, kept up to date elsewhere too, in another form.

use std::sync::Arc;
use std::time::Duration;

use berth_topology::node::Status;
use tokio::sync::watch;
use tracing::{info, warn};

/// After a failure, which is told once: a folder may be mounted later, a CRD installed.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Writes the `form` of what is published whenever it would say something else, until nobody tells what is
/// published. `name` is what people call it.
pub(crate) async fn keep<T: Clone + PartialEq, W: Future<Output = anyhow::Result<()>>>(
    name: String,
    mut published: watch::Receiver<Option<Arc<Status>>>,
    form: impl Fn(&Status) -> T,
    write: impl Fn(T) -> W,
) {
    let (mut written, mut told) = (None, String::new());
    loop {
        let status = published.borrow_and_update().clone();
        let now = status.as_deref().map(&form);
        match now {
            Some(now) if written.as_ref() != Some(&now) => match write(now.clone()).await {
                Ok(()) => {
                    info!("{name}");
                    (written, told) = (Some(now), String::new());
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if why != told {
                        warn!("{name}: {why}; trying again");
                        told = why;
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            },
            _ => {}
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}
