//! Every refusal a client can see, and its status.
//!
//! The body is what OpenAI's clients read, with vLLM's types:
//! `{"error":{"message","type","param","code"}}`, `code` being the status.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, ResponseError};
use berth_engine_core::schedule::Rejected;
use serde_json::{Value, json};

/// A busy server is worth another try after this long.
const RETRY_AFTER_S: u32 = 1;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{message}")]
    Invalid {
        message: String,
        param: Option<String>,
    },
    #[error("the model `{0}` does not exist")]
    UnknownModel(String),
    #[error("there is no {0} here")]
    UnknownRoute(String),
    #[error("{0} does not take this method")]
    Method(String),
    #[error("the request body is longer than the {bytes_max} bytes allowed")]
    TooLarge { bytes_max: usize },
    #[error("the request body did not arrive within {} s", .0.as_secs_f64())]
    Slow(Duration),
    #[error("{0}; try again later")]
    Busy(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

// === impl ApiError ===

impl ApiError {
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
            param: Some(param.into()),
        }
    }

    /// What is said of a prompt is said of the messages that it was made of.
    pub(crate) fn of_chat(mut self) -> Self {
        if let Self::Invalid { param, .. } = &mut self
            && param.as_deref() == Some("prompt")
        {
            *param = Some("messages".to_owned());
        }
        self
    }

    /// The body, for an error that comes in the middle of a stream too.
    pub(crate) fn body(&self) -> Value {
        let status = self.status_code();
        let param = match self {
            Self::Invalid { param, .. } => param.as_deref(),
            Self::UnknownModel(_) => Some("model"),
            _ => None,
        };
        json!({"error": {
            "message": self.to_string(),
            "type": kind(status),
            "param": param,
            "code": status.as_u16(),
        }})
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel(_) | Self::UnknownRoute(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if matches!(self, Self::Busy(_) | Self::Unavailable(_)) {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_S));
        }
        if matches!(self, Self::Slow(_)) {
            response.force_close();
        }
        response.json(self.body())
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let param = match rejected {
            Rejected::QueueFull { .. } => return Self::Busy(rejected.to_string()),
            Rejected::NoOutputWanted => "max_tokens",
            Rejected::EmptyPrompt | Rejected::PromptTooLong { .. } | Rejected::NeverFits { .. } => {
                "prompt"
            }
        };
        Self::invalid(param, rejected.to_string())
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    }
}

/// The error with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
