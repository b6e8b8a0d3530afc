//! The rows of `images` and `history`.

use kelson_api::{HistoryItem, ImageSummary};
use serde_json::{Value, json};

use super::listing::{Listing, row};
use super::units;

/// What `images --format` can show.
pub const LISTING: Listing = Listing {
    kind: "*formatter.imageContext",
    headers: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
};

/// The columns of `images`.
pub const TABLE: &str = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
/// The columns of `images --digests`.
pub const DIGEST_TABLE: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

const NONE: &str = "<none>";

/// What `history --format` can show.
pub const HISTORY: Listing = Listing {
    kind: "*formatter.historyContext",
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

/// The columns of `history`.
pub const HISTORY_TABLE: &str = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// One row for each name of an image; one of `<none>` for an image without.
pub fn image_rows(image: &ImageSummary, truncate: bool, digests: bool) -> Vec<Value> {
    names(image, digests)
        .into_iter()
        .map(|[repository, tag, digest]| one_row(image, truncate, &repository, &tag, &digest))
        .collect()
}

fn one_row(image: &ImageSummary, truncate: bool, repository: &str, tag: &str, digest: &str) -> Value {
    let id = if truncate {
        units::short_id(&image.id)
    } else {
        &image.id
    };
    let bytes = bytes(image.size);
    let counted = |n: i64, text: String| if n < 0 { "N/A".to_owned() } else { text };
    row(
        json!(image.labels.clone().unwrap_or_default()),
        [
            ("ID", id.into()),
            ("Repository", repository.into()),
            ("Tag", tag.into()),
            ("Digest", digest.into()),
            (
                "CreatedSince",
                (units::duration(units::since(image.created)) + " ago").into(),
            ),
            ("CreatedAt", units::go_time(image.created).into()),
            ("Size", units::size3(bytes).into()),
            ("VirtualSize", units::size4(bytes).into()),
            (
                "Containers",
                counted(image.containers, image.containers.to_string()).into(),
            ),
            (
                "SharedSize",
                counted(image.shared_size, units::size4(self::bytes(image.shared_size))).into(),
            ),
            (
                "UniqueSize",
                counted(
                    image.shared_size,
                    units::size4(self::bytes(image.size - image.shared_size)),
                )
                .into(),
            ),
        ],
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn bytes(count: i64) -> f64 {
    count as f64
}

/// Repository, tag and digest of each name. Tags of a repository share its digests; a repository
/// with digests only has the tag `<none>`.
fn names(image: &ImageSummary, digests: bool) -> Vec<[String; 3]> {
    let split = |name: &str, mark: char| name.rsplit_once(mark).map(|(a, b)| (a.to_owned(), b.to_owned()));
    let tags: Vec<(String, String)> = image
        .repo_tags
        .iter()
        .filter(|name| *name != "<none>:<none>")
        .filter_map(|name| split(name, ':'))
        .collect();
    let hashes: Vec<(String, String)> = image
        .repo_digests
        .iter()
        .filter(|name| *name != "<none>@<none>")
        .filter_map(|name| split(name, '@'))
        .collect();
    let none = || NONE.to_owned();
    let mut rows = Vec::new();
    for (repository, tag) in &tags {
        let own: Vec<&String> = hashes
            .iter()
            .filter(|(known, _)| known == repository)
            .map(|(_, hash)| hash)
            .collect();
        if digests && !own.is_empty() {
            rows.extend(
                own.into_iter()
                    .map(|hash| [repository.clone(), tag.clone(), hash.clone()]),
            );
        } else {
            rows.push([repository.clone(), tag.clone(), none()]);
        }
    }
    for (repository, hash) in &hashes {
        if !tags.iter().any(|(known, _)| known == repository) {
            rows.push([repository.clone(), none(), hash.clone()]);
        }
    }
    if rows.is_empty() {
        rows.push([none(), none(), none()]);
    }
    rows
}

/// The row of one step of an image's history.
pub fn history_row(item: &HistoryItem, truncate: bool, human: bool) -> Value {
    const COMMAND_LIMIT: usize = 45;
    let id = if truncate {
        units::short_id(&item.id)
    } else {
        &item.id
    };
    let command = item.created_by.replace('\t', " ");
    let command = if truncate {
        units::ellipsis(&command, COMMAND_LIMIT)
    } else {
        command
    };
    let created = match jiff::Timestamp::from_second(item.created) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => String::new(),
    };
    let since = if human {
        units::duration(units::since(item.created)) + " ago"
    } else {
        created.clone()
    };
    row(
        json!({}),
        [
            ("ID", id.into()),
            ("CreatedSince", since.into()),
            ("CreatedAt", created.into()),
            ("CreatedBy", command.into()),
            (
                "Size",
                if human {
                    units::size3(bytes(item.size))
                } else {
                    item.size.to_string()
                }
                .into(),
            ),
            ("Comment", item.comment.clone().into()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_byte_identical() {
        let image = ImageSummary {
            id: "sha256:b86c2b0422c62a7a10f22242406169ca29c5e5bdec964a42a9e4bf6d909cf76f".into(),
            repo_tags: vec!["foo/bar:1.2".into(), "busybox:latest".into()],
            repo_digests: vec![],
            created: jiff::Timestamp::now().as_second() - 250,
            size: 1_984_000,
            shared_size: -1,
            containers: -1,
            ..ImageSummary::default()
        };
        // Captured from docker 28.2.2.
        assert_eq!(
            LISTING.show(TABLE, &image_rows(&image, true, false)).unwrap(),
            "REPOSITORY   TAG       IMAGE ID       CREATED         SIZE\n\
             foo/bar      1.2       b86c2b0422c6   4 minutes ago   1.98MB\n\
             busybox      latest    b86c2b0422c6   4 minutes ago   1.98MB\n"
        );
        assert_eq!(
            LISTING
                .show(DIGEST_TABLE, &image_rows(&image, true, true)[1..])
                .unwrap(),
            "REPOSITORY   TAG       DIGEST    IMAGE ID       CREATED         SIZE\n\
             busybox      latest    <none>    b86c2b0422c6   4 minutes ago   1.98MB\n"
        );
    }

    #[test]
    fn names_without_tags_are_none() {
        let image = ImageSummary {
            repo_digests: vec!["a/b@sha256:1".into()],
            ..ImageSummary::default()
        };
        assert_eq!(
            names(&image, false),
            [["a/b".to_owned(), NONE.into(), "sha256:1".into()]]
        );
        let image = ImageSummary {
            repo_tags: vec!["<none>:<none>".into()],
            ..ImageSummary::default()
        };
        assert_eq!(names(&image, true), [[NONE.to_owned(), NONE.into(), NONE.into()]]);
        let image = ImageSummary {
            repo_tags: vec!["localhost:5000/x:1".into()],
            ..ImageSummary::default()
        };
        assert_eq!(
            names(&image, true),
            [["localhost:5000/x".to_owned(), "1".into(), NONE.into()]]
        );
    }
}
