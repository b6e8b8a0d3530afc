use super::*;

#[test]
fn requests_are_the_bytes_that_protoc_writes() {
    assert_eq!(request(Type::Version, None), [0x08, 10]);
    assert_eq!(acknowledgement(), [0x08, 6, 0x18, 1]);
    let features = Features {
        mem_track: true,
        lazy_pages: false,
    };
    assert_eq!(feature_request(features), [0x08, 9, 0x2a, 2, 0x08, 1]);
    let opts = Opts {
        images_dir_fd: 5,
        pid: Some(300),
        log_file: "l".into(),
        ..Opts::default()
    };
    // type DUMP; opts of 17 bytes: 1: 5, 2: 300, 12: true, 50: true, 9: 4, 10: "l"
    let expected = [
        0x08, 1, 0x12, 17, 0x08, 5, 0x10, 0xac, 0x02, 0x60, 1, 0x90, 0x03, 1, 0x48, 4, 0x52, 1, b'l',
    ];
    let mut expected = expected.to_vec();
    expected[3] = u8::try_from(expected.len() - 4).unwrap();
    assert_eq!(request(Type::Dump, Some(&opts)), expected);
}

#[test]
fn negative_numbers_take_ten_bytes() {
    let mut m = Encoder::default();
    m.int(1, -1);
    assert_eq!(
        m.into_bytes(),
        [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]
    );
}

#[test]
fn lists_are_pairs() {
    let opts = Opts {
        ext_mnt: vec![("/a".into(), "/b".into())],
        cg_root: vec![("pids".into(), "/x".into())],
        inherit_fd: vec![("pipe:[1]".into(), 1)],
        join_ns: vec![("uts".into(), "/u".into())],
        external: vec!["net[1]:k".into()],
        page_server: Some(("::1".into(), 300)),
        cgroup_mode: Some(CgroupMode::Ignore),
        network_lock: Some(NetworkLock::Skip),
        empty_ns: 0x4000_0000,
        ..Opts::default()
    };
    let bytes = opts.encode().into_bytes();
    let has = |part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
    assert!(has(b"\xba\x01\x08\x0a\x02/a\x12\x02/b"), "23: ext_mnt");
    assert!(has(b"\xc0\x01\x01"), "24: manage_cgroups");
    assert!(has(b"\xca\x01\x0a\x0a\x04pids\x12\x02/x"), "25: cg_root");
    assert!(has(b"\xda\x01\x0c\x0a\x08pipe:[1]\x10\x01"), "27: inherit_fd");
    assert!(has(b"\x90\x02\x00"), "34: the mode that is 0 is sent, too");
    assert!(has(b"\xaa\x02\x08net[1]:k"), "37: external");
    assert!(has(b"\xb0\x02\x80\x80\x80\x80\x04"), "38: empty_ns");
    assert!(has(b"\xba\x02\x09\x0a\x03uts\x12\x02/u"), "39: join_ns");
    assert!(has(b"\x5a\x08\x0a\x03::1\x10\xac\x02"), "11: ps");
    assert!(has(b"\x80\x04\x03"), "64: network_lock");
}

#[test]
fn responses_are_read_and_unknown_fields_skipped() {
    let version = Response::decode(b"\x08\x0a\x10\x01\x52\x06\x08\x03\x10\x11\x20\x01").unwrap();
    assert_eq!((version.typ, version.version), (Some(Type::Version), 31701));
    let unreleased = Response::decode(b"\x08\x0a\x10\x01\x52\x07\x08\x03\x10\x11\x1a\x01g").unwrap();
    assert_eq!(unreleased.version, 31800);
    let notify = Response::decode(b"\x08\x06\x10\x01\x2a\x0d\x0a\x09post-dump\x10\x07\xf8\x07\x01").unwrap();
    assert_eq!(
        (notify.typ, notify.script.as_str(), notify.pid),
        (Some(Type::Notify), "post-dump", 7)
    );
    let restored = Response::decode(b"\x08\x02\x10\x01\x22\x03\x08\xac\x02").unwrap();
    assert_eq!((restored.typ, restored.pid), (Some(Type::Restore), 300));
    let failed = Response::decode(b"\x08\x01\x10\x00\x38\x01\x4a\x02no").unwrap();
    assert_eq!(
        (failed.success, failed.errno, failed.message.as_str()),
        (false, 1, "no")
    );
    let features = Response::decode(b"\x08\x09\x10\x01\x42\x04\x08\x01\x10\x00").unwrap();
    assert!(features.features.mem_track && !features.features.lazy_pages);
    for bad in [&b"\x08"[..], b"\x2a\x05ab", b"\x0f\x01", b"\x2a\x02\x0a\x09"] {
        assert_eq!(Response::decode(bad), None, "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_response_panics(bytes: Vec<u8>) { let _ = Response::decode(&bytes); }

    #[test]
    fn numbers_come_back(value: u64) {
        let mut m = Encoder::default();
        m.varint(value);
        let bytes = m.into_bytes();
        let mut rest = &bytes[..];
        proptest::prop_assert_eq!(varint(&mut rest), Some(value));
        proptest::prop_assert!(rest.is_empty());
    }
}
