//! The addresses of one subnet, as a bitmap in memory. The containers' records are what is kept: the map is rebuilt
//! from them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

const WORD: usize = u64::BITS as usize;

/// Why an address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every address is taken.
    Full,
    /// Somebody has it.
    Taken,
    /// Not an address a container of this subnet can have.
    Outside,
}

/// Which addresses of a subnet are taken.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    subnet: Ipv4Net,
    taken: Vec<u64>,
    /// No word before this one has a free bit, so that taking the lowest free address does not scan a full pool.
    first: usize,
    /// First and last offset that is given to who wishes for none.
    range: (usize, usize),
}

impl Pool {
    /// A pool of `address`'s subnet; the network, the broadcast and `address` itself (the gateway) are taken.
    pub(crate) fn new(address: Ipv4Net) -> Self {
        let subnet = address.trunc();
        let size = 1usize << (32 - u32::from(subnet.prefix_len()));
        let mut pool = Self {
            subnet,
            taken: vec![0; size.div_ceil(WORD)],
            first: 0,
            range: (0, size - 1),
        };
        // Bits beyond a subnet smaller than a word do not stand for addresses.
        for beyond in size..pool.taken.len() * WORD {
            pool.set(beyond);
        }
        pool.set(0);
        pool.set(size - 1);
        if let Some(gateway) = pool.offset(address.addr()) {
            pool.set(gateway);
        }
        pool
    }

    /// Addresses nobody wished for come from `range` only; those of `reserved` are taken.
    pub(crate) fn limited(mut self, range: Option<Ipv4Net>, reserved: &[Ipv4Addr]) -> Self {
        for ip in reserved {
            if let Some(offset) = self.offset(*ip) {
                self.set(offset);
            }
        }
        if let Some(range) = range
            && let (Some(first), Some(last)) = (self.offset(range.network()), self.offset(range.broadcast()))
        {
            self.range = (first, last);
        }
        self
    }

    /// Takes the wanted address, or the lowest free one.
    pub(crate) fn take(&mut self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Refused> {
        let offset = match wanted {
            Some(ip) => {
                let offset = self.offset(ip).ok_or(Refused::Outside)?;
                if offset == 0 || ip == self.subnet.broadcast() {
                    return Err(Refused::Outside);
                }
                if self.is_set(offset) {
                    return Err(Refused::Taken);
                }
                offset
            }
            None => self.lowest_free().ok_or(Refused::Full)?,
        };
        self.set(offset);
        Ok(self.address(offset))
    }

    /// Gives an address back. One that is not of this pool is ignored.
    pub(crate) fn release(&mut self, ip: Ipv4Addr) {
        let Some(offset) = self.offset(ip) else { return };
        if let Some(word) = self.taken.get_mut(offset / WORD) {
            *word &= !(1 << (offset % WORD));
            self.first = self.first.min(offset / WORD);
        }
    }

    fn lowest_free(&mut self) -> Option<usize> {
        let (start, end) = self.range;
        if start > 0 {
            return (start..=end).find(|offset| !self.is_set(*offset));
        }
        let skipped = self
            .taken
            .get(self.first..)?
            .iter()
            .position(|w| *w != u64::MAX)?;
        self.first += skipped;
        let bit = self.taken.get(self.first)?.trailing_ones() as usize;
        Some(self.first * WORD + bit).filter(|offset| *offset <= end)
    }

    fn offset(&self, ip: Ipv4Addr) -> Option<usize> {
        self.subnet
            .contains(&ip)
            .then(|| (ip.to_bits() - self.subnet.network().to_bits()) as usize)
    }

    fn address(&self, offset: usize) -> Ipv4Addr {
        // A subnet has at most 2^20 addresses (plan::choose_subnet).
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + u32::try_from(offset).unwrap_or(0))
    }

    fn is_set(&self, offset: usize) -> bool {
        self.taken
            .get(offset / WORD)
            .is_none_or(|word| word & (1 << (offset % WORD)) != 0)
    }

    fn set(&mut self, offset: usize) {
        if let Some(word) = self.taken.get_mut(offset / WORD) {
            *word |= 1 << (offset % WORD);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().unwrap())
    }

    #[test]
    fn a_range_limits_and_reserved_addresses_stay() {
        let range = Some("10.0.0.8/30".parse().unwrap());
        let reserved = ["10.0.0.9".parse().unwrap(), "10.0.1.1".parse().unwrap()];
        let mut pool = pool("10.0.0.1/24").limited(range, &reserved);
        let taken: Vec<String> = (0..3).map(|_| pool.take(None).unwrap().to_string()).collect();
        assert_eq!(taken, ["10.0.0.8", "10.0.0.10", "10.0.0.11"]);
        assert_eq!(pool.take(None), Err(Refused::Full));
        assert_eq!(pool.take(Some(reserved[0])), Err(Refused::Taken));
        assert!(pool.take(Some("10.0.0.200".parse().unwrap())).is_ok());
        let mut low =
            Pool::new("10.0.0.1/24".parse().unwrap()).limited(Some("10.0.0.0/30".parse().unwrap()), &[]);
        assert_eq!(low.take(None).unwrap().to_string(), "10.0.0.2");
        assert_eq!(low.take(None).unwrap().to_string(), "10.0.0.3");
        assert_eq!(low.take(None), Err(Refused::Full));
    }

    #[test]
    fn counts_from_after_the_gateway_and_fills_holes() {
        let mut pool = pool("172.30.0.1/16");
        let ip = |d| Ipv4Addr::new(172, 30, 0, d);
        assert_eq!(pool.take(None), Ok(ip(2)));
        assert_eq!(pool.take(None), Ok(ip(3)));
        pool.release(ip(2));
        assert_eq!(pool.take(None), Ok(ip(2)));
        assert_eq!(pool.take(Some(ip(3))), Err(Refused::Taken));
        assert_eq!(pool.take(Some(ip(1))), Err(Refused::Taken));
        assert_eq!(
            pool.take(Some(Ipv4Addr::new(172, 31, 0, 9))),
            Err(Refused::Outside)
        );
        assert_eq!(
            pool.take(Some(Ipv4Addr::new(172, 30, 255, 255))),
            Err(Refused::Outside)
        );
    }

    #[test]
    fn a_small_subnet_fills_up() {
        let mut pool = pool("10.0.0.1/30");
        assert_eq!(pool.take(None), Ok(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(pool.take(None), Err(Refused::Full));
        pool.release(Ipv4Addr::new(10, 0, 0, 2));
        assert!(pool.take(None).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(Option<u8>),
        Release(u8),
    }

    proptest! {
        /// Against a plain set: an address is never given twice, never the gateway's, always the lowest free.
        #[test]
        fn behaves_as_a_set(gateway in 1u8..127, steps in prop::collection::vec(prop_oneof![
            prop::option::of(0u8..=127).prop_map(Step::Take),
            Just(Step::Take(None)),
            (0u8..=127).prop_map(Step::Release),
        ], 0..300)) {
            let ip = |d: u8| Ipv4Addr::new(10, 0, 0, d);
            let mut pool = Pool::new(Ipv4Net::new_assert(ip(gateway), 25));
            let mut model: BTreeSet<u8> = [0, 127, gateway].into();
            for step in steps {
                match step {
                    Step::Take(wanted) => {
                        let expected = match wanted {
                            Some(0 | 127) => Err(Refused::Outside),
                            Some(d) if model.contains(&d) => Err(Refused::Taken),
                            Some(d) => Ok(d),
                            None => (0..=127).find(|d| !model.contains(d)).ok_or(Refused::Full),
                        };
                        prop_assert_eq!(pool.take(wanted.map(ip)), expected.map(ip));
                        model.extend(expected);
                    }
                    // The callers release only what they took; see `Pool::release`.
                    Step::Release(d) if ![0, 127, gateway].contains(&d) => {
                        pool.release(ip(d));
                        model.remove(&d);
                    }
                    Step::Release(_) => {}
                }
            }
        }
    }
}
