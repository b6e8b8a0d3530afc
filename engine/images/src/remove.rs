//! `docker rmi`: which names and images go, and when it is a conflict. Decided here, done by the store.

use kelson_formats::Reference;

use crate::digest::{Digest, ImageId};
use crate::{Error, Result};

/// Who uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The container's id.
    pub container: String,
    /// Whether it runs (paused counts); such an image cannot be removed even by force.
    pub running: bool,
}

/// One line of `docker rmi`'s answer, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, in people's form.
    Untagged(String),
    /// An image's id.
    Deleted(ImageId),
    /// The chain id of a layer that no other image has.
    DeletedLayer(Digest),
}

/// What a removal is about.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// As typed.
    pub name: &'a str,
    /// The name it was found by; none when by id.
    pub by_name: Option<String>,
    pub id: ImageId,
    /// All its names, canonical.
    pub names: Vec<String>,
    pub force: bool,
    pub in_use: Option<InUse>,
    /// Whether other images were committed on it.
    pub has_children: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Names that go, in order.
    pub untag: Vec<String>,
    /// Whether the image goes too.
    pub delete: bool,
}

/// Decides, by docker's rules. A name goes first; the image goes with its last name, unless a container needs it: then a
/// removal by name (forced, or the image would have been refused before) leaves the image without a name.
///
/// # Errors
/// `Conflict` with docker's sentences.
pub(crate) fn plan(request: &Request<'_>) -> Result<Plan> {
    let single = is_single(&request.names);
    let Some(name) = &request.by_name else {
        // What cannot be forced is told first: "must be forced" would be a wrong hint.
        if request.has_children {
            return Err(conflict(
                &request.id,
                "cannot be forced",
                "image has dependent child images",
            ));
        }
        let running = request.in_use.as_ref().is_some_and(|used| used.running);
        if !single && !request.force && !running {
            return Err(conflict(
                &request.id,
                "must be forced",
                "image is referenced in multiple repositories",
            ));
        }
        check_use(request)?;
        return Ok(Plan {
            untag: request.names.clone(),
            delete: true,
        });
    };
    if single
        && !request.force
        && let Some(used) = &request.in_use
    {
        return Err(Error::conflict(format!(
            "conflict: unable to remove repository reference {:?} (must force) - container {} is using its referenced image {}",
            request.name,
            short(&used.container),
            request.id.short()
        )));
    }
    let mut untag = vec![name.clone()];
    let mut left: Vec<&String> = request.names.iter().filter(|n| *n != name).collect();
    if !is_digest(name)
        && !left
            .iter()
            .any(|n| repository(n) == repository(name) && !is_digest(n))
    {
        // The last tag of a repository takes the repository's digests along.
        let (gone, stay): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|n| repository(n) == repository(name));
        untag.extend(gone.into_iter().cloned());
        left = stay;
    }
    // Used by a container or another image: the name is gone, which is what was asked for; the image stays for their sake.
    let delete = left.is_empty()
        && !request.has_children
        && request
            .in_use
            .as_ref()
            .is_none_or(|used| !used.running && request.force);
    Ok(Plan { untag, delete })
}

fn check_use(request: &Request<'_>) -> Result<()> {
    match &request.in_use {
        Some(used) if used.running => {
            let why = format!(
                "image is being used by running container {}",
                short(&used.container)
            );
            Err(conflict(&request.id, "cannot be forced", &why))
        }
        Some(used) if !request.force => {
            let why = format!(
                "image is being used by stopped container {}",
                short(&used.container)
            );
            Err(conflict(&request.id, "must be forced", &why))
        }
        _ => Ok(()),
    }
}

fn conflict(id: &ImageId, how: &str, why: &str) -> Error {
    Error::conflict(format!(
        "conflict: unable to delete {} ({how}) - {why}",
        id.short()
    ))
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

fn is_digest(name: &str) -> bool {
    name.contains('@')
}

fn repository(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.name())
}

/// Whether an image has at most one tag, and its digests are of that tag's repository.
fn is_single(names: &[String]) -> bool {
    let (digests, tags): (Vec<&String>, Vec<&String>) = names.iter().partition(|n| is_digest(n));
    let repositories = |names: &[&String]| {
        names
            .iter()
            .map(|n| repository(n))
            .collect::<std::collections::BTreeSet<_>>()
    };
    match tags.as_slice() {
        _ if names.len() <= 1 => true,
        [] => repositories(&digests).len() == 1,
        [tag] => repositories(&digests).iter().all(|r| *r == repository(tag)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A1: &str = "docker.io/library/a:1";
    const A2: &str = "docker.io/library/a:2";
    const B1: &str = "docker.io/library/b:1";

    fn digest(repo: &str) -> String {
        format!("docker.io/library/{repo}@{}", Digest::of(b"m"))
    }

    fn ask(by_name: Option<&str>, names: &[&str], force: bool, running: Option<bool>) -> Result<Plan> {
        plan(&Request {
            name: "a:1",
            by_name: by_name.map(str::to_owned),
            id: Digest::of(b"i"),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            force,
            in_use: running.map(|running| InUse {
                container: "c0ffee".repeat(10),
                running,
            }),
            has_children: false,
        })
    }

    #[test]
    fn an_image_that_others_were_committed_on() {
        let ask = |by_name: Option<&str>, force| {
            plan(&Request {
                name: "a:1",
                by_name: by_name.map(str::to_owned),
                id: Digest::of(b"i"),
                names: vec![A1.to_owned()],
                force,
                in_use: None,
                has_children: true,
            })
        };
        assert_eq!(ask(Some(A1), false).unwrap(), plan_of(&[A1], false));
        for force in [false, true] {
            let error = ask(None, force).unwrap_err().to_string();
            assert!(error.ends_with("(cannot be forced) - image has dependent child images"));
        }
    }

    fn plan_of(untag: &[&str], delete: bool) -> Plan {
        Plan {
            untag: untag.iter().map(|n| (*n).to_owned()).collect(),
            delete,
        }
    }

    #[test]
    fn by_name() {
        let (da, db) = (digest("a"), digest("b"));
        assert_eq!(ask(Some(A1), &[A1], false, None).unwrap(), plan_of(&[A1], true));
        assert_eq!(
            ask(Some(A1), &[A1, A2], false, None).unwrap(),
            plan_of(&[A1], false)
        );
        assert_eq!(
            ask(Some(A1), &[A1, &da], false, None).unwrap(),
            plan_of(&[A1, &da], true)
        );
        assert_eq!(
            ask(Some(A1), &[A1, A2, &da], false, None).unwrap(),
            plan_of(&[A1], false)
        );
        assert_eq!(
            ask(Some(A1), &[A1, B1, &da, &db], false, None).unwrap(),
            plan_of(&[A1, &da], false)
        );
        assert_eq!(
            ask(Some(&da), &[A1, &da], false, None).unwrap(),
            plan_of(&[&da], false)
        );
    }

    #[test]
    fn by_name_while_used() {
        let error = ask(Some(A1), &[A1], false, Some(false)).unwrap_err();
        let want = format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container c0ffeec0ffee is using its referenced image {}",
            Digest::of(b"i").short()
        );
        assert_eq!((error.kind(), error.to_string()), (crate::Kind::Conflict, want));
        assert_eq!(
            ask(Some(A1), &[A1], true, Some(true)).unwrap(),
            plan_of(&[A1], false),
            "the image stays, unnamed"
        );
        assert_eq!(
            ask(Some(A1), &[A1], true, Some(false)).unwrap(),
            plan_of(&[A1], true)
        );
        assert_eq!(
            ask(Some(A1), &[A1, A2], false, Some(true)).unwrap(),
            plan_of(&[A1], false)
        );
    }

    #[test]
    fn by_id() {
        assert_eq!(ask(None, &[A1], false, None).unwrap(), plan_of(&[A1], true));
        assert_eq!(ask(None, &[], false, None).unwrap(), plan_of(&[], true));
        let text = |r: Result<Plan>| r.unwrap_err().to_string();
        assert!(
            text(ask(None, &[A1, B1], false, None))
                .ends_with("(must be forced) - image is referenced in multiple repositories")
        );
        assert!(
            text(ask(None, &[A1, B1], false, Some(true)))
                .ends_with("(cannot be forced) - image is being used by running container c0ffeec0ffee")
        );
        assert_eq!(
            ask(None, &[A1, B1], true, None).unwrap(),
            plan_of(&[A1, B1], true)
        );
        assert!(
            text(ask(None, &[A1], false, Some(false)))
                .ends_with("(must be forced) - image is being used by stopped container c0ffeec0ffee")
        );
        assert!(
            text(ask(None, &[A1], true, Some(true)))
                .ends_with("(cannot be forced) - image is being used by running container c0ffeec0ffee")
        );
        assert!(ask(None, &[A1], true, Some(false)).unwrap().delete);
    }
}
