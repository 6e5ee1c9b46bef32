//! How the next token is chosen: what the request says, else the model, else vLLM's defaults.

use berth_engine_core::sampling::{Penalties, Sampling};

use super::super::error::ApiError;
use super::super::fields::Fields;
use super::numbers::real;
use crate::model::Defaults;

pub(super) fn take(
    fields: &mut Fields,
    defaults: &Defaults,
    top_logprob_count: usize,
) -> Result<Sampling, ApiError> {
    let neutral = Sampling::default();
    let temperature = real(fields, "temperature", |it| it >= 0.0, "0 or more")?;
    let top_p = real(
        fields,
        "top_p",
        |it| it > 0.0 && it <= 1.0,
        "above 0 and at most 1",
    )?;
    let min_p = real(fields, "min_p", |it| (0.0..=1.0).contains(&it), "0 to 1")?;
    let top_k = top_k(fields)?;
    Ok(Sampling {
        temperature: temperature
            .or(defaults.temperature)
            .unwrap_or(neutral.temperature),
        top_p: top_p.or(defaults.top_p).unwrap_or(neutral.top_p),
        top_k: top_k.or(defaults.top_k).unwrap_or(neutral.top_k),
        min_p: min_p.or(defaults.min_p).unwrap_or(neutral.min_p),
        penalties: penalties(fields, defaults)?,
        top_logprob_count,
        ..neutral
    })
}

fn top_k(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let number = |top_k| match top_k {
        // -1 keeps all, as 0 does.
        -1 => Ok(0),
        top_k => u32::try_from(top_k)
            .map_err(|_| ApiError::invalid("top_k", "`top_k` must be -1, 0 or a number of tokens")),
    };
    fields.take::<i64>("top_k")?.map(number).transpose()
}

fn penalties(fields: &mut Fields, defaults: &Defaults) -> Result<Penalties, ApiError> {
    let neutral = Penalties::default();
    let is_usual = |it: f32| (-2.0..=2.0).contains(&it);
    let repetition = real(fields, "repetition_penalty", |it| it > 0.0, "above 0")?;
    let frequency = real(fields, "frequency_penalty", is_usual, "-2 to 2")?;
    let presence = real(fields, "presence_penalty", is_usual, "-2 to 2")?;
    Ok(Penalties {
        repetition: repetition
            .or(defaults.repetition_penalty)
            .unwrap_or(neutral.repetition),
        frequency: frequency.unwrap_or(neutral.frequency),
        presence: presence.unwrap_or(neutral.presence),
    })
}
