// SPDX-License-Identifier: GPL-2.0

//! From a request to lower I/O: the runs that a range of the union consists of.
//!
//! A run ends only where the source changes or the next sector is elsewhere on that device. It does
//! not end at the end of a slab, of the leaf or of the stack, if what follows lies next to it.

use super::error::Broken;
use super::map::{Base, Map, Memory};
use super::num::saturating_u32;
use super::stack::source::{LayerSector, NoLayers, StackLookup, StackSource};

/// Where a run of sectors comes from, or goes to: its first sector on that device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The root, at this sector.
    Root(u64),
    /// A layer, at this sector of its data.
    Layer(LayerSector),
    /// The leaf, at this sector of the device.
    Leaf(u64),
    /// Nowhere: it reads as zeroes.
    Zero,
    /// Unknown, because the metadata that names it is damaged. It must neither be read nor be
    /// written.
    Lost,
    /// Unknown, because an invariant of the map is broken ([`Error::Internal`]). It must neither be
    /// read nor be written.
    ///
    /// [`Error::Internal`]: super::error::Error::Internal
    Broken,
}

impl Source {
    /// Returns whether `next`, which starts `sectors` after this source did, continues where it
    /// ends.
    fn continues(self, next: Source, sectors: u32) -> bool {
        let on = |a: u64, b: u64| a.wrapping_add(u64::from(sectors)) == b;
        match (self, next) {
            (Source::Root(a), Source::Root(b)) | (Source::Leaf(a), Source::Leaf(b)) => on(a, b),
            (Source::Layer(a), Source::Layer(b)) => a.skip(sectors) == b,
            (Source::Zero, Source::Zero)
            | (Source::Lost, Source::Lost)
            | (Source::Broken, Source::Broken) => true,
            _ => false,
        }
    }
}

/// A range of the union with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it is.
    pub source: Source,
    /// Its length, at least 1.
    pub sectors: u32,
}

/// What the runs are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Read,
    Write,
}

/// Returns the runs of a read of `sectors` from `sector`, within the union. Any context, no lock.
pub fn read<M: Memory, B: StackLookup>(
    map: &Map<M>,
    below: B,
    sector: u64,
    sectors: u32,
) -> Runs<'_, M, B> {
    Runs {
        map,
        below,
        at: sector,
        left: sectors,
        purpose: Purpose::Read,
        held: None,
    }
}

/// Returns the source of a whole read, if one look-up finds it: the read lies in one slab, its bits
/// lie in one word, and what lies below is one range of the root or of a layer. If it returns
/// `None`, as for zeroes, the caller uses [`read`]. Any context, no lock.
#[inline(always)]
pub fn read_at_once<M: Memory, B: StackLookup>(
    map: &Map<M>,
    below: B,
    sector: u64,
    sectors: u32,
) -> Option<Source> {
    let g = map.geometry();
    let offset = g.offset_in_slab(sector);
    if sectors == 0 || sectors > g.slab_sectors().wrapping_sub(offset) {
        return None;
    }
    let entry = map.entry(g.slab_of(sector));
    if let Some(leaf_slab) = entry.leaf_slab {
        let at = g.data_sector(leaf_slab, offset);
        if map.are_all_mapped(at, sectors)? {
            return Some(Source::Leaf(g.data_start().wrapping_add(at)));
        }
    }
    if entry.base != Base::Below || entry.lost {
        return None;
    }
    let found = below.look_up(sector, sectors).ok()?;
    let end = sector.wrapping_add(u64::from(sectors));
    match found.source {
        _ if found.sectors < sectors => None,
        StackSource::Bottom => (end <= g.root_sectors()).then_some(Source::Root(sector)),
        StackSource::Layer(layer, at) => Some(Source::Layer(LayerSector::new(layer, at))),
        StackSource::Zero => None,
    }
}

/// Returns where a write goes as a whole, if the write lies in one slab, which has a leaf slab. If
/// it returns `None`, the caller uses [`write`]. Any context, no lock.
#[inline]
pub fn write_at_once<M: Memory>(map: &Map<M>, sector: u64, sectors: u32) -> Option<Source> {
    let g = map.geometry();
    let offset = g.offset_in_slab(sector);
    if sectors == 0 || sectors > g.slab_sectors().wrapping_sub(offset) {
        return None;
    }
    let leaf_slab = map.entry(g.slab_of(sector)).leaf_slab?;
    Some(Source::Leaf(
        g.leaf_slab_start(leaf_slab).wrapping_add(u64::from(offset)),
    ))
}

/// Returns the runs of a write: on the leaf, or nowhere ([`Source::Zero`]) in a slab without a leaf
/// slab. If the leaf is full, the bios of the slab fail. Otherwise a concurrent discard has emptied
/// the slab since [`unallocated`] was called, and counts as made after the write.
pub fn write<M: Memory>(map: &Map<M>, sector: u64, sectors: u32) -> Runs<'_, M, NoLayers> {
    Runs {
        map,
        below: NoLayers,
        at: sector,
        left: sectors,
        purpose: Purpose::Write,
        held: None,
    }
}

/// Returns the root slabs of a range that have no leaf slab yet.
pub fn unallocated<M: Memory>(
    map: &Map<M>,
    sector: u64,
    sectors: u32,
) -> impl Iterator<Item = u32> + '_ {
    let g = map.geometry();
    // An empty range has no last sector. The filter below then passes no slab.
    let last = sector.wrapping_add(u64::from(sectors.saturating_sub(1)));
    (g.slab_of(sector)..=g.slab_of(last))
        .filter(move |&s| sectors > 0 && map.entry(s).leaf_slab.is_none())
}

/// Iterator of [`read`] and [`write`].
pub struct Runs<'a, M, B> {
    map: &'a Map<M>,
    below: B,
    at: u64,
    left: u32,
    purpose: Purpose,
    held: Option<Run>,
}

impl<M: Memory, B: StackLookup> Runs<'_, M, B> {
    /// Returns the next range within one slab.
    fn next_in_slab(&mut self) -> Option<Run> {
        let g = self.map.geometry();
        let offset = g.offset_in_slab(self.at);
        let limit = self.left.min(g.slab_sectors().wrapping_sub(offset));
        if limit == 0 {
            return None;
        }
        let slab = g.slab_of(self.at);
        let entry = self.map.entry(slab);
        let found = entry
            .leaf_slab
            .map(|l| (l, g.leaf_slab_start(l).wrapping_add(u64::from(offset))));
        let run = match (self.purpose, found) {
            (_, None) if entry.lost => Run {
                source: Source::Lost,
                sectors: limit,
            },
            // Past the union's end there is no entry. The block layer sends no such request.
            (_, None) if slab >= g.root_slabs() => Run {
                source: Source::Broken,
                sectors: limit,
            },
            (Purpose::Write, found) => Run {
                source: found.map_or(Source::Zero, |f| Source::Leaf(f.1)),
                sectors: limit,
            },
            (Purpose::Read, Some((leaf_slab, start))) => {
                match self.map.mapped_run(leaf_slab, offset, limit) {
                    Ok(run) if run.mapped => Run {
                        source: Source::Leaf(start),
                        sectors: run.sectors,
                    },
                    Ok(run) => self.below(entry.base, run.sectors),
                    // The root may be older than what the leaf slab holds.
                    Err(Broken) => Run {
                        source: Source::Broken,
                        sectors: limit,
                    },
                }
            }
            (Purpose::Read, None) => self.below(entry.base, limit),
        };
        self.at = self.at.wrapping_add(u64::from(run.sectors));
        self.left = self.left.wrapping_sub(run.sectors);
        Some(run)
    }

    /// Returns what lies below unmapped sectors: zeroes, or what the stack has.
    fn below(&self, base: Base, sectors: u32) -> Run {
        let source = Source::Zero;
        if base == Base::Zero {
            return Run { source, sectors };
        }
        let Ok(found) = self.below.look_up(self.at, sectors) else {
            // The bottom may be older than what a layer holds.
            let source = Source::Broken;
            return Run { source, sectors };
        };
        let sectors = found.sectors;
        let source = match found.source {
            StackSource::Bottom => return self.bottom(sectors),
            StackSource::Layer(layer, at) => Source::Layer(LayerSector::new(layer, at)),
            StackSource::Zero => source,
        };
        Run { source, sectors }
    }

    /// Returns what the bottom has. A union can be larger than its root.
    fn bottom(&self, sectors: u32) -> Run {
        // Past the root's end 0 sectors of it are left.
        let rest = self.map.geometry().root_sectors().saturating_sub(self.at);
        if rest == 0 {
            return Run {
                source: Source::Zero,
                sectors,
            };
        }
        let within = saturating_u32(rest);
        Run {
            source: Source::Root(self.at),
            sectors: sectors.min(within),
        }
    }
}

impl<M: Memory, B: StackLookup> Iterator for Runs<'_, M, B> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let mut run = match self.held.take() {
            Some(run) => run,
            None => self.next_in_slab()?,
        };
        while let Some(next) = self.next_in_slab() {
            if !run.source.continues(next.source, run.sectors) {
                self.held = Some(next);
                break;
            }
            run.sectors = run.sectors.wrapping_add(next.sectors);
        }
        Some(run)
    }
}
