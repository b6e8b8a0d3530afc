//! What an image is called: `[DOMAIN/]PATH[:TAG][@DIGEST]`, docker's grammar and docker's defaults.
//!
//! Two forms of the same name: *canonical* (`docker.io/library/nginx:latest`, what records and registries use) and
//! *familiar* (`nginx:latest`, what people type and read).

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The registry meant when a name has no host.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The namespace meant on the default registry when a name has one component.
pub const OFFICIAL_PREFIX: &str = "library/";
/// The tag meant when neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";
/// An old name of the default registry that docker still maps.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Docker's bound on host and path together, in bytes.
const NAME_MAX: usize = 255;
/// Docker's bound on a tag, in bytes.
const TAG_MAX: usize = 128;

/// A parsed and normalised image reference.
///
/// `Display` prints the canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// What a user may name an image by on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A whole image id: 64 hex digits, held as `sha256:<hex>`.
    Id(String),
    /// A name. It may also be the beginning of an id ("a1b2c3"); the store looks for the name first.
    Name(Reference),
}

impl Named {
    /// Parses what `docker inspect X`, `docker run X` accept.
    ///
    /// # Errors
    /// `Invalid` when it is neither an id nor a name of the grammar.
    pub fn parse(text: &str) -> Result<Self> {
        if is_hex64(text) {
            return Ok(Self::Id(format!("sha256:{text}")));
        }
        if let Some(hex) = text.strip_prefix("sha256:")
            && is_hex64(hex)
        {
            return Ok(Self::Id(text.to_owned()));
        }
        Reference::parse(text).map(Self::Name)
    }
}

impl Reference {
    /// Parses a familiar or canonical name and fills in the registry; the tag stays as given (possibly absent).
    ///
    /// # Errors
    /// `Invalid`, with docker's wording.
    pub fn parse(text: &str) -> Result<Self> {
        if is_hex64(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = split_domain(text);
        let name_end = rest.find([':', '@']).unwrap_or(rest.len());
        if rest[..name_end].chars().any(|c| c.is_ascii_uppercase()) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({}) must be lowercase",
                &rest[..name_end]
            )));
        }
        let path = &rest[..name_end];
        if !is_domain(&domain) || !is_path(path) {
            return Err(bad_format());
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(Error::invalid(format!(
                "repository name must not be more than {NAME_MAX} characters"
            )));
        }
        let (tag, digest) = split_suffix(&rest[name_end..])?;
        let path = path.to_owned();
        Ok(Self {
            domain,
            path,
            tag,
            digest,
        })
    }

    /// Puts a reference together from parts that follow the grammar.
    ///
    /// # Errors
    /// `Invalid` when the whole does not parse.
    pub fn from_parts(name: &str, tag: Option<&str>, digest: Option<&str>) -> Result<Self> {
        let mut text = name.to_owned();
        if let Some(tag) = tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = digest {
            text.push('@');
            text.push_str(digest);
        }
        Self::parse(&text)
    }

    /// The registry's host, with port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on the registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given or filled in.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, `algorithm:hex`.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Host and repository: `docker.io/library/nginx`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Host and repository as people write it: `nginx`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            // `docker.io/library/a/b` cannot be shortened: `a/b` would mean `docker.io/a/b`.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it: `nginx:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// Fills in `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository by this digest, without a tag. The digest must be well formed.
    ///
    /// # Errors
    /// `Invalid` for a digest out of grammar.
    pub fn with_digest(&self, digest: &str) -> Result<Self> {
        check_digest(digest)?;
        Ok(Self {
            domain: self.domain.clone(),
            path: self.path.clone(),
            tag: None,
            digest: Some(digest.to_owned()),
        })
    }

    /// The same repository with this tag, without a digest.
    ///
    /// # Errors
    /// `Invalid` for a tag out of grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(bad_format());
        }
        Ok(Self {
            domain: self.domain.clone(),
            path: self.path.clone(),
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }

    /// Whether only the repository was given.
    #[must_use]
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn bad_format() -> Error {
    Error::invalid("invalid reference format")
}

/// Splits off the registry, as docker decides it: the first component is a host when it has a dot or a colon, is
/// `localhost`, or has an upper-case letter (which no path component may have).
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL_PREFIX}{rest}"));
    }
    (domain.to_owned(), rest.to_owned())
}

fn split_suffix(suffix: &str) -> Result<(Option<String>, Option<String>)> {
    let (tag, digest) = match suffix.split_once('@') {
        Some((tag, digest)) => (tag, Some(digest)),
        None => (suffix, None),
    };
    let tag = match tag.strip_prefix(':') {
        Some(tag) if is_tag(tag) => Some(tag.to_owned()),
        None if tag.is_empty() => None,
        _ => return Err(bad_format()),
    };
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    Ok((tag, digest.map(str::to_owned)))
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_MAX && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

/// Checks `algorithm:hex`; the known algorithms must have their length.
fn check_digest(digest: &str) -> Result<()> {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return Err(bad_format());
    };
    let algorithm_ok = algorithm.split(['+', '.', '-', '_']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if !algorithm_ok || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad_format());
    }
    let want = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::invalid("unsupported digest algorithm")),
    };
    if hex.len() != want {
        return Err(Error::invalid("invalid checksum digest length"));
    }
    if hex.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Error::invalid("invalid checksum digest format"));
    }
    Ok(())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) => {
                if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                    return false;
                }
                (
                    None,
                    after
                        .strip_prefix(':')
                        .map_or((!after.is_empty()).then_some(""), Some),
                )
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let host_ok = host.is_none_or(|host| host.split('.').all(is_host_label));
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    host_ok && port_ok
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    let separators = bytes.split(|&b| alnum(b)).filter(|run| !run.is_empty());
    separators
        .into_iter()
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

/// Entry point for fuzzing: parsing never panics, and what parses prints to what parses the same.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(
            Reference::parse(&reference.to_string()).ok().as_ref(),
            Some(&reference)
        );
        assert_eq!(
            Reference::parse(&reference.familiar()).ok().as_ref(),
            Some(&reference)
        );
    }
}

#[cfg(test)]
mod tests;
