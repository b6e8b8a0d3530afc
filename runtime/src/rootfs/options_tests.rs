//! Options by table: what each does to a new mount, to a bind mount and to a bind mount of locked attributes.

use super::*;
use nix::libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

fn of(list: &str) -> Options {
    parse(&list.split(',').collect::<Vec<_>>())
}

const ALL: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;

#[test]
fn on_a_new_mount() {
    let cases = [
        ("rw", 0, ""),
        ("ro", attr::RDONLY, ""),
        ("ro,rw", 0, ""),
        ("rw,ro", attr::RDONLY, ""),
        (
            "nosuid,nodev,noexec",
            attr::NOSUID | attr::NODEV | attr::NOEXEC,
            "",
        ),
        ("nosuid,suid,nodev,dev,noexec,exec", 0, ""),
        ("noatime", attr::NOATIME, ""),
        ("noatime,atime", 0, ""),
        ("noatime,relatime", attr::NOATIME, ""),
        ("relatime,norelatime", 0, ""),
        ("strictatime", attr::STRICTATIME, ""),
        ("strictatime,noatime", attr::STRICTATIME, ""),
        ("strictatime,nostrictatime", 0, ""),
        ("nodiratime", attr::NODIRATIME, ""),
        ("nodiratime,diratime", 0, ""),
        ("nosymfollow", attr::NOSYMFOLLOW, ""),
        ("nosymfollow,symfollow", 0, ""),
        ("sync,dirsync,mand,lazytime", 0, "sync dirsync mand lazytime"),
        ("rsync,rdirsync,rmand", 0, "sync dirsync mand"),
        ("sync,async,lazytime,nolazytime,mand,nomand", 0, ""),
        ("sync,rasync,mand,rnomand", 0, ""),
        ("defaults,,loud,noiversion", 0, ""),
    ];
    for (list, attributes, superblock) in cases {
        let o = of(list);
        let names: Vec<_> = o.superblock().collect();
        assert_eq!(
            (o.attributes(), names.join(" ").as_str()),
            (attributes, superblock),
            "{list}"
        );
        assert!(
            o.data.is_empty() && !o.needs_mount2() && o.recursive.is_empty(),
            "{list}"
        );
    }
    for list in ["silent", "iversion", "noiversion,iversion"] {
        assert!(of(list).needs_mount2() && of(list).data.is_empty(), "{list}");
    }
    assert!(!of("silent,loud,iversion,noiversion").needs_mount2());
}

#[test]
fn on_a_bind_mount() {
    let atime = attr::ATIME_MASK | attr::NODIRATIME;
    let change = |set, clear| Some(Attributes { set, clear });
    let cases = [
        ("bind", None),
        ("rbind,rprivate,rro,remount", None),
        ("bind,ro", change(attr::RDONLY, ALL & !attr::RDONLY)),
        ("bind,dev", change(0, ALL)),
        ("bind,rw,nosuid", change(attr::NOSUID, ALL & !attr::NOSUID)),
        (
            "bind,nosymfollow",
            change(attr::NOSYMFOLLOW, ALL & !attr::NOSYMFOLLOW),
        ),
        ("bind,sync", change(0, ALL)),
        ("bind,loud", change(0, ALL)),
        ("bind,atime", change(0, ALL)),
        ("bind,norelatime", change(0, ALL)),
        ("bind,relatime", change(0, ALL | atime)),
        ("bind,noatime", change(attr::NOATIME, ALL | atime)),
        ("bind,strictatime", change(attr::STRICTATIME, ALL | atime)),
        (
            "bind,nodiratime",
            change(attr::NODIRATIME, ALL | attr::ATIME_MASK),
        ),
        (
            "bind,nodiratime,norelatime",
            change(attr::NODIRATIME, ALL | attr::ATIME_MASK),
        ),
    ];
    for (list, expected) in cases {
        assert_eq!(of(list).bind_change(), expected, "{list}");
    }
}

#[test]
fn on_a_bind_mount_of_locked_attributes() {
    let change = |set, clear| Ok(Attributes { set, clear });
    let unlocked = attr::NOSYMFOLLOW;
    let cases = [
        (
            "bind,ro",
            attr::NOSUID | attr::NODEV,
            change(attr::RDONLY, unlocked),
        ),
        ("bind,dev", attr::RDONLY | attr::NOEXEC, change(0, unlocked)),
        ("bind,rw", attr::RDONLY, Err("rw")),
        ("bind,rw", attr::NODEV, change(0, unlocked)),
        ("bind,suid", attr::NOSUID, Err("suid")),
        ("bind,exec", attr::NOEXEC, Err("exec")),
        ("bind,atime", attr::NOATIME, Err("atime")),
        (
            "bind,symfollow,ro",
            attr::NOSYMFOLLOW,
            change(attr::RDONLY, unlocked),
        ),
        ("bind,noatime", attr::NOATIME, change(0, unlocked)),
        ("bind,noatime", 0, Err("an access time option")),
        ("bind,strictatime", attr::NODIRATIME, Err("an access time option")),
        ("bind,nodiratime", 0, Err("an access time option")),
        (
            "bind,norelatime",
            attr::NOATIME | attr::NODIRATIME,
            change(0, unlocked),
        ),
    ];
    for (list, existing, expected) in cases {
        assert_eq!(
            of(list).locked_change(existing),
            expected,
            "{list} on {existing:#x}"
        );
    }
}

#[test]
fn on_the_whole_tree() {
    let mask = attr::ATIME_MASK;
    let cases = [
        ("rro", attr::RDONLY, 0),
        ("rro,rrw", 0, attr::RDONLY),
        ("rrw,rro", attr::RDONLY, 0),
        (
            "rnosuid,rnodev,rnoexec",
            attr::NOSUID | attr::NODEV | attr::NOEXEC,
            0,
        ),
        ("rsuid,rdev,rexec", 0, attr::NOSUID | attr::NODEV | attr::NOEXEC),
        ("rnoatime", attr::NOATIME, mask),
        ("rstrictatime", attr::STRICTATIME, mask),
        ("rnoatime,rstrictatime", attr::STRICTATIME, mask),
        ("rnoatime,ratime", 0, mask),
        ("rrelatime", 0, mask),
        ("rnorelatime", 0, mask),
        ("rnostrictatime", 0, mask),
        ("rnodiratime", attr::NODIRATIME, 0),
        ("rdiratime", 0, attr::NODIRATIME),
        ("rnosymfollow", attr::NOSYMFOLLOW, 0),
        ("rsymfollow", 0, attr::NOSYMFOLLOW),
    ];
    for (list, set, clear) in cases {
        let o = of(list);
        assert_eq!(o.recursive, Attributes { set, clear }, "{list}");
        assert_eq!(
            (o.flags, o.cleared),
            (0, 0),
            "{list}: the mount itself is another matter"
        );
    }
}

#[test]
fn propagations_are_kept_in_order() {
    let pairs = [
        ("shared", MS_SHARED),
        ("slave", MS_SLAVE),
        ("private", MS_PRIVATE),
        ("unbindable", MS_UNBINDABLE),
    ];
    for (name, flag) in pairs {
        assert_eq!(
            propagation(name),
            Some(Propagation {
                flag,
                recursive: false
            })
        );
        assert_eq!(
            propagation(&format!("r{name}")),
            Some(Propagation {
                flag,
                recursive: true
            })
        );
    }
    let order: Vec<_> = of("slave,rshared")
        .propagation
        .iter()
        .map(|p| (p.flag, p.recursive))
        .collect();
    assert_eq!(order, [(MS_SLAVE, false), (MS_SHARED, true)]);
    assert_eq!(propagation("ro"), None);
}

#[test]
fn the_rest_is_the_filesystems_own() {
    let o = of("mode=755,size=64k,newinstance,lazytime,acl,idmapped=x");
    assert_eq!(
        o.data,
        ["mode=755", "size=64k", "newinstance", "acl", "idmapped=x"]
    );
    let long = format!("lowerdir={}", "x".repeat(300));
    assert!(parse(&[long]).needs_mount2());
}

#[test]
fn what_is_done_by_the_runtime_alone() {
    let o = of("bind,idmap,copy-symlink");
    assert_eq!(
        (o.idmap, o.copy_symlink),
        (Some(Idmap { recursive: false }), true)
    );
    let o = of("rbind,ridmap,src-nofollow,dest-nofollow");
    assert_eq!(o.idmap, Some(Idmap { recursive: true }));
    assert!(o.source_nofollow && o.target_nofollow && o.recursive_bind() && o.data.is_empty());
    let o = of("bind,idmap=uids=0-1-10;gids=0-1-10");
    assert_eq!(o.idmap_text.as_deref(), Some("uids=0-1-10;gids=0-1-10"));
    assert!(of("tmpcopyup").copy_up && of("remount").remount() && of("bind").bind());
}

proptest::proptest! {
    #[test]
    fn no_input_panics(bytes: Vec<u8>) { fuzz(&bytes); }

    #[test]
    fn no_options_panic(text in "((r|no|rno)?(idmap=|atime|bind|sync|shared|ro|rw|suid|symfollow|[a-z=;#@0-9-]{0,8})\\n){0,12}") { fuzz(text.as_bytes()); }

    #[test]
    fn set_and_clear_never_contradict(list in proptest::collection::vec("r?(ro|rw|noatime|relatime|strictatime|nosuid|suid|bind)", 0..9)) {
        let o = parse(&list);
        let bind = o.bind_change().unwrap_or_default();
        for a in [bind, o.recursive] {
            proptest::prop_assert_eq!(a.set & a.clear & !attr::ATIME_MASK, 0);
            // The kernel refuses an access time that is set without the field being cleared.
            proptest::prop_assert!(a.set & attr::ATIME_MASK == 0 || a.clear & attr::ATIME_MASK == attr::ATIME_MASK);
        }
        proptest::prop_assert_eq!(o.flags & o.cleared, 0);
    }
}
