//! Docker Engine API messages.
