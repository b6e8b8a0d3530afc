//! Capability sets: names to bits, and putting them in force.

use std::str::FromStr;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::config::Capabilities;
use crate::error::{Doing, Result};

/// The five sets, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// Limit on what any exec may gain.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Kept over exec of a file with inheritable bits.
    pub inheritable: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over exec of an ordinary file.
    pub ambient: u64,
}

impl Sets {
    /// Reads the names. Unknown ones are returned, for a warning: a newer engine may know more than we do.
    pub fn parse(names: Option<&Capabilities>) -> (Self, Vec<String>) {
        let mut unknown = Vec::new();
        let Some(names) = names else {
            return (Self::default(), unknown);
        };
        let mut bits = |list: &[String]| {
            list.iter().fold(0u64, |bits, name| {
                match caps::Capability::from_str(&name.to_uppercase()) {
                    Ok(cap) => bits | 1 << cap.index(),
                    Err(_) => {
                        if !unknown.contains(name) {
                            unknown.push(name.clone());
                        }
                        bits
                    }
                }
            })
        };
        let sets = Self {
            bounding: bits(&names.bounding),
            effective: bits(&names.effective),
            inheritable: bits(&names.inheritable),
            permitted: bits(&names.permitted),
            ambient: bits(&names.ambient),
        };
        (sets, unknown)
    }

    /// The sets without what the caller does not hold, and what follows from that: an ambient capability must be
    /// permitted and inheritable, an effective one permitted (capabilities(7)).
    #[must_use]
    pub fn within(self, held: u64) -> Self {
        let permitted = self.permitted & held;
        let inheritable = self.inheritable & held;
        Self {
            bounding: self.bounding,
            effective: self.effective & permitted,
            inheritable,
            permitted,
            ambient: self.ambient & permitted & inheritable,
        }
    }

    /// The names of ambient capabilities that [`Sets::within`] leaves out for want of the same one in the permitted
    /// or inheritable set.
    pub fn unraisable(self) -> Vec<String> {
        names(self.ambient & !(self.permitted & self.inheritable))
    }

    /// The names of inheritable capabilities outside of the bounding set, which the kernel refuses (EPERM, capset(2)).
    pub fn unbounded(self) -> Vec<String> {
        names(self.inheritable & !self.bounding)
    }

    /// All bits that any set names.
    pub fn any(self) -> u64 {
        self.bounding | self.effective | self.inheritable | self.permitted | self.ambient
    }
}

fn names(bits: u64) -> Vec<String> {
    (0..64u8)
        .filter(|index| bits & (1 << index) != 0)
        .map(
            |index| match caps::all().into_iter().find(|cap| cap.index() == index) {
                Some(cap) => cap.to_string(),
                None => index.to_string(),
            },
        )
        .collect()
}

/// What this process may use now.
///
/// # Errors
/// The errno of capget.
pub fn held() -> Result<u64> {
    Ok(capabilities(None).doing(|| "read capabilities")?.permitted.bits())
}

/// Narrows the bounding set. Needs `CAP_SETPCAP`, so it comes before the ids change.
///
/// # Errors
/// The errno of prctl.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for index in 0..64 {
        let bit = CapabilitySet::from_bits_retain(1 << index);
        if keep & (1 << index) != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(bit) {
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            // Without CAP_SETPCAP none can be dropped; that matters only for one that is there.
            Err(rustix::io::Errno::PERM) if capability_is_in_bounding_set(bit) == Ok(false) => {}
            other => other.doing(|| format!("process.capabilities.bounding: drop capability {index}"))?,
        }
    }
    Ok(())
}

/// Puts the other four sets in force, after the ids changed.
///
/// # Errors
/// The errno of capset or prctl.
pub fn apply(sets: Sets) -> Result<()> {
    let now = capabilities(None).doing(|| "read capabilities")?;
    let sets = sets.within(now.permitted.bits());
    let bits = CapabilitySet::from_bits_retain;
    let new = CapabilitySets {
        effective: bits(sets.effective),
        permitted: bits(sets.permitted),
        inheritable: bits(sets.inheritable),
    };
    set_capabilities(None, new).doing(|| "process.capabilities: set")?;
    clear_ambient_capability_set().doing(|| "process.capabilities.ambient: clear")?;
    for index in (0..64).filter(|i| sets.ambient & (1 << i) != 0) {
        configure_capability_in_ambient_set(bits(1 << index), true)
            .doing(|| format!("process.capabilities.ambient: raise capability {index}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn unknown_names_are_reported_once() {
        let c = Capabilities {
            bounding: list(&["CAP_CHOWN", "CAP_FROM_2040"]),
            permitted: list(&["cap_chown", "CAP_FROM_2040"]),
            ..Capabilities::default()
        };
        let (sets, unknown) = Sets::parse(Some(&c));
        assert_eq!((sets.bounding, sets.permitted), (1, 1));
        assert_eq!(unknown, ["CAP_FROM_2040"]);
    }

    #[test]
    fn an_inheritable_capability_must_be_in_the_bounding_set() {
        let sets = Sets {
            bounding: 0b001,
            inheritable: 0b011,
            permitted: 0b011,
            ambient: 0b011,
            ..Sets::default()
        };
        assert_eq!(sets.unbounded(), ["CAP_DAC_OVERRIDE"]);
    }

    #[test]
    fn an_ambient_capability_must_be_permitted_and_inheritable() {
        let sets = Sets {
            permitted: 0b1011,
            inheritable: 0b0011,
            ambient: 0b1101,
            ..Sets::default()
        };
        assert_eq!(sets.unraisable().len(), 2);
        assert!(sets.unraisable().contains(&"CAP_FOWNER".to_owned()));
        assert!(sets.unraisable().contains(&"CAP_DAC_READ_SEARCH".to_owned()));
    }

    #[test]
    fn what_is_not_held_is_left_out() {
        let all = Sets {
            bounding: 7,
            effective: 7,
            inheritable: 3,
            permitted: 7,
            ambient: 7,
        };
        let sets = all.within(0b101);
        assert_eq!(
            sets,
            Sets {
                bounding: 7,
                effective: 5,
                inheritable: 1,
                permitted: 5,
                ambient: 1
            }
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_left_is_what_the_kernel_takes(all in proptest::array::uniform5(0u64..1 << 41), held in 0u64..1 << 41) {
            let [bounding, effective, inheritable, permitted, ambient] = all;
            let wanted = Sets { bounding, effective, inheritable, permitted, ambient };
            let sets = wanted.within(held);
            // capabilities(7): no set outgrows what was asked for or is held, and the kernel's own rules hold.
            proptest::prop_assert_eq!(sets.permitted, permitted & held);
            proptest::prop_assert_eq!(sets.effective & !(effective & sets.permitted), 0);
            proptest::prop_assert_eq!(sets.ambient & !(ambient & sets.permitted & sets.inheritable), 0);
            proptest::prop_assert_eq!(sets.inheritable & !(inheritable & held), 0);
            proptest::prop_assert_eq!(sets.bounding, bounding);
            proptest::prop_assert_eq!(sets.within(held), sets, "a second time changes nothing");
            proptest::prop_assert_eq!(wanted.within(u64::MAX).effective, effective & permitted);
        }

        #[test]
        fn names_and_bits_are_the_same(bits in 0u64..1 << 41) {
            let list = super::names(bits);
            let c = Capabilities { bounding: list, ..Capabilities::default() };
            let (sets, unknown) = Sets::parse(Some(&c));
            proptest::prop_assert_eq!((sets.bounding, unknown.len()), (bits, 0));
        }
    }
}
