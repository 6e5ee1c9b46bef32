//! Any bytes as a body of kube-scheduler's: an error or a request, never a panic.

#![no_main]

use berth_extender_core::decide::{No, Outcome, Verdicts};
use berth_extender::wire::{BindingArgs, ExtenderArgs, FilterResult, PreemptionArgs, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(args) = decode::<ExtenderArgs>("filter", body) {
        let sent = args.names();
        let outcome = |name: &&str| match name.len() % 2 {
            0 => Outcome::Fits(10),
            _ => Outcome::Refused(0),
        };
        let verdicts = Verdicts {
            outcomes: sent.iter().map(outcome).collect(),
            reasons: vec![No::OutOfTime],
            ..Verdicts::default()
        };
        let answer = FilterResult::of(&args, &verdicts);
        assert!(answer.node_names.as_ref().map_or(0, Vec::len) <= sent.len());
        let text = answer.encode(body).expect("what was read can be written");
        serde_json::from_slice::<serde_json::Value>(&text).expect("an answer is JSON");
    }
    if let Ok(args) = decode::<PreemptionArgs>("preempt", body) {
        let _ = args.victims();
    }
    if let Ok(args) = decode::<BindingArgs>("bind", body) {
        let _ = args.request();
    }
});
