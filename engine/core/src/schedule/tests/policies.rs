//! Who goes first, and that nobody is left behind.

use super::fake::{FakeModel, limits, request};
use super::*;

/// One sequence runs at a time, all of its prompt in one step.
fn one_by_one(policy: Policy) -> Limits {
    Limits {
        max_num_seqs: 1,
        rules: Rules {
            policy,
            ..Rules::default()
        },
        ..limits()
    }
}

fn with(id: u64, terms: Terms) -> Request {
    Request {
        terms,
        ..request(id, 2, 2)
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// In which order these finish, each submitted at its time.
#[track_caller]
fn check(limits: Limits, requests: &[(u64, Request)], expected: &[u64]) {
    let mut scheduler = Scheduler::new(limits);
    let mut model = FakeModel::new(limits.block_size);
    for (at_s, request) in requests {
        scheduler.submit(request.clone(), seconds(*at_s)).unwrap();
    }
    let mut order = vec![];
    while let Some(batch) = scheduler.next() {
        let outputs = scheduler.advance(&model.step(&batch));
        let ended = outputs.iter().filter(|output| output.finish.is_some());
        order.extend(ended.map(|output| output.id.0));
    }
    assert_eq!(order, expected);
}

#[test]
fn priority_goes_before_arrival_and_waiting_counts() {
    let priority = |id, priority| {
        let terms = Terms {
            priority,
            ..Terms::default()
        };
        with(id, terms)
    };
    let requests = [
        (0, priority(0, 1)),
        (1, priority(1, 0)),
        (2, priority(2, -1)),
        (100, priority(3, 0)),
    ];
    check(one_by_one(Policy::Fcfs), &requests, &[0, 1, 2, 3]);
    check(one_by_one(Policy::Priority), &requests, &[2, 1, 0, 3]);
}

#[test]
fn the_earliest_deadline_is_first() {
    let within = |id, first_token_s| {
        let terms = Terms {
            first_token: Some(seconds(first_token_s)),
            ..Terms::default()
        };
        with(id, terms)
    };
    let requests = [
        (0, within(0, 60)),
        (1, within(1, 5)),
        (2, with(2, Terms::default())),
        (58, within(3, 1)),
    ];
    check(one_by_one(Policy::Deadline), &requests, &[2, 1, 3, 0]);
}

#[test]
fn a_tenant_with_many_requests_leaves_others_their_share() {
    let of = |id, tenant| {
        let terms = Terms {
            tenant: TenantId(tenant),
            ..Terms::default()
        };
        (0, with(id, terms))
    };
    let requests = [of(0, 1), of(1, 1), of(2, 1), of(3, 1), of(4, 2), of(5, 2)];
    check(one_by_one(Policy::Fair), &requests, &[0, 4, 1, 5, 2, 3]);
}

#[test]
fn a_newcomer_has_no_claim_on_what_others_were_given_before_it_came() {
    let of = |id, tenant| {
        let terms = Terms {
            tenant: TenantId(tenant),
            ..Terms::default()
        };
        with(id, terms)
    };
    let mut scheduler = Scheduler::new(one_by_one(Policy::Fair));
    let mut model = FakeModel::new(limits().block_size);
    let mut served = |scheduler: &mut Scheduler| {
        let mut order = vec![];
        while let Some(batch) = scheduler.next() {
            let outputs = scheduler.advance(&model.step(&batch));
            let ended = outputs.iter().filter(|output| output.finish.is_some());
            order.extend(ended.map(|output| output.id.0));
        }
        order
    };
    for id in 0..10 {
        scheduler.submit(of(id, 1), seconds(id)).unwrap();
    }
    served(&mut scheduler);
    // Nobody was there when the newcomer came; then the first one comes back.
    for id in 10..14 {
        scheduler.submit(of(id, 2), seconds(id)).unwrap();
    }
    scheduler.submit(of(20, 1), seconds(20)).unwrap();
    assert_eq!(served(&mut scheduler), [10, 20, 11, 12, 13]);
}

#[test]
fn the_least_urgent_gives_way_though_it_was_admitted_first() {
    let limits = Limits {
        max_num_seqs: 2,
        block_count: 4,
        ..one_by_one(Policy::Priority)
    };
    let urgent = |id, priority| Request {
        max_tokens: 8,
        terms: Terms {
            priority,
            ..Terms::default()
        },
        ..request(id, 4, 1)
    };
    check(limits, &[(0, urgent(0, 0)), (0, urgent(1, 9))], &[0, 1]);
    let mut scheduler = Scheduler::new(limits);
    let mut model = FakeModel::new(limits.block_size);
    scheduler.submit(urgent(0, 9), START).unwrap();
    let mut step = |scheduler: &mut Scheduler| {
        let batch = scheduler.next().unwrap();
        scheduler.advance(&model.step(&batch));
        shape(&batch)
    };
    assert_eq!(step(&mut scheduler), "0:0+4*");
    scheduler.submit(urgent(1, 0), START).unwrap();
    assert_eq!(step(&mut scheduler), "0:4+1* 1:0+4*");
    for position in 5..8 {
        let other = position - 1;
        let expected = format!("0:{position}+1* 1:{other}+1*");
        assert_eq!(step(&mut scheduler), expected);
    }
    // Number 0 needs a third block: nobody less urgent runs, so it gives way itself.
    assert_eq!(step(&mut scheduler), "1:7+1*");
}

/// Requests of one kind keep coming, faster than they are served: another kind's is served too.
#[track_caller]
fn check_served(policy: Policy, rival: &Terms, patient: Terms) {
    let limits = one_by_one(policy);
    let mut scheduler = Scheduler::new(limits);
    let mut model = FakeModel::new(limits.block_size);
    scheduler.submit(with(0, patient), START).unwrap();
    let served = (1..2000).find(|turn| {
        let (id, now) = (*turn, seconds(*turn));
        // Refused when too many wait.
        let _ = scheduler.submit(with(id, rival.clone()), now);
        let batch = scheduler.next().unwrap();
        let outputs = scheduler.advance(&model.step(&batch));
        outputs.iter().any(|output| output.id == SequenceId(0))
    });
    assert!(served.is_some(), "{policy:?}: starved");
}

#[test]
fn nobody_starves_beside_a_stream_of_more_urgent_requests() {
    let urgent = Terms {
        priority: -20,
        first_token: Some(Duration::ZERO),
        ..Terms::default()
    };
    let patient = Terms {
        priority: 3,
        first_token: Some(seconds(10_000)),
        tenant: TenantId(7),
        ..Terms::default()
    };
    for policy in [
        Policy::Fcfs,
        Policy::Priority,
        Policy::Deadline,
        Policy::Fair,
    ] {
        check_served(policy, &urgent, patient.clone());
    }
}
