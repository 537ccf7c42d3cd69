// SPDX-License-Identifier: GPL-2.0

//! The images that a power failure can leave: of each unflushed sector any version.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::op::Landed;
use sim::disk::{Moment, Random, Sector};

/// All versions of a sector that may have landed, the durable one first.
#[derive(Clone)]
pub struct Doubt {
    pub sector: u64,
    pub versions: Vec<Sector>,
}

/// A moment, divided into certain sectors and sectors in doubt.
///
/// Recovery reads and writes only metadata; the fence of the simulated disk enforces that. So the
/// map that recovery finds does not depend on which data sectors landed, and each version of a data
/// sector can be checked by itself. One recovery stands for all 2^n choices of n data sectors.
pub struct Scope {
    /// The durable metadata.
    pub certain: BTreeMap<u64, Sector>,
    /// Metadata sectors with more than one version.
    pub doubts: Vec<Doubt>,
    /// All versions of each data sector.
    pub data: BTreeMap<u64, Vec<Sector>>,
    digest: u64,
    version_digests: Vec<Vec<u64>>,
}

pub fn digest_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns a sector's share of its image's digest. The share of an unwritten sector is zero.
fn sector_digest(sector: u64, data: &Sector) -> u64 {
    if *data == [0; 512] {
        return 0;
    }
    digest_of(&(sector, &data[..]))
}

/// Returns a digest of an image's metadata that does not depend on the order of the writes.
pub fn image_digest(image: &BTreeMap<u64, Sector>) -> u64 {
    image
        .iter()
        .fold(0, |d, (s, data)| d ^ sector_digest(*s, data))
}

fn versions_of(moment: &Moment, sector: u64) -> Vec<Sector> {
    let mut versions = vec![moment.durable.get(&sector).copied().unwrap_or([0; 512])];
    for (s, data) in &moment.cache {
        if *s == sector && !versions.contains(data) {
            versions.push(*data);
        }
    }
    versions
}

impl Scope {
    /// Makes the scope of a moment; `data_start` is the first sector that is not metadata.
    pub fn new(moment: &Moment, data_start: u64) -> Scope {
        let certain = moment.durable.range(..data_start);
        let certain: BTreeMap<_, _> = certain.map(|(s, d)| (*s, *d)).collect();
        let durable = moment.durable.range(data_start..);
        let mut data: BTreeMap<_, _> = durable.map(|(s, d)| (*s, vec![*d])).collect();
        let mut unflushed: Vec<u64> = moment.cache.iter().map(|(s, _)| *s).collect();
        unflushed.sort_unstable();
        unflushed.dedup();
        let mut doubts = Vec::new();
        for sector in unflushed {
            let versions = versions_of(moment, sector);
            if sector >= data_start {
                data.insert(sector, versions);
            } else if versions.len() > 1 {
                doubts.push(Doubt { sector, versions });
            }
        }
        let digests = |d: &Doubt| -> Vec<u64> {
            let of = |v| sector_digest(d.sector, v);
            d.versions.iter().map(of).collect()
        };
        Scope {
            digest: image_digest(&certain),
            version_digests: doubts.iter().map(digests).collect(),
            certain,
            doubts,
            data,
        }
    }

    /// Returns in how many ways the sectors in doubt can have landed.
    pub fn ways(&self) -> u64 {
        let of = self.doubts.iter().map(|d| d.versions.len() as u64);
        of.fold(1, u64::saturating_mul)
    }

    /// Returns way number `n`, as a digit for each sector in doubt.
    fn way(&self, mut n: u64) -> Vec<u8> {
        let digit = |d: &Doubt| {
            let base = d.versions.len() as u64;
            let digit = (n % base) as u8;
            n /= base;
            digit
        };
        self.doubts.iter().map(digit).collect()
    }

    fn random_way(&self, random: &mut Random) -> Vec<u8> {
        let mut digit = |d: &Doubt| random.below(d.versions.len() as u64) as u8;
        self.doubts.iter().map(&mut digit).collect()
    }

    /// Returns all ways if there are at most `all`. Otherwise returns nothing, everything, each
    /// sector alone, all sectors but one, and a sample.
    pub fn choices(&self, all: u64, sample: usize, random: &mut Random) -> Vec<Vec<u8>> {
        if self.ways() <= all {
            return (0..self.ways()).map(|n| self.way(n)).collect();
        }
        let newest: Vec<u8> = self
            .doubts
            .iter()
            .map(|d| d.versions.len() as u8 - 1)
            .collect();
        let mut choices = vec![vec![0; newest.len()], newest.clone()];
        for (n, last) in newest.iter().enumerate() {
            let mut alone = vec![0; newest.len()];
            alone[n] = *last;
            let mut without = newest.clone();
            without[n] = 0;
            choices.extend([alone, without]);
        }
        choices.extend((0..sample).map(|_| self.random_way(random)));
        choices
    }

    /// Returns the digest of the image that a choice leaves.
    pub fn digest(&self, choice: &[u8]) -> u64 {
        let sectors = self.version_digests.iter().zip(choice);
        sectors.fold(self.digest, |d, (versions, &n)| {
            d ^ versions[0] ^ versions[usize::from(n)]
        })
    }

    /// Returns the metadata that a choice leaves.
    pub fn image(&self, choice: &[u8]) -> BTreeMap<u64, Sector> {
        let mut image = self.certain.clone();
        for (doubt, &n) in self.doubts.iter().zip(choice) {
            image.insert(doubt.sector, doubt.versions[usize::from(n)]);
        }
        image
    }

    /// Returns the digits of a replay line that fit. A shrunk workload has fewer sectors in doubt.
    pub fn fit(&self, landed: &Landed) -> Vec<u8> {
        match landed {
            Landed::Seed(seed) => self.random_way(&mut Random(*seed)),
            Landed::Digits(digits) => {
                let given = digits.iter().copied().chain(std::iter::repeat(0));
                let fit = |(d, n): (&Doubt, u8)| n.min(d.versions.len() as u8 - 1);
                self.doubts.iter().zip(given).map(fit).collect()
            }
        }
    }

    /// Returns the data that a seed leaves: one version of each sector.
    pub fn some_data(&self, seed: u64) -> BTreeMap<u64, Sector> {
        let mut random = Random(!seed);
        let mut pick = |v: &Vec<Sector>| v[random.below(v.len() as u64) as usize];
        self.data.iter().map(|(s, v)| (*s, pick(v))).collect()
    }
}
