//! The parsers' fuzz entries, driven on stable.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..256)) {
        kelson_api::ports::fuzz(&data);
        kelson_api::filters::fuzz(&data);
        kelson_api::stream::fuzz(&data);
    }

    #[test]
    fn nearly_ports(text in r"(\[?[0-9a-f.:]{0,12}\]?:)?[0-9]{0,6}(-[0-9]{0,6})?:?[0-9]{0,6}(-[0-9]{0,5})?(/[a-z]{0,4})?") {
        kelson_api::ports::fuzz(text.as_bytes());
    }

    #[test]
    fn nearly_filters(text in r#"\{("[a-z!]{0,4}":(\["[a-z=]{0,3}"\]|\{"[a-z]{0,3}":(true|false)\}),?){0,2}\}"#) {
        kelson_api::filters::fuzz(text.as_bytes());
    }

    #[test]
    fn frames(stream in 0_u8..4, payload in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..72) {
        let mut wire = vec![stream, 0, 0, 0, 0, 0, 0, u8::try_from(payload.len()).unwrap()];
        wire.extend_from_slice(&payload);
        wire.truncate(cut);
        kelson_api::stream::fuzz(&wire);
    }
}
