//! What a request asks of the scheduler.

use std::time::Duration;

use berth_engine_core::policy::{TenantId, Terms};

use crate::http::error::ApiError;
use crate::http::fields::Fields;

/// Every sequence of a request has its own copy.
const CACHE_SALT_BYTES_MAX: usize = 256;

/// `first_token_ms` is ours, `user` OpenAI's, the others vLLM's.
pub(super) fn take(fields: &mut Fields) -> Result<Terms, ApiError> {
    let cache_salt = cache_salt(fields)?;
    let user = fields.take::<String>("user")?;
    Ok(Terms {
        priority: fields.take("priority")?.unwrap_or(0),
        first_token: fields.take("first_token_ms")?.map(Duration::from_millis),
        tenant: user.map_or_else(TenantId::default, |user| TenantId::named(&user)),
        cache_salt,
    })
}

fn cache_salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let name = "cache_salt";
    let salt = fields.take::<String>(name)?;
    match salt.as_ref().map(String::len) {
        Some(0) => Err(ApiError::invalid(name, "`cache_salt` must not be empty")),
        Some(length) if length > CACHE_SALT_BYTES_MAX => Err(ApiError::invalid(
            name,
            format!("`cache_salt` may have {CACHE_SALT_BYTES_MAX} bytes"),
        )),
        _ => Ok(salt),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value) -> Result<Terms, ApiError> {
        take(&mut Fields(body.as_object().expect("an object").clone()))
    }

    #[test]
    fn terms_are_read_and_nothing_said_is_nobody_in_no_hurry() {
        assert_eq!(read(&json!({})).unwrap(), Terms::default());
        let said = json!({"priority": -3, "first_token_ms": 250, "user": "a", "cache_salt": "s"});
        let expected = Terms {
            priority: -3,
            first_token: Some(Duration::from_millis(250)),
            tenant: TenantId::named("a"),
            cache_salt: Some("s".to_owned()),
        };
        assert_eq!(read(&said).unwrap(), expected);
        assert_ne!(TenantId::named("a"), TenantId::named("b"));
    }

    #[test]
    fn wrong_terms_are_refused_by_their_name() {
        for (name, value) in [
            ("cache_salt", json!("")),
            ("cache_salt", json!("s".repeat(257))),
            ("priority", json!("high")),
            ("first_token_ms", json!(-1)),
            ("user", json!(7)),
        ] {
            let error = read(&json!({ name: value })).unwrap_err();
            assert_eq!(error.body()["error"]["param"], name);
        }
        assert!(read(&json!({"cache_salt": "s".repeat(256)})).is_ok());
    }
}
