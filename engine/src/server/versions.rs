//! API version negotiation: the `/v1.NN` prefix, what we accept and what we answer otherwise.

use std::fmt;

/// An API version, `1.NN`. Only major version 1 exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32);

/// Oldest version that clients are told, moby's own limit.
pub const MIN: ApiVersion = ApiVersion(24);

/// Oldest version that is let in: `skopeo` and `buildah` of 2023 and before speak 1.22 and never ask what we have. What they use has
/// not changed since.
pub const OLDEST: ApiVersion = ApiVersion(22);

/// Newest version served, and the one of requests without a prefix.
pub const MAX: ApiVersion = ApiVersion(51);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// Why a version is not served. The text is moby's: clients match on it to negotiate down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionError {
    /// Newer than [`MAX`].
    TooNew(String),
    /// Older than [`OLDEST`].
    TooOld(String),
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionError::TooNew(v) => {
                write!(
                    f,
                    "client version {v} is too new. Maximum supported API version is {MAX}"
                )
            }
            VersionError::TooOld(v) => write!(
                f,
                "client version {v} is too old. Minimum supported API version is {MIN}, please upgrade your client to a newer version"
            ),
        }
    }
}

/// Splits a path into version and rest. A first segment that does not look like `vN.N` belongs to the path.
///
/// # Errors
/// A version that is outside of what is served.
pub fn split(path: &str) -> Result<(ApiVersion, &str), VersionError> {
    let Some(after) = path.strip_prefix("/v") else {
        return Ok((MAX, path));
    };
    let (version, rest) = match after.find('/') {
        Some(at) => after.split_at(at),
        None => return Ok((MAX, path)),
    };
    match parse(version) {
        None => Ok((MAX, path)),
        Some((major, minor)) => check(version, major, minor).map(|v| (v, rest)),
    }
}

fn parse(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.len() <= 6 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return None;
    }
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn check(text: &str, major: u32, minor: u32) -> Result<ApiVersion, VersionError> {
    match major {
        1 if ApiVersion(minor) > MAX => Err(VersionError::TooNew(text.to_owned())),
        1 if ApiVersion(minor) >= OLDEST => Ok(ApiVersion(minor)),
        0 | 1 => Err(VersionError::TooOld(text.to_owned())),
        _ => Err(VersionError::TooNew(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served() {
        assert_eq!(split("/_ping"), Ok((MAX, "/_ping")));
        assert_eq!(split("/v1.24/info"), Ok((MIN, "/info")));
        assert_eq!(
            split("/v1.51/containers/v1.2/json"),
            Ok((MAX, "/containers/v1.2/json"))
        );
        assert_eq!(split("/volumes"), Ok((MAX, "/volumes")));
        assert_eq!(split("/version"), Ok((MAX, "/version")));
        assert_eq!(split("/v1.x/info"), Ok((MAX, "/v1.x/info")));
        assert_eq!(split("/v1.40"), Ok((MAX, "/v1.40")));
    }

    #[test]
    fn refused() {
        let too_new = split("/v1.99/info").unwrap_err().to_string();
        assert_eq!(
            too_new,
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        let too_old = split("/v1.12/info").unwrap_err().to_string();
        assert!(
            too_old.starts_with("client version 1.12 is too old. Minimum supported API version is 1.24, ")
        );
        assert!(matches!(split("/v2.1/info"), Err(VersionError::TooNew(_))));
        assert!(matches!(split("/v0.9/info"), Err(VersionError::TooOld(_))));
    }
}
