//! POSIX extended regular expressions, by the C library: regcomp(3).

use std::ffi::CString;
use std::fmt;
use std::mem::MaybeUninit;

/// A compiled pattern.
pub struct Regex {
    compiled: libc::regex_t,
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Regex")
    }
}

impl Regex {
    /// Compiles an extended expression.
    ///
    /// # Errors
    /// The library's sentence on what is wrong with it.
    pub fn extended(pattern: &str) -> Result<Self, String> {
        let pattern = CString::new(pattern).map_err(|_| "holds a NUL byte".to_owned())?;
        let mut compiled = MaybeUninit::<libc::regex_t>::zeroed();
        // SAFETY: regcomp reads the NUL-terminated string, which lives until it returns, and initialises what the
        // valid, writable pointer leads to.
        let code = unsafe {
            libc::regcomp(
                compiled.as_mut_ptr(),
                pattern.as_ptr(),
                libc::REG_EXTENDED | libc::REG_NOSUB,
            )
        };
        if code != 0 {
            return Err(describe(code, compiled.as_ptr()));
        }
        // SAFETY: regcomp returned 0, so it is initialised. glibc's regex_t holds pointers to its own heap only, none
        // into itself: it may be moved.
        let compiled = unsafe { compiled.assume_init() };
        Ok(Self { compiled })
    }

    /// Whether it matches somewhere in the text. A text with a NUL byte matches nothing.
    pub fn matches(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else {
            return false;
        };
        // SAFETY: the pattern is compiled and stays so until drop; the string is NUL-terminated and outlives the
        // call; with REG_NOSUB and a count of 0 the null match array is never written.
        unsafe { libc::regexec(&self.compiled, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: compiled by regcomp, freed once, and not used after.
        unsafe { libc::regfree(&mut self.compiled) }
    }
}

fn describe(code: i32, compiled: *const libc::regex_t) -> String {
    let mut buffer = [0u8; 128];
    // SAFETY: regerror writes at most the given number of bytes, with a NUL, into a buffer of that size; the pattern
    // is only looked at to choose a locale's text and was zeroed before the failed regcomp.
    let used = unsafe { libc::regerror(code, compiled, buffer.as_mut_ptr().cast(), buffer.len()) };
    let end = used.saturating_sub(1).min(buffer.len() - 1);
    String::from_utf8_lossy(&buffer[..end]).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_and_explains() {
        let regex = Regex::extended("^a(b|c)+$").unwrap();
        assert!(regex.matches("abcb"));
        assert!(!regex.matches("xabcb") && !regex.matches("a") && !regex.matches("ab\0"));
        assert!(Regex::extended("b").unwrap().matches("abc"));
        assert!(Regex::extended("(").unwrap_err().contains("unmatched"));
        assert!(Regex::extended("a\0b").is_err());
    }
}
