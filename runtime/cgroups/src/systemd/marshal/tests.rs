//! Against messages that busctl and systemd 257 exchanged, recorded with strace.

use super::*;

const START: &[u8] = include_bytes!("../testdata/start-transient-unit.bin");
const REPLY: &[u8] = include_bytes!("../testdata/get-unit-reply.bin");
const SIGNALLED: &[u8] = include_bytes!("../testdata/name-acquired.bin");

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))])
}

fn pair(a: &str, b: &str) -> Value {
    Value::Struct(vec![Value::str(a), Value::str(b)])
}

#[test]
fn a_call_is_busctls_byte_for_byte() {
    let properties = vec![
        property("Description", Value::str("a test")),
        property("CPUWeight", Value::U64(123)),
        property("TasksMax", Value::U64(77)),
        property("AllowedCPUs", Value::bytes([1])),
        property(
            "DeviceAllow",
            Value::Array(
                "(ss)".to_owned(),
                vec![pair("/dev/null", "rw"), pair("char-pts", "rwm")],
            ),
        ),
        property("DefaultDependencies", Value::Bool(false)),
    ];
    let args = [
        Value::str("kelson-rec.slice"),
        Value::str("fail"),
        Value::Array("(sv)".to_owned(), properties),
        Value::Array("(sa(sv))".to_owned(), Vec::new()),
    ];
    let mut bytes = call(
        2,
        Call {
            destination: Some("org.freedesktop.systemd1"),
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "StartTransientUnit",
            args: &args,
            reply: true,
        },
    );
    // busctl allows interactive authorization; we never do.
    bytes[2] |= 4;
    assert_eq!(bytes, START);
}

#[test]
fn what_was_written_is_read_back() {
    let Value::Array(element, properties) = body_of(START).remove(2) else {
        panic!("no array")
    };
    assert_eq!((element.as_str(), properties.len()), ("(sv)", 6));
    assert_eq!(properties[1], property("CPUWeight", Value::U64(123)));
    assert_eq!(properties[3], property("AllowedCPUs", Value::bytes([1])));
}

/// The arguments of a message, whatever its kind.
fn body_of(message: &[u8]) -> Vec<Value> {
    let mut signal = message.to_vec();
    signal[1] = SIGNAL;
    match parse(&signal).unwrap() {
        Incoming::Signal { args, .. } => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer() {
    assert_eq!(total(REPLY[..PREFIX].try_into().unwrap()).unwrap(), REPLY.len());
    let path = "/org/freedesktop/systemd1/unit/kelson_2drec_2eslice".to_owned();
    assert_eq!(
        parse(REPLY).unwrap(),
        Incoming::Return {
            to: 2,
            args: vec![Value::Path(path)]
        }
    );
}

#[test]
fn a_signal() {
    let args = vec![Value::str(":1.3")];
    assert_eq!(
        parse(SIGNALLED).unwrap(),
        Incoming::Signal {
            member: "NameAcquired".to_owned(),
            args
        }
    );
}

#[test]
fn big_endian_senders_are_understood() {
    // The answer again, as a big-endian peer would write it: an error without arguments.
    let mut m = vec![b'B', ERROR, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 20];
    m.extend([4, 1, b's', 0, 0, 0, 0, 3, b'a', b'.', b'b', 0]);
    m.extend([5, 1, b'u', 0, 0, 0, 0, 7]);
    // A field begins at a multiple of 8.
    m.splice(28..28, [0, 0, 0, 0]);
    m[15] = 24;
    assert_eq!(total(m[..PREFIX].try_into().unwrap()).unwrap(), m.len());
    assert_eq!(
        parse(&m).unwrap(),
        Incoming::Refusal {
            to: 7,
            name: "a.b".to_owned(),
            text: String::new()
        }
    );
}

#[test]
fn too_much_is_refused_before_it_is_read() {
    let mut prefix = [0; PREFIX];
    prefix[0] = b'l';
    prefix[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(total(&prefix).is_err());
}

fn value() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::Byte),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        "[a-z/]{0,9}".prop_map(Value::Str),
        "/[a-z]{0,9}".prop_map(Value::Path),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
            inner.clone().prop_map(|v| Value::Variant(Box::new(v))),
            (inner, 0usize..4).prop_map(|(v, n)| Value::Array(v.signature(), vec![v; n])),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn every_value_comes_back(args in proptest::collection::vec(value(), 0..4)) {
        let message = call(1, Call {
            destination: None,
            path: "/",
            interface: "i.i",
            member: "M",
            args: &args,
            reply: false,
        });
        proptest::prop_assert_eq!(total(message[..PREFIX].try_into().unwrap()).unwrap(), message.len());
        proptest::prop_assert_eq!(body_of(&message), args);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
        let mut message = REPLY.to_vec();
        for (i, b) in bytes.iter().enumerate() {
            let at = (i * 31 + usize::from(*b)) % message.len();
            message[at] ^= b;
        }
        let _ = parse(&message);
    }
}
