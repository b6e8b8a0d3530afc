//! `linux.personality`: what the kernel pretends to be. The specification names no flags yet; those of personality(2)
//! are taken by their names there.

use nix::sys::personality::{self, Persona};

use super::scheduler::{number, unknown};
use crate::config::model::Personality;
use crate::error::{Doing, Result};

const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// linux/personality.h
const FLAGS: [(&str, u32); 11] = [
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
    ("STICKY_TIMEOUTS", 0x400_0000),
    ("ADDR_LIMIT_3GB", 0x800_0000),
];

/// The kernel's number.
///
/// # Errors
/// `Invalid` names the domain or flag.
pub fn decide(p: &Personality) -> Result<u32> {
    let at = "linux.personality";
    let domain = number(&DOMAINS, &p.domain).ok_or_else(|| unknown(&DOMAINS, &p.domain, at, "domain"))?;
    p.flags.iter().enumerate().try_fold(domain, |bits, (i, name)| {
        let flag = number(&FLAGS, name).ok_or_else(|| unknown(&FLAGS, name, at, &format!("flags[{i}]")))?;
        Ok(bits | flag)
    })
}

/// Sets it for the calling process.
///
/// # Errors
/// The errno of personality(2).
pub fn apply(bits: u32) -> Result<()> {
    let persona = Persona::from_bits_retain(bits.cast_signed());
    personality::set(persona).doing(|| format!("linux.personality: set {bits:#x}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_bits() {
        let of = |text: &str| decide(&serde_json::from_str(text).unwrap()).map_err(|e| e.chain());
        assert_eq!(of(r#"{"domain":"LINUX"}"#), Ok(0));
        assert_eq!(
            of(r#"{"domain":"LINUX32","flags":["ADDR_NO_RANDOMIZE","UNAME26"]}"#),
            Ok(0x6_0008)
        );
        assert!(
            of(r#"{"domain":"BSD"}"#)
                .unwrap_err()
                .starts_with("linux.personality.domain: \"BSD\"")
        );
        let error = of(r#"{"domain":"LINUX","flags":["UNAME26","X"]}"#).unwrap_err();
        assert!(error.starts_with("linux.personality.flags[1]: \"X\""), "{error}");
    }
}
