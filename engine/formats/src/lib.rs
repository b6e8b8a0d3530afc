//! Image references, credentials and other formats shared by client and daemon.
