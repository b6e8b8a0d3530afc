//! Volumes: directories that outlive containers. One record each, `volumes/NAME/volume.json`, the data in `_data`.

pub(crate) mod copy;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use kelson_api::{Filters, Map, Volume, VolumeCreateRequest, VolumeUsage};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{Doing, Error, Result};
use crate::events::Events;
use crate::names;
use crate::store::{self, Durability, FORMAT};

const RECORD: &str = "volume.json";
const DATA: &str = "_data";
/// docker's label on volumes nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct VolumeRecord {
    format: u32,
    name: String,
    created: String,
    #[serde(default)]
    labels: Option<Map<String>>,
    #[serde(default)]
    options: Option<Map<String>>,
    #[serde(flatten)]
    unknown: Map<serde_json::Value>,
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    events: Arc<Events>,
    records: RwLock<BTreeMap<String, VolumeRecord>>,
}

impl Volumes {
    /// Reads all records; one that cannot be read is left alone and reported.
    pub fn open(root: PathBuf, events: Arc<Events>) -> Result<Self> {
        let mut records = BTreeMap::new();
        let doing = || format!("read {}", root.display());
        for entry in std::fs::read_dir(&root).doing(doing)? {
            let entry = entry.doing(doing)?;
            match store::load::<VolumeRecord>(&entry.path().join(RECORD)) {
                Ok(Some(record)) => {
                    records.insert(record.name.clone(), record);
                }
                // A directory without a record: a creation that was cut short. It holds nothing.
                Ok(None) => {
                    let _ = std::fs::remove_dir(entry.path().join(DATA));
                    let _ = std::fs::remove_dir(entry.path());
                }
                Err(e) => tracing::error!(error = %e, "a volume's record is of no use"),
            }
        }
        Ok(Self {
            root,
            events,
            records: RwLock::new(records),
        })
    }

    fn get(&self, name: &str) -> Option<VolumeRecord> {
        self.records
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Where a volume's data lies.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join(DATA)
    }

    pub fn exists(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Makes a volume, or returns the one of that name. The flag says whether it was made.
    ///
    /// # Errors
    /// `Invalid` for a bad name, `Unsupported` for a driver or options we do not have.
    pub fn create(&self, request: VolumeCreateRequest) -> Result<(Volume, bool)> {
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(Error::not_found(format!(
                "error looking up volume plugin {}: plugin \"{}\" not found",
                request.driver, request.driver
            )));
        }
        if request.driver_opts.as_ref().is_some_and(|o| !o.is_empty()) {
            return Err(Error::unsupported("volume driver options are not supported yet"));
        }
        let anonymous = request.name.is_empty();
        let name = if anonymous { names::new_id()? } else { request.name };
        if !names::is_valid(&name) {
            return Err(Error::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let mut labels = request.labels;
        if anonymous {
            labels
                .get_or_insert_default()
                .insert(ANONYMOUS.into(), String::new());
        }
        let record = VolumeRecord {
            format: FORMAT,
            name: name.clone(),
            created: clock::now(),
            labels,
            options: request.driver_opts,
            unknown: Map::new(),
        };
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(have) = records.get(&name) {
            return Ok((self.describe(have), false));
        }
        let dir = self.root.join(&name);
        // 0701: a container's user reaches its data through here and cannot list.
        for (path, mode) in [(&dir, 0o701), (&dir.join(DATA), 0o755)] {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .doing(|| format!("make {}", path.display()))?;
        }
        let durability = if anonymous {
            Durability::Volatile
        } else {
            Durability::Synced
        };
        store::save(&dir, RECORD, &record, durability)?;
        let volume = self.describe(&record);
        records.insert(name.clone(), record);
        drop(records);
        self.events.emit(
            "volume",
            "create",
            &name,
            [("driver".to_owned(), "local".to_owned())].into(),
        );
        Ok((volume, true))
    }

    fn describe(&self, record: &VolumeRecord) -> Volume {
        Volume {
            created_at: record.created.clone(),
            driver: "local".into(),
            labels: record.labels.clone(),
            mountpoint: self.data(&record.name).display().to_string(),
            name: record.name.clone(),
            options: record.options.clone(),
            scope: "local".into(),
            status: None,
            usage_data: None,
        }
    }

    pub fn inspect(&self, name: &str) -> Result<Volume> {
        self.get(name)
            .map(|r| self.describe(&r))
            .ok_or_else(|| missing(name))
    }

    /// `used` tells how many containers mention a volume.
    pub fn list(&self, filters: &Filters, used: &dyn Fn(&str) -> usize) -> Result<Vec<Volume>> {
        filters
            .only(&["dangling", "driver", "label", "name"])
            .map_err(|e| Error::invalid(e.to_string()))?;
        let dangling = filters
            .boolean("dangling")
            .map_err(|e| Error::invalid(e.to_string()))?;
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let empty = Map::new();
        let wanted = |r: &&VolumeRecord| {
            (!filters.has("name") || filters.get("name").any(|n| r.name.contains(n)))
                && (!filters.has("driver") || filters.get("driver").any(|d| d == "local"))
                && filters.labels_match("label", r.labels.as_ref().unwrap_or(&empty))
                && dangling.is_none_or(|d| d == (used(&r.name) == 0))
        };
        Ok(records
            .values()
            .filter(wanted)
            .map(|r| self.describe(r))
            .collect())
    }

    /// All with the space they take; blocking.
    pub fn usage(&self, used: &dyn Fn(&str) -> usize) -> Vec<Volume> {
        let records: Vec<_> = self
            .records
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        let with_usage = |r: &VolumeRecord| Volume {
            usage_data: Some(VolumeUsage {
                ref_count: i64::try_from(used(&r.name)).unwrap_or(i64::MAX),
                size: i64::try_from(copy::size(&self.data(&r.name))).unwrap_or(i64::MAX),
            }),
            ..self.describe(r)
        };
        records.iter().map(with_usage).collect()
    }

    /// Removes a volume and its data; blocking.
    ///
    /// # Errors
    /// `NotFound` (unless `force`), `Conflict` while `users` is not empty.
    pub fn remove(&self, name: &str, force: bool, users: &[String]) -> Result<()> {
        if !self.exists(name) {
            return if force { Ok(()) } else { Err(missing(name)) };
        }
        if !users.is_empty() {
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let dir = self.root.join(name);
        // The record goes first: what a crash leaves is a directory without one, which the next start removes if empty.
        store::remove_tree(&dir.join(DATA))?;
        store::remove_tree(&dir)?;
        self.records
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        self.events.emit(
            "volume",
            "destroy",
            name,
            [("driver".to_owned(), "local".to_owned())].into(),
        );
        Ok(())
    }

    /// Names of volumes to prune: unused, anonymous unless `all=true`, of the right labels.
    pub fn prunable(&self, filters: &Filters, used: &dyn Fn(&str) -> usize) -> Result<Vec<String>> {
        filters
            .only(&["all", "label", "label!"])
            .map_err(|e| Error::invalid(e.to_string()))?;
        let all = filters
            .boolean("all")
            .map_err(|e| Error::invalid(e.to_string()))?
            .unwrap_or(false);
        let empty = Map::new();
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |r: &&VolumeRecord| {
            let labels = r.labels.as_ref().unwrap_or(&empty);
            used(&r.name) == 0
                && (all || labels.contains_key(ANONYMOUS))
                && filters.labels_match("label", labels)
                && !(filters.has("label!") && filters.labels_match("label!", labels))
        };
        Ok(records.values().filter(wanted).map(|r| r.name.clone()).collect())
    }
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn volumes(dir: &std::path::Path) -> Volumes {
        Volumes::open(dir.to_owned(), Arc::new(Events::new())).unwrap()
    }

    fn named(name: &str) -> VolumeCreateRequest {
        VolumeCreateRequest {
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn volumes_survive_a_restart_and_one_bad_record() {
        let dir = tempfile::tempdir().unwrap();
        let v = volumes(dir.path());
        assert!(v.create(named("db")).unwrap().1);
        assert!(!v.create(named("db")).unwrap().1);
        v.create(named("web")).unwrap();
        std::fs::write(dir.path().join("web").join(RECORD), "torn").unwrap();
        std::fs::create_dir_all(dir.path().join("half").join(DATA)).unwrap();
        let v = volumes(dir.path());
        assert_eq!(
            v.inspect("db").unwrap().mountpoint,
            v.data("db").display().to_string()
        );
        assert_eq!(v.inspect("web").unwrap_err().kind(), Kind::NotFound);
        assert!(
            dir.path().join("web").join(DATA).exists(),
            "data of a bad record is not touched"
        );
        assert!(!dir.path().join("half").exists());
    }

    #[test]
    fn names_use_and_filters() {
        let dir = tempfile::tempdir().unwrap();
        let v = volumes(dir.path());
        assert_eq!(v.create(named("a/b")).unwrap_err().kind(), Kind::Invalid);
        let anonymous = v.create(named("")).unwrap().0.name;
        v.create(named("db")).unwrap();
        let unused = |_: &str| 0;
        assert_eq!(
            v.prunable(&Filters::default(), &unused).unwrap(),
            [anonymous.as_str()]
        );
        let all = Filters::parse(r#"{"all":["true"]}"#).unwrap();
        assert_eq!(v.prunable(&all, &unused).unwrap().len(), 2);
        assert_eq!(
            v.prunable(&all, &|n| usize::from(n == "db")).unwrap(),
            [anonymous]
        );
        assert_eq!(
            v.remove("db", false, &["c1".into()]).unwrap_err().kind(),
            Kind::Conflict
        );
        v.remove("db", false, &[]).unwrap();
        assert_eq!(v.remove("db", false, &[]).unwrap_err().kind(), Kind::NotFound);
        v.remove("db", true, &[]).unwrap();
        assert!(!dir.path().join("db").exists());
    }
}
