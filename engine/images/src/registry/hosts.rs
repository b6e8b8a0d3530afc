//! `hosts.toml`: where the images of a registry come from, in containerd's format. It lies in `certs.d/HOST[:PORT]/`, or in
//! `certs.d/_default/` for all registries without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::endpoint::{Can, Endpoint};
use super::tls::Trust;
use crate::error::Doing;
use crate::{Error, Result};

/// A file of more is not one.
const FILE_MAX: u64 = 1 << 20;

/// `ca = "x"` or `ca = ["x", "y"]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn all(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

/// `client = "both.pem"`, `["both.pem"]`, or `[["x.cert", "x.key"]]`.
type Client = OneOrMore<OneOrMore<PathBuf>>;

#[derive(Debug, Deserialize)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore<PathBuf>>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: std::collections::BTreeMap<String, OneOrMore<String>>,
}

#[derive(Debug, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    /// What the file says outside of `[host]` is about `server`.
    #[serde(flatten)]
    own: Host,
}

/// The addresses that the first `hosts.toml` for this registry gives, the registry's own last. `None` without a file.
///
/// # Errors
/// `Invalid`, naming the file, for one that is malformed: an image must not come from elsewhere for a typing mistake.
pub(super) fn read(dirs: &[PathBuf], domain: &str, own: &str) -> Result<Option<Vec<Endpoint>>> {
    let names = [domain, "_default"]
        .into_iter()
        .filter(|n| !n.starts_with('.') && !n.contains('/'));
    let mut files = names.flat_map(|name| dirs.iter().map(move |dir| dir.join(name).join("hosts.toml")));
    let Some(path) = files.find(|path| path.is_file()) else {
        return Ok(None);
    };
    let doing = || format!("read {}", path.display());
    if std::fs::metadata(&path).doing(doing)?.len() > FILE_MAX {
        return Err(Error::invalid(format!(
            "{}: larger than {FILE_MAX} bytes",
            doing()
        )));
    }
    let text = std::fs::read_to_string(&path).doing(doing)?;
    parse(&text, path.parent().unwrap_or(&path), own, domain)
        .map(Some)
        .doing(doing)
}

fn parse(text: &str, dir: &Path, own: &str, domain: &str) -> Result<Vec<Endpoint>> {
    let bad = |e: toml::de::Error| Error::invalid(e.message().to_owned());
    let file: File = toml::from_str(text).map_err(bad)?;
    let mut found = Vec::new();
    for (url, host) in file.host {
        found.push(endpoint(&url, host.try_into().map_err(bad)?, dir, Some(domain))?);
    }
    let server = file.server.filter(|s| !s.is_empty());
    let elsewhere = server.as_deref().is_some_and(|s| s.trim_end_matches('/') != own);
    found.push(endpoint(
        server.as_deref().unwrap_or(own),
        file.own,
        dir,
        elsewhere.then_some(domain),
    )?);
    Ok(found)
}

fn endpoint(url: &str, host: Host, dir: &Path, mirror_of: Option<&str>) -> Result<Endpoint> {
    let base = if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    let base = base.trim_end_matches('/');
    let uri = super::transport::parse_url(base)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(Error::invalid(format!("{url:?} is no address of a registry")));
    }
    let mut can = Can::default();
    if let Some(words) = &host.capabilities {
        let has = |word: &str| words.iter().any(|w| w == word);
        can = Can {
            pull: has("pull"),
            resolve: has("resolve"),
            push: has("push"),
        };
    }
    let here = |path: PathBuf| dir.join(path);
    let mut identities = Vec::new();
    for pair in host.client.map(OneOrMore::all).unwrap_or_default() {
        match <[PathBuf; 2]>::try_from(pair.all()) {
            Ok([cert, key]) => identities.push((here(cert), here(key))),
            // One file with both.
            Err(one) if one.len() == 1 => {
                identities.extend(one.into_iter().map(|p| (here(p.clone()), here(p))))
            }
            Err(_) => {
                return Err(Error::invalid(format!(
                    "{url}: client wants a certificate and its key"
                )));
            }
        }
    }
    let mut headers = HeaderMap::new();
    for (name, values) in host.header {
        for value in values.all() {
            let pair = HeaderName::try_from(name.as_str())
                .ok()
                .zip(HeaderValue::try_from(value).ok());
            let (name, value) = pair.ok_or_else(|| Error::invalid(format!("{url}: bad header {name:?}")))?;
            headers.append(name, value);
        }
    }
    Ok(Endpoint {
        api: if host.override_path {
            base.to_owned()
        } else {
            format!("{base}/v2")
        },
        base: base.to_owned(),
        insecure: host.skip_verify || uri.scheme_str() == Some("http"),
        mirror: mirror_of.is_some(),
        namespace: mirror_of.map(str::to_owned),
        can,
        trust: Some(Arc::new(Trust {
            insecure: host.skip_verify,
            roots: host
                .ca
                .map(OneOrMore::all)
                .unwrap_or_default()
                .into_iter()
                .map(here)
                .collect(),
            identities,
        })),
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/etc/certs.d/quay.io";

    fn read(text: &str) -> Result<Vec<Endpoint>> {
        parse(text, Path::new(DIR), "https://quay.io", "quay.io")
    }

    #[test]
    fn hosts_in_their_order_and_the_server_last() {
        let found = read(
            r#"
            server = "https://quay.io"
            [host."https://z.example/prefix/"]
              capabilities = ["pull"]
              ca = "z.pem"
              client = [["/a.cert", "a.key"]]
              override_path = true
              [host."https://z.example/prefix/".header]
                x-a = ["1", "2"]
            [host."a.example:5000"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
            "#,
        )
        .unwrap();
        let show: Vec<_> = found
            .iter()
            .map(|e| (e.api.as_str(), e.mirror, e.insecure))
            .collect();
        let want = [
            ("https://z.example/prefix", true, false),
            ("https://a.example:5000/v2", true, true),
            ("https://quay.io/v2", false, false),
        ];
        assert_eq!(show, want);
        let trust = found[0].trust.as_ref().unwrap();
        assert_eq!(trust.roots, [Path::new(DIR).join("z.pem")]);
        assert_eq!(
            trust.identities,
            [("/a.cert".into(), Path::new(DIR).join("a.key"))]
        );
        assert_eq!(found[0].headers.get_all("x-a").iter().count(), 2);
        assert_eq!(found[0].namespace.as_deref(), Some("quay.io"));
        assert!(!found[0].can.resolve && found[1].can.resolve && !found[1].can.push && found[2].can.push);
    }

    #[test]
    fn forms_and_mistakes() {
        assert_eq!(read("").unwrap()[0].api, "https://quay.io/v2");
        let moved = read("server = \"http://moved.example\"").unwrap();
        assert!(
            moved[0].mirror && moved[0].insecure,
            "what is not the registry gets no password"
        );
        let one = read("[host.\"https://m\"]\nclient = \"both.pem\"\nca = [\"x\", \"y\"]").unwrap();
        let trust = one[0].trust.clone().unwrap();
        assert_eq!((trust.roots.len(), trust.identities.len()), (2, 1));
        for bad in [
            "server = 1",
            "[host.\"ftp://x\"]",
            "[host.\"https://x\"]\nskip_verify = \"yes\"",
            "[host.\"https://x\"]\nclient = [[\"a\", \"b\", \"c\"]]",
            "[host.\"https://x\".header]\n\"a b\" = \"c\"",
            "[host",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
