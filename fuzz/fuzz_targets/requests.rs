//! Any bytes as a body of kube-scheduler's: an error or a request, never a panic.

#![no_main]

use berth_extender::wire::{BindingArgs, ExtenderArgs, FilterResult, PreemptionArgs, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(args) = decode::<ExtenderArgs>("filter", body) {
        let sent = args.names().len();
        let answer = FilterResult::in_form_of(args, |name| name.len() % 2 == 0);
        assert!(answer.node_names.map_or(0, |kept| kept.len()) <= sent);
    }
    if let Ok(args) = decode::<PreemptionArgs>("preempt", body) {
        let _ = args.victims();
    }
    if let Ok(args) = decode::<BindingArgs>("bind", body) {
        let _ = args.request();
    }
});
