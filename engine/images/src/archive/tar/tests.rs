//! The walker against tars of the test's own.

use super::*;

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
