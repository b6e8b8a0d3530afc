//! Lists of numbers as the kernel writes them for CPUs and memory nodes: `0-3,7`.

/// The largest number taken: far beyond every machine, and a mask of 8 KiB.
pub const MAX: u32 = 65_535;

/// The bits of a list, lowest first, no longer than they need to be. Spaces around and empty elements between commas are
/// let through, as other runtimes do.
///
/// # Errors
/// Why it is no list.
pub fn parse(text: &str) -> Result<Vec<u64>, String> {
    let mut bits = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((a, b)) => (number(a, text)?, number(b, text)?),
            None => (number(part, text)?, number(part, text)?),
        };
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        let words = last as usize / 64 + 1;
        if bits.len() < words {
            bits.resize(words, 0u64);
        }
        for n in first..=last {
            bits[n as usize / 64] |= 1 << (n % 64);
        }
    }
    if bits.is_empty() {
        return Err(format!("{text:?} names no number"));
    }
    Ok(bits)
}

fn number(part: &str, whole: &str) -> Result<u32, String> {
    let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return Err(format!(
            "{whole:?} is not a list of numbers and ranges such as \"0-3,7\""
        ));
    }
    match part.parse::<u32>() {
        Ok(n) if n <= MAX => Ok(n),
        _ => Err(format!("{part} is above {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse("0"), Ok(vec![1]));
        assert_eq!(parse("0-3,7"), Ok(vec![0x8f]));
        assert_eq!(parse(" 1 ,, 64"), Ok(vec![2, 1]));
        assert_eq!(parse("65535").unwrap().len(), 1024);
        for bad in [
            "",
            ",",
            "a",
            "-1",
            "1-",
            "3-1",
            "+1",
            "0-9876543210",
            "65536",
            "1 2",
            "0x1",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_parsed_is_what_was_written(numbers in proptest::collection::btree_set(0u32..300, 1..40)) {
            let text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let bits = parse(&text).unwrap();
            let back: Vec<u32> = (0..300)
                .filter(|n| bits.get(*n as usize / 64).is_some_and(|w| w >> (n % 64) & 1 == 1))
                .collect();
            proptest::prop_assert_eq!(back, numbers.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn nothing_panics(text: String) { let _ = parse(&text); }
    }
}
