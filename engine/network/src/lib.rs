//! Bridge, addresses, ports and firewall of containers.
