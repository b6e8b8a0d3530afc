//! The JSON lines of pull, push, load, import and build.

use crate::wire::Empty;

message! {
    /// One line. Every field is optional; a line with `error` ends the stream.
    pub struct ProgressMessage {
        stream: String = "stream" omitempty,
        status: String = "status" omitempty,
        progress_detail: Option<ProgressDetail> = "progressDetail" omitempty,
        /// The bar as text; newer clients draw their own.
        progress: String = "progress" omitempty,
        id: String = "id" omitempty,
        error_detail: Option<ErrorDetail> = "errorDetail" omitempty,
        error: String = "error" omitempty,
        aux: Option<serde_json::Value> = "aux" omitempty,
    }
}

message! {
    /// Bytes done of bytes in all; empty (`{}`) on lines that only carry a status.
    pub struct ProgressDetail {
        current: i64 = "current" omitempty,
        total: i64 = "total" omitempty,
    }
}

message! {
    /// An error inside a stream whose headers said 200.
    pub struct ErrorDetail {
        code: i64 = "code" omitempty,
        message: String = "message",
    }
}

impl Empty for Option<ProgressDetail> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
impl Empty for Option<ErrorDetail> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}

impl ProgressMessage {
    /// A line with a status only.
    pub fn status(status: impl Into<String>) -> Self {
        ProgressMessage {
            status: status.into(),
            ..Self::default()
        }
    }
    /// The line that ends a stream in failure.
    pub fn failed(message: impl Into<String>) -> Self {
        let message = message.into();
        ProgressMessage {
            error_detail: Some(ErrorDetail {
                code: 0,
                message: message.clone(),
            }),
            error: message,
            ..Self::default()
        }
    }
}
