//! Writing and reading netlink attributes by hand, for nf_tables (rtnetlink has a crate of its own).

const NESTED: u16 = 0x8000;

/// Appends one attribute, padded to four bytes.
pub(crate) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a string with its terminating zero.
pub(crate) fn put_string(out: &mut Vec<u8>, kind: u16, value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    put(out, kind, &bytes);
}

/// Appends an attribute whose value is what `fill` writes.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(out, kind | NESTED, &inner);
}

/// The value of the first attribute of `kind`.
pub(crate) fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let head: &[u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) & !NESTED == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let mut out = Vec::new();
        put_string(&mut out, 1, "kelson");
        nest(&mut out, 2, |inner| put(inner, 7, &[1, 2]));
        assert_eq!(out.len() % 4, 0);
        assert_eq!(find(&out, 1), Some(&b"kelson\0"[..]));
        assert_eq!(find(find(&out, 2).unwrap(), 7), Some(&[1u8, 2][..]));
        assert_eq!(find(&out, 3), None);
        assert_eq!(find(&[0, 0, 0, 0], 1), None);
    }
}
