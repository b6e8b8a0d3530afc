//! Who we are at a registry: passwords, and the bearer tokens a token server gives for them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use kelson_formats::credentials::Credential;
use serde::Deserialize;

use super::auth::Challenge;
use super::transport::{Ask, Transport, read_body};
use crate::config::ImagesConfig;
use crate::limits::ANSWER_MAX;
use crate::{Error, Kind, Result};

/// A token that says nothing lives this long (distribution's token specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// One user's standing at one registry, for one repository.
#[derive(Debug)]
pub(crate) struct Account {
    transport: Arc<Transport>,
    config: Arc<ImagesConfig>,
    credential: Option<Credential>,
    insecure: bool,
    /// What we want to do, where the registry does not say it itself.
    scopes: Vec<String>,
    /// Whether we want something to keep instead of the password.
    offline: bool,
    identity: Mutex<Option<String>>,
    token: Mutex<Option<(String, Instant)>>,
}

impl Account {
    pub fn new(
        transport: Arc<Transport>,
        config: Arc<ImagesConfig>,
        credential: Option<Credential>,
        insecure: bool,
        scopes: Vec<String>,
    ) -> Self {
        Self {
            transport,
            config,
            credential,
            insecure,
            scopes,
            offline: false,
            identity: Mutex::default(),
            token: Mutex::new(None),
        }
    }

    /// Somebody who logs in: not for a repository, and to stay.
    pub fn for_login(
        transport: Arc<Transport>,
        config: Arc<ImagesConfig>,
        credential: Credential,
        insecure: bool,
    ) -> Self {
        Self {
            offline: true,
            ..Self::new(transport, config, Some(credential), insecure, Vec::new())
        }
    }

    /// What the token server gave to be kept instead of the password.
    pub fn identity_token(&self) -> Option<String> {
        self.identity.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub fn is_anonymous(&self) -> bool {
        self.credential.is_none()
    }

    /// The header that answers a challenge. `renew` after a token was refused.
    ///
    /// # Errors
    /// `Denied` when the token server refuses, or would get a password in the clear.
    pub async fn authorize(&self, challenge: Option<&Challenge>, renew: bool) -> Result<Option<HeaderValue>> {
        let credential = self.credential.as_ref();
        if let Some(token) = credential
            .map(|c| c.registry_token.as_str())
            .filter(|t| !t.is_empty())
        {
            return header(&format!("Bearer {token}")).map(Some);
        }
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => basic(credential),
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                if let Some((token, until)) = self.token.lock().unwrap_or_else(|e| e.into_inner()).as_ref()
                    && !renew
                    && Instant::now() < *until
                {
                    return header(&format!("Bearer {token}")).map(Some);
                }
                let (token, life) = self
                    .fetch_token(realm, service.as_deref(), &self.wanted(scope.as_deref()))
                    .await?;
                let value = header(&format!("Bearer {token}"))?;
                *self.token.lock().unwrap_or_else(|e| e.into_inner()) = Some((token, Instant::now() + life));
                Ok(Some(value))
            }
        }
    }

    /// What the registry says the request needs, and what we know we will need beside it.
    fn wanted<'a>(&'a self, said: Option<&'a str>) -> Vec<&'a str> {
        let own = self.scopes.iter().map(String::as_str);
        match said {
            Some(said) => [said].into_iter().chain(own.skip(1)).collect(),
            None => own.collect(),
        }
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[&str],
    ) -> Result<(String, Duration)> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
            refresh_token: Option<String>,
        }
        let credential = self
            .credential
            .as_ref()
            .filter(|c| !c.username.is_empty() || !c.identity_token.is_empty());
        if credential.is_some() && !is_https(realm) && !self.insecure {
            return Err(Error::new(
                Kind::Denied,
                format!("the token server {realm} is not on https; no password goes there"),
            ));
        }
        let mut ask = Ask::get("", self.insecure);
        let mut form = vec![("service", service.unwrap_or_default())];
        // OAuth2 wants one list, the older GET one parameter each (distribution's token specification).
        let joined = scopes.join(" ");
        match credential {
            Some(c) if !c.identity_token.is_empty() => {
                form.extend([
                    ("scope", joined.as_str()),
                    ("grant_type", "refresh_token"),
                    ("refresh_token", &c.identity_token),
                    ("client_id", "docker"),
                ]);
                (ask.method, ask.url) = (Method::POST, realm.to_owned());
                ask.body = encode(&form).into();
                ask.headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
            }
            other => {
                form.extend(scopes.iter().map(|scope| ("scope", *scope)));
                if self.offline {
                    form.extend([("offline_token", "true"), ("client_id", "docker")]);
                }
                if let Some(c) = other {
                    form.push(("account", &c.username));
                    ask.headers
                        .extend(basic(Some(c))?.map(|value| (AUTHORIZATION, value)));
                }
                let join = if realm.contains('?') { '&' } else { '?' };
                ask.url = format!("{realm}{join}{}", encode(&form));
            }
        }
        let answer = self.transport.send(ask, &self.config).await?;
        let status = answer.status();
        if !status.is_success() {
            let kind = if matches!(status.as_u16(), 401 | 403) {
                Kind::Denied
            } else {
                Kind::Unavailable
            };
            return Err(Error::new(
                kind,
                match (self.offline, kind) {
                    (true, Kind::Denied) => "unauthorized: incorrect username or password".to_owned(),
                    _ => format!("unauthorized: the token server {realm} says {status}"),
                },
            ));
        }
        let bytes = read_body(answer.into_body(), ANSWER_MAX, "a token").await?;
        let bad = || Error::invalid(format!("the token server {realm} sent no token"));
        let parsed: Answer = serde_json::from_slice(&bytes).map_err(|e| bad().caused_by(e))?;
        if let Some(kept) = parsed.refresh_token.filter(|t| !t.is_empty() && self.offline) {
            *self.identity.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
        }
        let token = parsed
            .token
            .or(parsed.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(bad)?;
        Ok((token, parsed.expires_in.map_or(TOKEN_LIFE, Duration::from_secs)))
    }
}

/// Schemes are read in any case (RFC 3986, 3.1), so by us and by the connector.
fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|s| s.eq_ignore_ascii_case("https://"))
}

fn header(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|e| Error::invalid("credentials hold odd characters").caused_by(e))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(credential: Option<&Credential>) -> Result<Option<HeaderValue>> {
    let Some(c) = credential.filter(|c| !c.username.is_empty()) else {
        return Ok(None);
    };
    header(&format!(
        "Basic {}",
        STANDARD.encode(format!("{}:{}", c.username, c.password))
    ))
    .map(Some)
}

fn encode(form: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let pairs = form.iter().filter(|(_, v)| !v.is_empty());
    let pairs: Vec<String> = pairs
        .map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_gets_a_password() {
        assert!(is_https("https://a/t") && is_https("HTTPS://a"));
        for clear in ["http://a/t", "HTTP://a/t", "hTTp://a", "//a/t", ""] {
            assert!(!is_https(clear), "{clear}");
        }
    }

    #[test]
    fn forms() {
        assert_eq!(encode(&[("a", "b c/d"), ("e", "")]), "a=b%20c%2Fd");
    }
}
