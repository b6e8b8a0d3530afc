//! Exec: a further process in a running container.

message! {
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecCreateRequest {
        user: String = "User",
        privileged: bool = "Privileged",
        tty: bool = "Tty",
        /// Height, width.
        console_size: Option<[u32; 2]> = "ConsoleSize" omitempty,
        attach_stdin: bool = "AttachStdin",
        attach_stderr: bool = "AttachStderr",
        attach_stdout: bool = "AttachStdout",
        detach: bool = "Detach",
        detach_keys: String = "DetachKeys",
        env: Option<Vec<String>> = "Env",
        working_dir: String = "WorkingDir",
        cmd: Option<crate::wire::StrSlice> = "Cmd",
    }
}

message! {
    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStartRequest {
        detach: bool = "Detach",
        tty: bool = "Tty",
        console_size: Option<[u32; 2]> = "ConsoleSize" omitempty,
    }
}

message! {
    /// Answer of `GET /exec/{id}/json`.
    pub struct ExecInspect {
        id: String = "ID",
        running: bool = "Running",
        /// `null` while it has not ended.
        exit_code: Option<i64> = "ExitCode",
        process_config: ProcessConfig = "ProcessConfig",
        open_stdin: bool = "OpenStdin",
        open_stderr: bool = "OpenStderr",
        open_stdout: bool = "OpenStdout",
        can_remove: bool = "CanRemove",
        container_id: String = "ContainerID",
        detach_keys: String = "DetachKeys",
        pid: i64 = "Pid",
    }
}

message! {
    /// What an exec runs. Go writes these names in lower case.
    pub struct ProcessConfig {
        tty: bool = "tty",
        entrypoint: String = "entrypoint",
        arguments: Vec<String> = "arguments",
        privileged: Option<bool> = "privileged" omitempty,
        user: String = "user" omitempty,
    }
}

impl crate::wire::Empty for Option<[u32; 2]> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}
