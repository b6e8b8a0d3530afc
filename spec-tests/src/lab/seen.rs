//! What a probe said, parsed: one answer for each act.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// All answers of one probe, in order.
#[derive(Debug, Clone)]
pub struct Answers(pub Vec<Answer>);

/// One act's outcome.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The act as it was asked for.
    pub act: String,
    /// Its value, or an errno.
    pub result: std::result::Result<Value, i64>,
}

impl Answers {
    /// From a probe's standard output. Lines that are no answer belong to somebody else and are left out.
    #[must_use]
    pub fn parse(output: &str) -> Self {
        let mut all = Vec::new();
        for line in output.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let Some(act) = value["act"].as_str() else {
                continue;
            };
            let result = if value["ok"] == true {
                Ok(value["value"].clone())
            } else {
                Err(value["errno"].as_i64().unwrap_or(0))
            };
            all.push(Answer {
                act: act.to_owned(),
                result,
            });
        }
        Self(all)
    }

    /// The answer to act number `n`.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn get(&self, n: usize) -> Result<&Answer> {
        self.0
            .get(n)
            .with_context(|| format!("the probe gave {} answers, not {}", self.0.len(), n + 1))
    }

    /// The value of act number `n`, which must have succeeded.
    ///
    /// # Errors
    /// When it failed.
    pub fn value(&self, n: usize) -> Result<&Value> {
        self.get(n)?.value()
    }

    /// The errno of act number `n`, which must have failed.
    ///
    /// # Errors
    /// When it succeeded.
    pub fn errno(&self, n: usize) -> Result<i64> {
        self.get(n)?.errno()
    }

    /// That all acts succeeded.
    ///
    /// # Errors
    /// Naming the first that failed.
    pub fn all_done(&self) -> Result<()> {
        self.0.iter().try_for_each(|answer| answer.value().map(drop))
    }
}

impl Answer {
    /// Its value.
    ///
    /// # Errors
    /// When the act failed.
    pub fn value(&self) -> Result<&Value> {
        match &self.result {
            Ok(value) => Ok(value),
            Err(errno) => bail!("inside the container, `{}` failed: {}", self.act, name(*errno)),
        }
    }

    /// Its errno.
    ///
    /// # Errors
    /// When the act succeeded.
    pub fn errno(&self) -> Result<i64> {
        match &self.result {
            Ok(value) => bail!("inside the container, `{}` succeeded: {value}", self.act),
            Err(errno) => Ok(*errno),
        }
    }

    /// That it failed with this errno.
    ///
    /// # Errors
    /// When it did not.
    pub fn fails_with(&self, errno: nix::errno::Errno) -> Result<()> {
        let seen = self.errno()?;
        ensure!(
            seen == i64::from(errno as i32),
            "inside the container, `{}`: {}, not {errno}",
            self.act,
            name(seen)
        );
        Ok(())
    }
}

fn name(errno: i64) -> String {
    i32::try_from(errno).map_or_else(
        |_| errno.to_string(),
        |raw| nix::errno::Errno::from_raw(raw).to_string(),
    )
}

/// One line of a mount table, proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which part of the file system.
    pub root: String,
    /// Where.
    pub point: String,
    /// Of the mount.
    pub options: Vec<String>,
    /// `shared:N`, `master:N`, `unbindable`.
    pub tags: Vec<String>,
    /// Type of the file system.
    pub kind: String,
    /// What was given as source.
    pub source: String,
    /// Of the file system.
    pub super_options: Vec<String>,
}

impl Mount {
    /// From one line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Self {
            root: (*front.get(3)?).to_owned(),
            point: (*front.get(4)?).to_owned(),
            options: list(front.get(5)?),
            tags: front.get(6..)?.iter().map(|tag| (*tag).to_owned()).collect(),
            kind: (*back.first()?).to_owned(),
            source: (*back.get(1)?).to_owned(),
            super_options: list(back.get(2)?),
        })
    }

    /// Whether the mount or its file system has an option.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options
            .iter()
            .chain(&self.super_options)
            .any(|one| one == option)
    }

    /// Whether it propagates to peers, or receives.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> bool {
        self.tags.iter().any(|one| one.starts_with(tag))
    }
}

/// The mounts in an observation, the last on one place first.
#[must_use]
pub fn mounts(lines: &Value) -> Vec<Mount> {
    let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<Mount> = lines.filter_map(Mount::parse).collect();
    all.reverse();
    all
}

/// What one observation says.
#[derive(Debug, Clone)]
pub struct Observation(pub Value);

impl std::ops::Index<&str> for Observation {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.0[field]
    }
}

impl Observation {
    /// The uppermost mount on a place.
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn mount(&self, point: &str) -> Result<Mount> {
        let all = mounts(&self.0["mounts"]);
        let points: Vec<_> = all.iter().map(|mount| mount.point.clone()).collect();
        let found = all.into_iter().find(|mount| mount.point == point);
        found.with_context(|| format!("nothing is mounted on {point}; mounts: {}", points.join(" ")))
    }

    /// A list of texts.
    #[must_use]
    pub fn texts(&self, field: &str) -> Vec<String> {
        let items = self.0[field].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// An object of texts.
    #[must_use]
    pub fn map(&self, field: &str) -> BTreeMap<String, String> {
        let entries = self.0[field].as_object().into_iter().flatten();
        entries
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// The path in one hierarchy, of /proc/self/cgroup; the empty name is v2.
    #[must_use]
    pub fn cgroup(&self, controller: &str) -> Option<String> {
        self.texts("cgroups").iter().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            names
                .split(',')
                .any(|name| name == controller)
                .then(|| path.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_noise() {
        let text = "warning: x\n{\"act\":\"open /x r\",\"ok\":false,\"errno\":13}\n{\"ready\":true}\n\
                    {\"act\":\"cwd\",\"ok\":true,\"value\":\"/\"}\n";
        let answers = Answers::parse(text);
        assert_eq!(answers.0.len(), 2);
        assert_eq!(answers.errno(0).unwrap(), 13);
        answers
            .get(0)
            .unwrap()
            .fails_with(nix::errno::Errno::EACCES)
            .unwrap();
        assert_eq!(answers.value(1).unwrap(), "/");
        assert!(answers.value(2).is_err() && answers.all_done().is_err());
    }

    #[test]
    fn the_uppermost_of_two_mounts_counts() {
        let lines = serde_json::json!([
            "41 31 0:38 / /a rw,nosuid - tmpfs one rw",
            "42 41 0:39 / /a ro shared:7 master:2 - tmpfs two rw,size=4k"
        ]);
        let seen = Observation(serde_json::json!({ "mounts": lines }));
        let top = seen.mount("/a").unwrap();
        assert_eq!(top.source, "two");
        assert!(top.has("ro") && top.has("size=4k") && top.tagged("master:") && !top.has("nosuid"));
        assert!(seen.mount("/b").is_err());
    }
}
