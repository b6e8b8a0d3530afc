//! Names of the host's users. A static binary has no NSS, so only /etc/passwd is asked.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// No more of /etc/passwd is read.
const MAX_PASSWD: u64 = 1 << 20;

/// A user's name; `#` and the number for one without.
pub(crate) fn name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    File::open("/etc/passwd")
        .ok()
        .and_then(|file| name_in(BufReader::new(file.take(MAX_PASSWD)), uid))
        .unwrap_or_else(|| format!("#{uid}"))
}

fn name_in(passwd: impl BufRead, uid: u32) -> Option<String> {
    passwd.lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let passwd = "root:x:0:0::/:/bin/sh\nbroken\n:x:5:5\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(name_in(passwd.as_bytes(), 1000).as_deref(), Some("me"));
        assert_eq!(name_in(passwd.as_bytes(), 5), None);
        assert_eq!(name(4_294_967_000), "#4294967000");
    }
}
