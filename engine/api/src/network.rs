//! Networks, endpoints, and a container's view of them.

use crate::host_config::PortMap;
use crate::wire::{Empty, Unit};
use crate::{Map, ZERO_TIME};

message! {
    /// Networks to join at create, by name.
    pub struct NetworkingConfig {
        endpoints_config: Option<Map<Option<EndpointSettings>>> = "EndpointsConfig" omitempty,
    }
}

message! {
    /// One container's place on one network; as request (first block) and as state (second).
    pub struct EndpointSettings {
        ipam_config: Option<EndpointIpamConfig> = "IPAMConfig",
        links: Option<Vec<String>> = "Links",
        aliases: Option<Vec<String>> = "Aliases",
        mac_address: String = "MacAddress",
        driver_opts: Option<Map<String>> = "DriverOpts",
        gw_priority: i64 = "GwPriority",
        network_id: String = "NetworkID",
        endpoint_id: String = "EndpointID",
        gateway: String = "Gateway",
        ip_address: String = "IPAddress",
        ip_prefix_len: i64 = "IPPrefixLen",
        ipv6_gateway: String = "IPv6Gateway",
        global_ipv6_address: String = "GlobalIPv6Address",
        global_ipv6_prefix_len: i64 = "GlobalIPv6PrefixLen",
        dns_names: Option<Vec<String>> = "DNSNames",
    }
}

message! {
    /// Addresses asked for.
    pub struct EndpointIpamConfig {
        ipv4_address: String = "IPv4Address" omitempty,
        ipv6_address: String = "IPv6Address" omitempty,
        link_local_ips: Option<Vec<String>> = "LinkLocalIPs" omitempty,
    }
}

message! {
    /// `NetworkSettings` of container inspect.
    pub struct NetworkSettings {
        bridge: String = "Bridge",
        sandbox_id: String = "SandboxID",
        sandbox_key: String = "SandboxKey",
        /// `{}` when nothing is published, so never `None` in an answer.
        ports: Option<PortMap> = "Ports",
        hairpin_mode: bool = "HairpinMode",
        link_local_ipv6_address: String = "LinkLocalIPv6Address",
        link_local_ipv6_prefix_len: i64 = "LinkLocalIPv6PrefixLen",
        secondary_ip_addresses: Option<Vec<Address>> = "SecondaryIPAddresses",
        secondary_ipv6_addresses: Option<Vec<Address>> = "SecondaryIPv6Addresses",
        endpoint_id: String = "EndpointID",
        gateway: String = "Gateway",
        global_ipv6_address: String = "GlobalIPv6Address",
        global_ipv6_prefix_len: i64 = "GlobalIPv6PrefixLen",
        ip_address: String = "IPAddress",
        ip_prefix_len: i64 = "IPPrefixLen",
        ipv6_gateway: String = "IPv6Gateway",
        mac_address: String = "MacAddress",
        networks: Option<Map<EndpointSettings>> = "Networks",
    }
}

message! {
    /// An address with its prefix length.
    pub struct Address {
        addr: String = "Addr",
        prefix_len: i64 = "PrefixLen",
    }
}

message! {
    /// A network, as listed and as inspected (the list leaves `Containers` empty).
    pub struct Network {
        name: String = "Name",
        id: String = "Id",
        created: String = "Created",
        scope: String = "Scope",
        driver: String = "Driver",
        enable_ipv4: bool = "EnableIPv4",
        enable_ipv6: bool = "EnableIPv6",
        ipam: Ipam = "IPAM",
        internal: bool = "Internal",
        attachable: bool = "Attachable",
        ingress: bool = "Ingress",
        config_from: ConfigReference = "ConfigFrom",
        config_only: bool = "ConfigOnly",
        containers: Option<Map<EndpointResource>> = "Containers",
        options: Option<Map<String>> = "Options",
        labels: Option<Map<String>> = "Labels",
    }
}

impl Network {
    /// A network with the time of creation set to Go's zero time.
    pub fn at_zero_time() -> Self {
        Network {
            created: ZERO_TIME.to_owned(),
            ..Network::default()
        }
    }
}

message! {
    /// Address management of a network.
    pub struct Ipam {
        driver: String = "Driver",
        options: Option<Map<String>> = "Options",
        config: Option<Vec<IpamConfig>> = "Config",
    }
}

message! {
    /// One pool of a network.
    pub struct IpamConfig {
        subnet: String = "Subnet" omitempty,
        ip_range: String = "IPRange" omitempty,
        gateway: String = "Gateway" omitempty,
        auxiliary_addresses: Option<Map<String>> = "AuxiliaryAddresses" omitempty,
    }
}

message! {
    /// Name of a configuration-only network.
    pub struct ConfigReference {
        network: String = "Network",
    }
}

message! {
    /// A container on a network.
    pub struct EndpointResource {
        name: String = "Name",
        endpoint_id: String = "EndpointID",
        mac_address: String = "MacAddress",
        ipv4_address: String = "IPv4Address",
        ipv6_address: String = "IPv6Address",
    }
}

message! {
    /// Body of `POST /networks/create`.
    pub struct NetworkCreateRequest {
        name: String = "Name",
        check_duplicate: Option<bool> = "CheckDuplicate" omitempty,
        driver: String = "Driver",
        scope: String = "Scope",
        enable_ipv4: Option<bool> = "EnableIPv4" omitempty,
        enable_ipv6: Option<bool> = "EnableIPv6" omitempty,
        ipam: Option<Ipam> = "IPAM",
        internal: bool = "Internal",
        attachable: bool = "Attachable",
        ingress: bool = "Ingress",
        config_only: bool = "ConfigOnly",
        config_from: Option<ConfigReference> = "ConfigFrom",
        options: Option<Map<String>> = "Options",
        labels: Option<Map<String>> = "Labels",
    }
}

message! {
    /// Answer of `POST /networks/create`.
    pub struct NetworkCreateResponse {
        id: String = "Id",
        warning: String = "Warning",
    }
}

message! {
    /// Body of `POST /networks/{id}/connect`.
    pub struct NetworkConnectRequest {
        container: String = "Container",
        endpoint_config: Option<EndpointSettings> = "EndpointConfig" omitempty,
    }
}

message! {
    /// Body of `POST /networks/{id}/disconnect`.
    pub struct NetworkDisconnectRequest {
        container: String = "Container",
        force: bool = "Force",
    }
}

message! {
    /// Answer of `POST /networks/prune`.
    pub struct NetworksPruneReport {
        networks_deleted: Option<Vec<String>> = "NetworksDeleted",
    }
}

impl Empty for Option<EndpointSettings> {
    fn empty(&self) -> bool {
        self.is_none()
    }
}

/// Set of container ports as in `ExposedPorts`.
pub type PortSet = Map<Unit>;
