//! Docker's forms and refusals, as tables.

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Typed, canonical, familiar: a line each, blanks between.
const FORMS: &str = include_str!("forms.txt");

#[test]
fn forms() {
    assert!(FORMS.lines().count() >= 60);
    for line in FORMS.lines() {
        let [typed, canonical, familiar] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("three columns: {line}");
        };
        let reference = Reference::parse(typed)
            .unwrap_or_else(|e| panic!("{typed}: {e}"))
            .with_default_tag();
        assert_eq!(reference.to_string(), canonical, "{typed}");
        assert_eq!(reference.familiar(), familiar, "{typed}");
        assert_eq!(Reference::parse(canonical).unwrap(), reference);
        assert_eq!(Reference::parse(familiar).unwrap(), reference);
    }
}

#[test]
fn digests() {
    let by_digest = Reference::parse(&format!("nginx@sha256:{HEX}")).unwrap();
    assert_eq!(
        by_digest.clone().with_default_tag(),
        by_digest,
        "a digest needs no tag"
    );
    assert_eq!(
        by_digest.to_string(),
        format!("docker.io/library/nginx@sha256:{HEX}")
    );
    assert_eq!(by_digest.familiar(), format!("nginx@sha256:{HEX}"));
    let both = Reference::parse(&format!("h:1/n:t@sha256:{HEX}")).unwrap();
    assert_eq!(
        (both.tag(), both.digest()),
        (Some("t"), Some(format!("sha256:{HEX}").as_str()))
    );
    assert_eq!(both.familiar(), format!("h:1/n:t@sha256:{HEX}"));
}

#[test]
fn refused() {
    let format = "invalid reference format";
    let upper = "invalid reference format: repository name";
    let long = format!("{}/{}", "a".repeat(200), "b".repeat(60));
    let long_tag = format!("x:{}", "t".repeat(129));
    let bad_hex = format!("x@sha256:{}", &HEX[1..]);
    let upper_hex = format!("x@sha256:{}", HEX.to_uppercase());
    let table = [
        ("", format),
        (":", format),
        ("/x", format),
        ("x/", format),
        ("a//b", format),
        ("-a", format),
        ("a-", format),
        ("a..b", format),
        ("a___b", format),
        ("a._b", format),
        ("x:", format),
        ("x:-a", format),
        ("x:.a", format),
        ("x:a b", format),
        ("x y", format),
        ("x@", format),
        ("x@sha256", format),
        ("x@sha256:abc", format),
        ("x:a:b", format),
        ("한국/x", format),
        ("https://x/y", format),
        ("h.:5000/x", format),
        ("h.a:x/y", format),
        ("[::1/x", format),
        ("[g::1]/x", format),
        ("Nginx", upper),
        ("library/Nginx:a", upper),
        (
            long.as_str(),
            "repository name must not be more than 255 characters",
        ),
        (long_tag.as_str(), format),
        (HEX, "invalid repository name"),
        (bad_hex.as_str(), "invalid checksum digest length"),
        (upper_hex.as_str(), "invalid checksum digest format"),
    ];
    for (typed, message) in table {
        let error = Reference::parse(typed).expect_err(typed).to_string();
        assert!(error.starts_with(message), "{typed}: {error}");
    }
}

#[test]
fn ids() {
    assert_eq!(Named::parse(HEX).unwrap(), Named::Id(format!("sha256:{HEX}")));
    assert_eq!(
        Named::parse(&format!("sha256:{HEX}")).unwrap(),
        Named::Id(format!("sha256:{HEX}"))
    );
    assert!(matches!(Named::parse("a1b2c3").unwrap(), Named::Name(_)));
}

proptest::proptest! {
    #[test]
    fn prints_what_it_parsed(text in "[a-zA-Z0-9._:/@-]{0,40}") {
        fuzz(text.as_bytes());
    }
}
