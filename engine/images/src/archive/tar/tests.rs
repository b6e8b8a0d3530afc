//! The walker against tars of the test's own.

use super::*;
use crate::Kind;

#[test]
fn pax_records_and_times() {
    let records = parse_pax(b"11 path=abc\n21 SCHILY.xattr.a=\n\x00\n14 mtime=-1.5\n").map(|r| r.len());
    assert!(records.is_err(), "a wrong length is refused");
    let value = b"x\n=\0y";
    let body = [b" SCHILY.xattr.user.k=".as_slice(), value, b"\n"].concat();
    let record = [(body.len() + 2).to_string().as_bytes(), &body].concat();
    let xattrs = xattrs_of(parse_pax(&record).unwrap());
    assert_eq!(xattrs, vec![(b"user.k".to_vec(), value.to_vec())]);
    assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
    assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
    assert_eq!(pax_time(b"1.1234567899"), Some((1, 123_456_789)));
    assert_eq!(pax_time(b"x"), None);
}

#[test]
fn numbers() {
    let mut header = Header::new_old();
    let mut get = |text: &[u8]| {
        header.as_mut_bytes()[MTIME].fill(0);
        header.as_mut_bytes()[136..136 + text.len()].copy_from_slice(text);
        signed(&header, MTIME).ok()
    };
    assert_eq!(get(b""), Some(0));
    assert_eq!(get(b"   644 "), Some(0o644));
    assert_eq!(get(b"00000000644\0"), Some(0o644));
    assert_eq!(get(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02"), Some(258));
    assert_eq!(get(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
    assert_eq!(get(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), None);
    assert_eq!(get(b"8"), None);
}

#[test]
fn the_end_and_what_is_not_one() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "a", b"abc".as_slice()).unwrap();
    let bytes = tar.into_inner().unwrap();
    let walk = |bytes: &[u8]| -> Result<usize> {
        let mut reader = TarReader::new(bytes);
        let mut n = 0;
        while reader.next_entry()?.is_some() {
            n += 1;
        }
        Ok(n)
    };
    assert_eq!(walk(&bytes).unwrap(), 1);
    assert_eq!(walk(&bytes[..1024]).unwrap(), 1, "the trailer may be missing");
    assert!(walk(&bytes[..1000]).is_err(), "a member may not be cut");
    assert!(walk(&bytes[..300]).is_err());
    let lone_zeros = [&bytes[..1024], &[0; 512], &bytes[..1024]].concat();
    assert!(walk(&lone_zeros).is_err());
    let mut flipped = bytes.clone();
    flipped[0] ^= 1;
    assert!(walk(&flipped).unwrap_err().to_string().contains("checksum"));
}

proptest::proptest! {
    #[test]
    fn any_bytes(name in "[ -~]{0,100}", kind in proptest::sample::select(b"0125KLxgS57".to_vec()), size in 0u64..5000,
        body in proptest::collection::vec(0u8..=255, 0..3000)) {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_cksum();
        fuzz(&[header.as_bytes().as_slice(), &body, header.as_bytes().as_slice()].concat());
        fuzz(&body);
    }
}

#[test]
fn records_are_bounded() {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(PAX_MAX + 1);
    header.set_cksum();
    let error = TarReader::new(header.as_bytes().as_slice())
        .next_entry()
        .unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn a_name_longer_than_the_kernel_takes_is_refused() {
    let walk = |key: &str, length: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        let name = "n".repeat(length);
        tar.append_pax_extensions([(key, name.as_bytes())]).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(0);
        tar.append_data(&mut header, "a", std::io::empty()).unwrap();
        TarReader::new(tar.into_inner().unwrap().as_slice()).next_entry()
    };
    for key in ["path", "linkpath"] {
        assert!(walk(key, NAME_MAX).unwrap().is_some());
        assert_eq!(
            walk(key, NAME_MAX + 1).unwrap_err().kind(),
            Kind::Invalid,
            "{key}"
        );
    }
}

#[test]
fn sparse_files_in_all_forms() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("holes")).unwrap();
    for (at, text) in [(0u64, "begin"), (1 << 20, "middle"), (5 << 20, "late")] {
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), at).unwrap();
    }
    file.set_len(8 << 20).unwrap();
    let content = std::fs::read(dir.path().join("holes")).unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let tar = std::process::Command::new("tar")
            .args(["--create", "--sparse", "--file=-", "-C"])
            .arg(dir.path())
            .args(form)
            .arg("holes")
            .output()
            .unwrap();
        assert!(
            tar.status.success() && tar.stdout.len() < 1 << 20,
            "{form:?}: it has holes"
        );
        let mut reader = TarReader::new(tar.stdout.as_slice());
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(
            (entry.path.as_slice(), entry.kind, entry.size),
            (b"holes".as_slice(), EntryType::Regular, 8 << 20)
        );
        let mut got = vec![0; 8 << 20];
        for (offset, length) in entry.sparse.unwrap() {
            for byte in got
                .iter_mut()
                .skip(usize::try_from(offset).unwrap())
                .take(usize::try_from(length).unwrap())
            {
                *byte = reader.fill().unwrap()[0];
                reader.consume(1);
            }
        }
        assert!(got == content, "{form:?}");
        assert!(reader.next_entry().unwrap().is_none(), "{form:?}");
    }
}

#[test]
fn bad_sparse_maps_are_refused() {
    let walk = |records: &[(&str, &str)], data: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        let records = records.iter().map(|(k, v)| (*k, v.as_bytes()));
        tar.append_pax_extensions(records).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, "a", data).unwrap();
        let bytes = tar.into_inner().unwrap();
        let entry = TarReader::new(bytes.as_slice()).next_entry();
        entry.map(|e| e.unwrap().sparse)
    };
    let ok = walk(
        &[("GNU.sparse.map", "0,2,10,1"), ("GNU.sparse.size", "20")],
        b"abc",
    );
    assert_eq!(ok.unwrap(), Some(vec![(0, 2), (10, 1)]));
    let leading = |text: &str| [text.as_bytes(), &vec![0; 512 - text.len()], b"abc"].concat();
    let one = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "20"),
    ];
    assert_eq!(walk(&one, &leading("1\n4\n3\n")).unwrap(), Some(vec![(4, 3)]));
    for (map, size) in [
        ("0,2,1,1", "20"),
        ("0,3", "2"),
        ("0,2", "20"),
        ("0", "20"),
        ("x,3", "20"),
        ("18446744073709551615,3", "20"),
    ] {
        assert!(
            walk(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)], b"abc").is_err(),
            "{map}"
        );
    }
    for text in [
        "",
        "1\n4\n",
        "9999999\n",
        "x\n",
        "1\n4\n9\n",
        "111111111111111111111111111\n",
    ] {
        assert!(walk(&one, &leading(text)).is_err(), "{text}");
    }
    assert!(walk(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")], b"abc").is_err());
    assert!(walk(&[("GNU.sparse.size", "3")], b"abc").is_err());
}
