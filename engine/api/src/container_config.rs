//! What a container runs, independent of the host: the part of a create request that an image can also carry.

use crate::wire::{Empty, StrSlice, Unit};
use crate::{HostConfig, Map, NetworkingConfig};

message! {
    /// Go's `container.Config`.
    pub struct ContainerConfig {
        hostname: String = "Hostname",
        domainname: String = "Domainname",
        user: String = "User",
        attach_stdin: bool = "AttachStdin",
        attach_stdout: bool = "AttachStdout",
        attach_stderr: bool = "AttachStderr",
        exposed_ports: Option<Map<Unit>> = "ExposedPorts" omitempty,
        tty: bool = "Tty",
        open_stdin: bool = "OpenStdin",
        stdin_once: bool = "StdinOnce",
        env: Option<Vec<String>> = "Env",
        cmd: Option<StrSlice> = "Cmd",
        healthcheck: Option<HealthConfig> = "Healthcheck" omitempty,
        args_escaped: bool = "ArgsEscaped" omitempty,
        image: String = "Image",
        volumes: Option<Map<Unit>> = "Volumes",
        working_dir: String = "WorkingDir",
        entrypoint: Option<StrSlice> = "Entrypoint",
        network_disabled: bool = "NetworkDisabled" omitempty,
        mac_address: String = "MacAddress" omitempty,
        on_build: Option<Vec<String>> = "OnBuild",
        labels: Option<Map<String>> = "Labels",
        stop_signal: String = "StopSignal" omitempty,
        stop_timeout: Option<i64> = "StopTimeout" omitempty,
        shell: Option<StrSlice> = "Shell" omitempty,
    }
}

message! {
    /// Health check; durations in nanoseconds, 0 means inherit.
    pub struct HealthConfig {
        test: Option<Vec<String>> = "Test" omitempty,
        interval: i64 = "Interval" omitempty,
        timeout: i64 = "Timeout" omitempty,
        start_period: i64 = "StartPeriod" omitempty,
        start_interval: i64 = "StartInterval" omitempty,
        retries: i64 = "Retries" omitempty,
    }
}

impl Empty for Option<HealthConfig> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}

/// Body of `POST /containers/create`: the configuration with two more fields beside it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ContainerCreateRequest {
    /// What to run.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// How it sits on this host.
    #[serde(rename = "HostConfig", default, skip_serializing_if = "Option::is_none")]
    pub host_config: Option<HostConfig>,
    /// Networks to join at create.
    #[serde(rename = "NetworkingConfig", default, skip_serializing_if = "Option::is_none")]
    pub networking_config: Option<NetworkingConfig>,
}

message! {
    /// The two fields of a create request beside the configuration.
    pub struct ContainerCreateSides {
        host_config: Option<HostConfig> = "HostConfig",
        networking_config: Option<NetworkingConfig> = "NetworkingConfig",
    }
}

impl ContainerCreateRequest {
    /// Decodes a body as Go does (see [`crate::wire::from_slice`]); `#[serde(flatten)]` alone would match exact case only.
    ///
    /// # Errors
    /// Malformed JSON or a value of the wrong type.
    pub fn from_slice(body: &[u8]) -> Result<Self, serde_json::Error> {
        let config = crate::wire::from_slice(body)?;
        let sides: ContainerCreateSides = crate::wire::from_slice(body)?;
        Ok(ContainerCreateRequest {
            config,
            host_config: sides.host_config,
            networking_config: sides.networking_config,
        })
    }
}
