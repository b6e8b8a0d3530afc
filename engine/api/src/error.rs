//! The body of every error answer.

message! {
    /// `{"message": "..."}`.
    pub struct ErrorResponse {
        message: String = "message",
    }
}

message! {
    /// Answer that carries the id of what was made (commit, exec create).
    pub struct IdResponse {
        id: String = "Id",
    }
}
