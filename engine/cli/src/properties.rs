//! Properties of the parsers: no text makes one panic, and layout keeps meaning.

use proptest::prelude::*;
use serde_json::Value;

use crate::commands::container::options::{checks, devices, env, limits, mounts, network, security};
use crate::format::indent::indent;
use crate::format::template::{Missing, Template};
use crate::format::{listing, timestamp, units};
use crate::stream::parse_detach_keys;

/// Text with the characters that the grammars care about.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" ".to_owned()),
        "[a-z0-9]{1,4}",
        r#"[-.,:=/"'`\\|$()\[\]{}%+]"#.prop_map(|text| text),
        Just("{{".to_owned()),
        Just("}}".to_owned()),
        "(if|else|end|range|with|printf|index|json|\\.A|\\$x|:=)",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in text()) {
        let _ = (checks::add_host(&text), checks::device_rule(&text), checks::env(&text), checks::link(&text));
        let _ = (devices::parse(&text), devices::gpus(&text), env::lines("f", &text));
        let _ = (limits::nano_cpus(&text), limits::ulimit(&text), limits::throttle(&text, true), limits::weight(&text));
        let _ = (mounts::parse_mount(&text), mounts::parse_volume(&text, std::path::Path::new("/")), network::parse(&text));
        let _ = security::parse([text.as_str()].into_iter(), |_| Ok(text.clone()));
        let _ = (units::parse_size(&text), units::parse_duration(&text), timestamp::parse(&text));
        let _ = (units::ellipsis(&text, 5), units::go_quote(&text), units::short_id(&text));
        let _ = (parse_detach_keys(&text), listing::align(&text), indent(&text, 4));
    }

    #[test]
    fn no_template_panics(text in text(), value in json()) {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&value, Missing::Map);
            let _ = template.render(&value, Missing::NoValue);
        }
    }

    #[test]
    fn layout_keeps_the_value(value in json()) {
        let laid_out = indent(&value.to_string(), 4);
        prop_assert_eq!(serde_json::from_str::<Value>(&laid_out).unwrap(), value);
    }

    #[test]
    fn ellipses_fit(text in ".{0,40}", limit in 1_usize..20) {
        prop_assert!(units::ellipsis(&text, limit).chars().count() <= limit.max(1));
    }
}
