use proptest::prelude::*;

use super::*;

const TIME: Time = Time {
    secs: 1_700_000_000,
    nanos: 120_000_000,
};

fn object(piece: &[u8]) -> String {
    let mut out = Vec::new();
    write(&mut out, piece, Stream::Stdout, TIME);
    String::from_utf8(out).unwrap()
}

fn pieces(input: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut cutter = Pieces::default();
    let mut out: Vec<Vec<u8>> = Vec::new();
    for part in input.chunks(cut.max(1)) {
        cutter.push(part, |piece| out.push(piece.to_vec()));
    }
    cutter.finish(|piece| out.push(piece.to_vec()));
    out
}

#[test]
fn dockers_exact_form() {
    assert_eq!(
        object(b"hello\n"),
        "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20.12Z\"}\n"
    );
}

#[test]
fn escapes() {
    let body = |text: &[u8]| {
        let line = object(text);
        line.strip_prefix("{\"log\":\"")
            .unwrap()
            .split_once("\",\"stream\"")
            .unwrap()
            .0
            .to_owned()
    };
    assert_eq!(body(b"a\tb\x00\x1b[0m\r\n"), "a\\u0009b\\u0000\\u001b[0m\\r\\n");
    assert_eq!(
        body(b"<a href=\"x\\y\">&</a>"),
        "\\u003ca href=\\\"x\\\\y\\\"\\u003e\\u0026\\u003c/a\\u003e"
    );
    assert_eq!(
        body("grün\u{2028}\u{2029}\u{1f600}\x7f".as_bytes()),
        "grün\\u2028\\u2029\u{1f600}\x7f"
    );
    assert_eq!(body(b"a\xff\xe2\x82b"), "a\\ufffd\\ufffd\\ufffdb");
}

#[test]
fn long_lines_are_cut() {
    let long = [vec![b'x'; MAX_PIECE + 5], b"\nend".to_vec()].concat();
    let lens: Vec<usize> = pieces(&long, 7000).iter().map(Vec::len).collect();
    assert_eq!(lens, [MAX_PIECE, 6, 3]);
    // A line of exactly one piece keeps its newline.
    let exact = [vec![b'x'; MAX_PIECE], b"\n".to_vec()].concat();
    assert_eq!(pieces(&exact, exact.len()).len(), 1);
}

#[test]
fn a_cut_tears_no_character() {
    let long = "ü".repeat(MAX_PIECE);
    for piece in pieces(&[b"x", long.as_bytes()].concat(), 1000) {
        assert!(std::str::from_utf8(&piece).is_ok());
        assert!(piece.len() <= MAX_PIECE);
    }
}

#[test]
fn general_json_is_read_too() {
    let entry = Entry::decode(br#"{"stream":"stderr", "log":"a\ud83d\ude00", "attrs":{"a":"b"},"time":"t"}"#)
        .unwrap();
    assert_eq!(
        (entry.log.as_str(), entry.source()),
        ("a\u{1f600}", Stream::Stderr)
    );
    assert!(Entry::decode(b"{\"log\":\"torn").is_err());
}

proptest! {
    #[test]
    fn what_is_written_is_valid_json_and_read_back(piece in prop::collection::vec(any::<u8>(), 0..200)) {
        let line = object(&piece);
        let general: Entry = serde_json::from_str(&line).unwrap();
        let (escaped, stream, time) = fields(line.as_bytes()).unwrap();
        let mut log = Vec::new();
        unescape(escaped, &mut log).unwrap();
        prop_assert_eq!((String::from_utf8(log).unwrap(), stream.name(), time), (general.log.clone(), general.stream.as_str(), general.time.as_str()));
        if let Ok(text) = std::str::from_utf8(&piece) {
            prop_assert_eq!(&general.log, text);
        }
    }

    #[test]
    fn pieces_lose_nothing(
        lines in prop::collection::vec((any::<u8>(), 0..40_000_usize), 0..4),
        cut in 1_usize..70_000,
    ) {
        let mut input = Vec::new();
        for (byte, len) in lines {
            input.extend(std::iter::repeat_n(byte, len));
            input.push(b'\n');
        }
        let out = pieces(&input, cut);
        prop_assert!(out.iter().all(|piece| piece.len() <= MAX_PIECE + 1 && !piece.is_empty()));
        prop_assert_eq!(out.concat(), input);
    }

    #[test]
    fn decode_never_panics(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(&line);
    }
}
