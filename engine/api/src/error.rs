//! The body of every error answer.

message! {
    /// `{"message": "..."}`. `kind` is Kelson's own and only there where the status does not tell enough:
    /// `command_not_found` and `command_not_executable` become the exit codes 127 and 126.
    pub struct ErrorResponse {
        message: String = "message",
        kind: String = "kind" omitempty,
    }
}

message! {
    /// Answer that carries the id of what was made (commit, exec create).
    pub struct IdResponse {
        id: String = "Id",
    }
}
