//! What the extender promised is what the container gets: agent and device plugin on a real kubelet.

use anyhow::Result;
use berth_it::given::Dgx;
use berth_it::pods::{create, gpu_pod};
use berth_it::real_node::{delete_pod, holding_here};
use berth_it::story::story;

#[test]
fn a_container_has_exactly_the_gpus_that_were_promised_in_rank_order() -> Result<()> {
    story(async |stage| {
        let dgx = Dgx::start(stage, &[]).await?;
        let client = dgx.client();
        // Takes one of the quad with NVLink that a kubelet of its own would give next.
        for (name, count) in [("single", 1), ("quad", 4), ("two", 2)] {
            create(client, &holding_here(gpu_pod(name, count, &[]), None)).await?;
            dgx.has_what_was_promised(name).await?;
        }
        dgx.says_what_was_given("quad").await?;

        delete_pod(client, "single").await?;
        create(client, &holding_here(gpu_pod("next", 1, &[]), None)).await?;
        dgx.has_what_was_promised("next").await
    })
}
