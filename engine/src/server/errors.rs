//! Errors as clients see them: `{"message": ...}` and a status. The only place that maps kinds to statuses.

use super::body::{Body, Reply};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_api::ErrorResponse;
use std::fmt;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// One sentence for the user.
    pub message: String,
    /// What the status does not tell, see [`ErrorResponse`].
    pub kind: &'static str,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $status:ident;)*) => {
        impl ApiError { $(
            $(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                ApiError { status: StatusCode::$status, message: message.into(), kind: "" }
            }
        )* }
    };
}

constructors! {
    /// The request itself is wrong.
    invalid = BAD_REQUEST;
    /// The object does not exist.
    not_found = NOT_FOUND;
    /// The object is in a state that forbids the action.
    conflict = CONFLICT;
    /// Known to the API, not done by this engine yet.
    not_implemented = NOT_IMPLEMENTED;
    /// Cannot be done now.
    unavailable = SERVICE_UNAVAILABLE;
    /// A bug or a broken host.
    internal = INTERNAL_SERVER_ERROR;
}

/// Statuses by kind of core's errors: moby's `httpstatus` table.
fn core_status(kind: kelson_core::Kind) -> StatusCode {
    use kelson_core::Kind;
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<kelson_core::Error> for ApiError {
    fn from(error: kelson_core::Error) -> Self {
        let kind = match error.exit_code() {
            Some(127) => "command_not_found",
            Some(126) => "command_not_executable",
            _ => "",
        };
        ApiError {
            status: core_status(error.kind()),
            message: error.to_string(),
            kind,
        }
    }
}

/// Statuses by kind of the image store's errors.
fn images_status(kind: kelson_images::Kind) -> StatusCode {
    use kelson_images::Kind;
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        // A registry does not tell "hidden" from "not there", and moby answers 404 to both.
        Kind::Denied => StatusCode::NOT_FOUND,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // The enum may grow; a kind we do not know yet is our fault, not the client's.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<kelson_images::Error> for ApiError {
    fn from(error: kelson_images::Error) -> Self {
        ApiError {
            status: images_status(error.kind()),
            message: error.to_string(),
            kind: "",
        }
    }
}

impl From<kelson_formats::Error> for ApiError {
    fn from(error: kelson_formats::Error) -> Self {
        ApiError::invalid(error.to_string())
    }
}

impl From<kelson_api::filters::FilterError> for ApiError {
    fn from(error: kelson_api::filters::FilterError) -> Self {
        ApiError::invalid(error.to_string())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// The answer. A 304 carries no body: it is how docker says "already so".
    pub fn into_reply(self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return super::body::status(self.status);
        }
        let mut text = serde_json::to_vec(&ErrorResponse {
            message: self.message,
            kind: self.kind.to_owned(),
        })
        .unwrap_or_default();
        text.push(b'\n');
        let mut reply = Response::new(Body::from(Bytes::from(text)));
        *reply.status_mut() = self.status;
        reply
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_core::Kind;

    #[test]
    fn every_kind_has_its_status() {
        let table = [
            (Kind::NotFound, 404),
            (Kind::Conflict, 409),
            (Kind::Invalid, 400),
            (Kind::NotModified, 304),
            (Kind::Unsupported, 501),
            (Kind::Denied, 403),
            (Kind::Unavailable, 503),
            (Kind::Internal, 500),
        ];
        for (kind, status) in table {
            assert_eq!(
                ApiError::from(kelson_core::Error::new(kind, "x")).status.as_u16(),
                status
            );
        }
    }

    #[test]
    fn bodies() {
        let text = |e: ApiError| match e.into_reply().into_body() {
            Body::Whole(Some(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => String::new(),
        };
        assert_eq!(
            text(ApiError::not_found("No such container: x")),
            "{\"message\":\"No such container: x\"}\n"
        );
        assert_eq!(
            text(kelson_core::Error::new(Kind::NotModified, "already").into()),
            ""
        );
        let missing = ApiError {
            kind: "command_not_found",
            ..ApiError::invalid("m")
        };
        assert_eq!(
            text(missing),
            "{\"message\":\"m\",\"kind\":\"command_not_found\"}\n"
        );
    }
}
