//! Errors over ttrpc: a status code, a sentence, and a typed detail that survives the border.
//!
//! The detail rides in the status's `details` as one `Any` of type [`DETAIL_TYPE`] whose value is JSON, so a
//! client that does not know it still shows code and sentence.
use serde::{Deserialize, Serialize};
pub use ttrpc::Code;

/// `type_url` of the detail.
pub const DETAIL_TYPE: &str = "kelson/error";

/// Kind of an error whose cause is that the container's command does not exist (exit code 127 for users).
pub const COMMAND_NOT_FOUND: &str = "command_not_found";
/// Kind of an error whose cause is that the container's command cannot be executed (exit code 126 for users).
pub const COMMAND_NOT_EXECUTABLE: &str = "command_not_executable";

/// What a program matches on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The runtime's word for it: `command_not_found`, `not_found`, `invalid`, ...
    pub kind: String,
    /// The system call's error number, where one was the cause.
    #[serde(default)]
    pub errno: Option<i32>,
}

/// An error as the other side sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The status code; `UNKNOWN` for what is not a status.
    pub code: Code,
    /// The sentence for the user.
    pub message: String,
    /// The typed detail, if the shim had one.
    pub detail: Option<Detail>,
    /// True when the answer did not come from the shim: connection lost, deadline of this side passed.
    pub transport: bool,
}

/// Makes the ttrpc error that carries `message` and `detail`.
pub fn encode(code: Code, message: impl Into<String>, detail: Option<&Detail>) -> ttrpc::Error {
    let mut status = ttrpc::get_status(code, message.into());
    if let Some(value) = detail.and_then(|d| serde_json::to_vec(d).ok()) {
        let mut any = ttrpc::proto::Any::new();
        any.type_url = DETAIL_TYPE.to_owned();
        any.value = value;
        status.details.push(any);
    }
    ttrpc::Error::RpcStatus(status)
}

/// Reads back what [`encode`] made; any other ttrpc error becomes a [`Failure`] without detail.
#[must_use]
pub fn decode(error: &ttrpc::Error) -> Failure {
    let ttrpc::Error::RpcStatus(status) = error else {
        return Failure {
            code: Code::UNKNOWN,
            message: error.to_string(),
            detail: None,
            transport: true,
        };
    };
    let detail = status
        .details
        .iter()
        .find(|any| any.type_url == DETAIL_TYPE)
        .and_then(|any| serde_json::from_slice(&any.value).ok());
    Failure {
        code: status.code.enum_value_or(Code::UNKNOWN),
        message: status.message.clone(),
        detail,
        transport: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_survives() {
        let detail = Detail {
            kind: COMMAND_NOT_FOUND.into(),
            errno: Some(2),
        };
        let failure = decode(&encode(Code::NOT_FOUND, "exec: \"x\": not found", Some(&detail)));
        assert_eq!(failure.code, Code::NOT_FOUND);
        assert_eq!(failure.message, "exec: \"x\": not found");
        assert_eq!(failure.detail, Some(detail));
        assert!(!failure.transport);
    }

    #[test]
    fn a_lost_connection_is_not_the_shims_answer() {
        assert!(decode(&ttrpc::Error::Socket("gone".into())).transport);
    }
}
