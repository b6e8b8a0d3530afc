//! `docker update`: other limits, another restart policy. The cgroup is changed first, then the record; what was wanted is
//! kept in the state in between, so that a daemon that dies there does it again.

use std::sync::Arc;

use kelson_api::{ContainerUpdateRequest, HostConfig};

use super::container::Container;
use super::modes::RestartPolicy;
use super::record::{Record, Status};
use crate::error::{Error, Result};
use crate::inner::{Inner, blocking};
use crate::spec;
use crate::tasks::Task;

pub(crate) async fn run(
    inner: &Arc<Inner>,
    name: &str,
    request: ContainerUpdateRequest,
) -> Result<Vec<String>> {
    let container = inner.containers.find(name)?;
    let _operation = container.lock().await?;
    let doing = || format!("Cannot update container {}", container.id);
    if matches!(container.status(), Status::Removing | Status::Dead) {
        let text = "container is marked for removal and cannot be \"update\"";
        return Err(Error::conflict(text).wrap(doing()));
    }
    let old = container.record();
    let (new, warnings) = merge(&old.host, request)?;
    if new == old.host {
        inner.emit(&container, "update", &[]);
        return Ok(warnings);
    }
    let task = container.task().filter(|_| container.status().has_process());
    let changes = spec::changed_resources(&old.host, &new);
    if let (Some(task), Some(changes)) = (task, &changes) {
        container.update(|s| s.pending_update = Some(Box::new(new.clone())));
        if let Err(e) = task.update(changes).await {
            container.update(|s| s.pending_update = None);
            return Err(e.wrap(doing()));
        }
    }
    let kept = keep(&container, new).await;
    container.update(|s| s.pending_update = None);
    kept.map_err(|e| e.wrap(doing()))?;
    inner.emit(&container, "update", &[]);
    Ok(warnings)
}

/// Does what a daemon that died had begun. What the kernel does not take now stays as it was.
pub(crate) async fn again(container: &Arc<Container>, task: &Task) {
    let Some(new) = container.state().pending_update.clone() else {
        return;
    };
    let applied = match spec::changed_resources(&container.record().host, &new) {
        Some(changes) => task.update(&changes).await,
        None => Ok(()),
    };
    let done = match applied {
        Ok(()) => keep(container, *new).await,
        Err(e) => Err(e),
    };
    if let Err(e) = done {
        tracing::warn!(container = %container.id, error = %e, "finish an update");
    }
    container.update(|s| s.pending_update = None);
}

async fn keep(container: &Arc<Container>, host: HostConfig) -> Result<()> {
    let record = Record {
        host,
        ..Record::clone(&container.record())
    };
    let container = container.clone();
    blocking("keep an update", move || {
        record.save(&container.dir)?;
        container.replace_record(record);
        Ok(())
    })
    .await
}

/// The configuration afterwards. docker's rules, pure: a zero, as an absent field, leaves a limit as it is.
fn merge(old: &HostConfig, request: ContainerUpdateRequest) -> Result<(HostConfig, Vec<String>)> {
    let mut new = old.clone();
    let mut warnings = Vec::new();
    let given = |n: Option<i64>| n.filter(|n| *n != 0);
    conflicts(old, &request)?;
    for (to, from) in [
        (&mut new.nano_cpus, request.nano_cpus),
        (&mut new.cpu_shares, request.cpu_shares),
        (&mut new.cpu_period, request.cpu_period),
        (&mut new.cpu_quota, request.cpu_quota),
        (&mut new.cpu_realtime_period, request.cpu_realtime_period),
        (&mut new.cpu_realtime_runtime, request.cpu_realtime_runtime),
        (&mut new.memory_swap, request.memory_swap),
        (&mut new.memory_reservation, request.memory_reservation),
    ] {
        if let Some(value) = given(from) {
            *to = value;
        }
    }
    if let Some(weight) = request.blkio_weight.filter(|w| *w != 0) {
        new.blkio_weight = weight;
    }
    for (to, from) in [
        (&mut new.cpuset_cpus, request.cpuset_cpus),
        (&mut new.cpuset_mems, request.cpuset_mems),
    ] {
        if let Some(list) = from.filter(|list| !list.is_empty()) {
            *to = list;
        }
    }
    if let Some(memory) = given(request.memory) {
        if given(request.memory_swap).is_none() {
            // One that never had a limit gets the swap that `run --memory` gives. (docker refuses that, too.)
            if old.memory == 0 && old.memory_swap == 0 {
                new.memory_swap = memory.saturating_mul(2);
            } else if old.memory_swap > 0 && memory > old.memory_swap {
                return Err(Error::conflict(
                    "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
                ));
            }
        }
        new.memory = memory;
    }
    if let Some(limit) = request.pids_limit {
        // moby: zero and below is "no limit".
        new.pids_limit = Some(limit).filter(|n| *n > 0);
    }
    if given(request.kernel_memory).is_some() {
        warnings.push("Specifying a kernel memory limit is deprecated and has no effect.".to_owned());
    }
    if let Some(policy) = request.restart_policy.filter(|p| !p.name.is_empty()) {
        if old.auto_remove && policy.name != "no" {
            return Err(Error::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        new.restart_policy = *policy;
        RestartPolicy::parse(&new)?;
    }
    spec::check_resources(&new)?;
    Ok((new, warnings))
}

fn conflicts(old: &HostConfig, request: &ContainerUpdateRequest) -> Result<()> {
    let asked = |n: Option<i64>| n.is_some_and(|n| n > 0);
    let cases = [
        (
            asked(request.nano_cpus) && old.cpu_period > 0,
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            asked(request.nano_cpus) && old.cpu_quota > 0,
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            asked(request.cpu_period) && old.nano_cpus > 0,
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            asked(request.cpu_quota) && old.nano_cpus > 0,
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ];
    match cases.iter().find(|(hit, _)| *hit) {
        Some((_, text)) => Err(Error::conflict(format!("Conflicting options: {text}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    const MEBIBYTE: i64 = 1 << 20;

    fn host(value: serde_json::Value) -> HostConfig {
        serde_json::from_value(value).unwrap()
    }

    fn merged(old: serde_json::Value, request: serde_json::Value) -> Result<HostConfig> {
        merge(&host(old), serde_json::from_value(request).unwrap()).map(|(new, _)| new)
    }

    #[test]
    fn what_is_not_named_stays() {
        let old =
            json!({"Memory": 64 * MEBIBYTE, "MemorySwap": 128 * MEBIBYTE, "CpuShares": 7, "PidsLimit": 5});
        let new = merged(
            old.clone(),
            json!({"CpuShares": 9, "Memory": 0, "CpusetCpus": ""}),
        )
        .unwrap();
        let mut wanted = host(old);
        wanted.cpu_shares = 9;
        assert_eq!(new, wanted);
        assert_eq!(
            spec::changed_resources(&host(json!({"CpuShares": 7, "Memory": 64 * MEBIBYTE})), &new).unwrap()["cpu"],
            json!({"shares": 9})
        );
        assert_eq!(spec::changed_resources(&new, &new), None);
    }

    #[test]
    fn pids_can_be_unlimited_again() {
        let old = host(json!({"PidsLimit": 5}));
        let new = merged(json!({"PidsLimit": 5}), json!({"PidsLimit": -1})).unwrap();
        assert_eq!(new.pids_limit, None);
        assert_eq!(
            spec::changed_resources(&old, &new).unwrap(),
            json!({"pids": {"limit": -1}})
        );
    }

    #[test]
    fn memory_comes_with_its_swap() {
        let new = merged(json!({}), json!({"Memory": 64 * MEBIBYTE})).unwrap();
        assert_eq!(new.memory_swap, 128 * MEBIBYTE);
        let old = json!({"Memory": 64 * MEBIBYTE, "MemorySwap": -1});
        assert_eq!(
            merged(old, json!({"Memory": 256 * MEBIBYTE}))
                .unwrap()
                .memory_swap,
            -1
        );
        let old = json!({"Memory": 64 * MEBIBYTE, "MemorySwap": 128 * MEBIBYTE});
        let e = merged(old, json!({"Memory": 256 * MEBIBYTE})).unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        assert!(e.to_string().contains("update the memoryswap at the same time"));
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for (old, request, text) in [
            (json!({}), json!({"Memory": 1}), "Minimum memory limit"),
            (json!({}), json!({"Memory": -1}), "Minimum memory limit"),
            (
                json!({}),
                json!({"RestartPolicy": {"Name": "sometimes"}}),
                "unknown policy",
            ),
            (
                json!({"AutoRemove": true}),
                json!({"RestartPolicy": {"Name": "always"}}),
                "AutoRemove is enabled",
            ),
            (
                json!({"CpuQuota": 5000}),
                json!({"NanoCpus": 1}),
                "CPU Quota has already",
            ),
            (
                json!({"NanoCpus": 10}),
                json!({"CpuPeriod": 5000}),
                "NanoCPUs has already",
            ),
            (json!({}), json!({"CpuPeriod": 5}), "CPU cfs period"),
        ] {
            let e = merged(old, request.clone()).unwrap_err().to_string();
            assert!(e.contains(text), "{request}: {e}");
        }
    }
}
