//! Pull and push, with a real registry.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use super::{contains, field, refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::{Dock, Payload, Recipe, Request, query};
use crate::lab::check;
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    let all = vec![
        case(
            "engine/registry/push-and-pull",
            "what was pushed is pulled again as the same image, and runs",
            &[
                "engine#A3/61",
                "engine#A3/62",
                "engine#A3/67",
                "engine#api/ImagePush",
                "engine#api/ImageCreate",
            ],
            |dock| {
                let (recipe, id) = pushed(dock, "of the registry")?;
                let name = &recipe.tags[0];
                dock.delete(&format!("/images/{name}"))?.expect(200)?;
                let said = pull(dock, name)?;
                let statuses = field(&said, "status").join("\n");
                contains("the answer", &statuses, "Digest: sha256:")?;
                contains("the answer", &statuses, "Status: Downloaded newer image for ")?;
                check("Id", &dock.json(&format!("/images/{name}/json"))?["Id"], id)?;
                let mut spec = dock.spec(&["show", "/file"]);
                spec["Image"] = json!(name);
                says(&dock.output(&spec)?, "of the registry")
            },
        ),
        case(
            "engine/registry/pull-twice",
            "a second pull finds that the image is up to date",
            &[
                "engine#A3/61",
                "engine#A3/66",
                "engine#A1/36",
                "engine#api/ImageCreate",
            ],
            |dock| {
                let (recipe, _) = pushed(dock, "twice")?;
                let statuses = field(&pull(dock, &recipe.tags[0])?, "status").join("\n");
                contains("the answer", &statuses, "Status: Image is up to date for ")
            },
        ),
        case(
            "engine/registry/pull-by-digest",
            "a pushed image has its digest, and is pulled by it",
            &["engine#A3/76", "engine#A3/61", "engine#api/ImageCreate"],
            |dock| {
                let (recipe, id) = pushed(dock, "by digest")?;
                let digests = dock.json(&format!("/images/{}/json", recipe.tags[0]))?["RepoDigests"].clone();
                let digest = digests[0]
                    .as_str()
                    .with_context(|| format!("RepoDigests are {digests}"))?
                    .to_owned();
                let repo = recipe.tags[0]
                    .rsplit_once(':')
                    .map(|(repo, _)| repo)
                    .unwrap_or_default();
                ensure!(
                    digest.starts_with(&format!("{repo}@sha256:")),
                    "the digest is {digest}"
                );
                dock.delete(&format!("/images/{id}?force=1"))?.expect(200)?;
                pull(dock, &digest)?;
                check("Id", &dock.json(&format!("/images/{digest}/json"))?["Id"], id)
            },
        ),
        case(
            "engine/registry/only-new-layers",
            "of a second version only the layer that changed is fetched",
            &["engine#A3/70", "engine#A3/66", "engine#api/ImageCreate"],
            |dock| {
                let (first, _) = pushed(dock, "version 1")?;
                let second = Recipe {
                    tags: vec![first.tags[0].replace(":v1", ":v2")],
                    ..first.clone().with_file("more", "version 2")
                };
                dock.load(&second)?;
                push(dock, &second.tags[0])?;
                dock.delete(&format!("/images/{}", second.tags[0]))?.expect(200)?;
                let statuses = field(&pull(dock, &second.tags[0])?, "status");
                let there = statuses.iter().filter(|text| *text == "Already exists").count();
                let fetched = statuses.iter().filter(|text| *text == "Pull complete").count();
                ensure!(
                    (there, fetched) == (2, 1),
                    "{there} layers were there and {fetched} fetched: {statuses:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/registry/push-twice",
            "a second push sends nothing, and tells digest and size",
            &["engine#A3/62", "engine#api/ImagePush"],
            |dock| {
                let (recipe, _) = pushed(dock, "pushed twice")?;
                let said = push(dock, &recipe.tags[0])?;
                let statuses = field(&said, "status");
                ensure!(
                    !statuses.iter().any(|text| text == "Pushed"),
                    "layers are pushed again: {statuses:?}"
                );
                let digest = said.iter().find_map(|one| one["aux"]["Digest"].as_str());
                ensure!(
                    digest.is_some_and(|digest| digest.starts_with("sha256:")),
                    "no digest in {said:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/registry/not-there",
            "a repository or a tag that the registry does not have is an error that names it",
            &["engine#A3/61", "engine#api/ImageCreate"],
            |dock| {
                let registry = dock.registry()?;
                let name = format!("{registry}/{}", dock.fresh());
                let answer = dock.post(&query("/images/create", &[("fromImage", &name), ("tag", "v1")]))?;
                ensure!(
                    answer.status == 404 || answer.text().contains("errorDetail"),
                    "status {} {}",
                    answer.status,
                    answer.text()
                );
                let answer = dock.post(&query("/images/kelson-spec-nowhere/push", &[("tag", "none")]));
                // Where the image is not there at all, the status may be 404, or the error comes in the stream.
                let answer = answer?;
                ensure!(
                    answer.status >= 400 || answer.text().contains("errorDetail"),
                    "push: status {} {}",
                    answer.status,
                    answer.text()
                );
                Ok(())
            },
        ),
        case(
            "engine/registry/distribution",
            "an image of the registry is looked at without being pulled",
            &["engine#A3/76", "engine#api/DistributionInspect"],
            |dock| {
                let (recipe, _) = pushed(dock, "looked at")?;
                let answer = dock.json(&format!("/distribution/{}/json", recipe.tags[0]))?;
                let digest = answer["Descriptor"]["digest"].as_str().unwrap_or_default();
                ensure!(
                    digest.starts_with("sha256:"),
                    "Descriptor is {}",
                    answer["Descriptor"]
                );
                check("os", &answer["Platforms"][0]["os"], "linux")
            },
        ),
        case(
            "engine/registry/login",
            "a registry that asks for no password accepts any, and one that is not there is an error",
            &["engine#A3/63", "engine#api/SystemAuth"],
            |dock| {
                let registry = dock.registry()?;
                let login = |address: &str| {
                    dock.post_json(
                        "/auth",
                        &json!({"username": "a", "password": "b", "serveraddress": address}),
                    )
                };
                let answer = login(registry)?;
                ensure!(
                    matches!(answer.status, 200 | 204),
                    "status {} {}",
                    answer.status,
                    answer.text()
                );
                let status = login("127.0.0.1:1")?.status;
                ensure!(status >= 400, "of a registry that is not there: {status}");
                Ok(())
            },
        ),
    ];
    let mut all: Vec<Case> = all
        .into_iter()
        .map(|case| case.needs(&[Need::Registry]))
        .collect();
    all.push(case(
        "engine/registry/nobody-listens",
        "a pull from an address where nobody listens is an error, and no image",
        &["engine#A3/61", "engine#api/ImageCreate"],
        |dock| {
            let answer = dock.post(&query(
                "/images/create",
                &[("fromImage", "127.0.0.1:1/nothing"), ("tag", "v1")],
            ))?;
            ensure!(
                answer.status >= 400 || answer.text().contains("errorDetail"),
                "status {} {}",
                answer.status,
                answer.text()
            );
            refused(dock.get("/images/127.0.0.1:1/nothing:v1/json")?, 404).map(drop)
        },
    ));
    all.push(case(
        "engine/registry/no-such-name",
        "a pull of a name outside the grammar is 400",
        &["engine#A3/65", "engine#api/ImageCreate"],
        |dock| {
            for name in ["Upper", "a//b", "127.0.0.1:1/a:b:c"] {
                refused(
                    dock.post(&query("/images/create", &[("fromImage", name), ("tag", "v1")]))?,
                    400,
                )
                .with_context(|| name.to_owned())?;
            }
            Ok(())
        },
    ));
    all
}

/// An image of this case that was loaded and pushed.
fn pushed(dock: &Dock<'_>, content: &str) -> Result<(Recipe, String)> {
    let registry = dock.registry()?;
    let mut recipe = dock.recipe().with_file("file", content);
    recipe.tags = vec![format!("{registry}/{}:v1", dock.fresh())];
    let id = dock.load(&recipe)?;
    push(dock, &recipe.tags[0])?;
    Ok((recipe, id))
}

fn push(dock: &Dock<'_>, name: &str) -> Result<Vec<Value>> {
    let (repo, tag) = name.rsplit_once(':').context("a name without a tag")?;
    let credentials = URL_SAFE.encode("{}");
    let target = query(&format!("/images/{repo}/push"), &[("tag", tag)]);
    let request = Request {
        headers: &[("X-Registry-Auth", &credentials)],
        payload: Payload::None,
        ..Request::new("POST", &target)
    };
    without_error(dock.ask(&request)?.expect(200)?.documents()?)
}

fn pull(dock: &Dock<'_>, name: &str) -> Result<Vec<Value>> {
    let parameters = match name.split_once('@') {
        Some((repo, digest)) => [("fromImage", repo), ("tag", digest)],
        None => {
            let (repo, tag) = name.rsplit_once(':').context("a name without a tag")?;
            [("fromImage", repo), ("tag", tag)]
        }
    };
    without_error(
        dock.post(&query("/images/create", &parameters))?
            .expect(200)?
            .documents()?,
    )
}

fn without_error(documents: Vec<Value>) -> Result<Vec<Value>> {
    let error = documents.iter().find_map(|one| one["error"].as_str());
    ensure!(error.is_none(), "the stream says {error:?}");
    Ok(documents)
}
