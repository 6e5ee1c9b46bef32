//! What the extender says of its own requests.

use anyhow::{Result, ensure};
use berth_it::http1;
use serde_json::{Value, json};

/// Count, mean and bound of each verb that was asked.
pub(crate) async fn read(extender_port: u16) -> Result<Value> {
    let answer = http1::get(extender_port, "/metrics").await?;
    ensure!(answer.status == 200, "/metrics answers {}", answer.status);
    let verbs =
        ["filter", "prioritize", "bind"].map(|verb| (verb.to_owned(), of_verb(&answer.body, verb)));
    Ok(Value::Object(verbs.into_iter().collect()))
}

fn of_verb(text: &str, verb: &str) -> Value {
    let label = format!("verb=\"{verb}\"");
    let lines = text
        .lines()
        .filter(|line| line.contains("request") && line.contains(&label));
    let lines: Vec<(&str, f64)> = lines.filter_map(sample).collect();
    let named = |end: &str| {
        let is_it = |line: &&(&str, f64)| {
            line.0
                .split('{')
                .next()
                .is_some_and(|name| name.ends_with(end))
        };
        lines.iter().find(is_it).map(|line| line.1)
    };
    let (Some(sum), Some(count)) = (named("_sum"), named("_count")) else {
        return Value::Null;
    };
    // The first bucket that holds every request.
    let bound = lines
        .iter()
        .find(|(name, value)| name.contains("_bucket") && *value >= count);
    let bound = bound.and_then(|(name, _)| name.split("le=\"").nth(1)?.split('"').next());
    json!({"count": count, "mean_ms": sum / count.max(1.0) * 1_000.0, "all_within_s": bound})
}

fn sample(line: &str) -> Option<(&str, f64)> {
    let (name, rest) = line.split_once("} ")?;
    Some((name, rest.split_whitespace().next()?.parse().ok()?))
}
