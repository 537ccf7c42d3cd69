// SPDX-License-Identifier: GPL-2.0

//! Where each sector of a disk comes from.

use std::path::Path;

use serde::Serialize;

use crate::stack::{Member, MergedSource, OpenStack};

/// The version of what `--json` shows.
const VERSION: u32 = 1;

/// The kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// The root.
    Root,
    /// What a sealed layer lies on, because the layer does not say what that is.
    Below,
    /// Zeroes: no root, past the end of the root, or zeroes of a leaf or a layer.
    Zero,
    /// A layer.
    Layer,
    /// The leaf.
    Leaf,
}

/// A source of a disk, and how much comes from it.
#[derive(Debug, Serialize)]
pub struct SourceShare {
    /// What it is.
    pub source: SourceKind,
    /// The number of a layer, from 1 for the lowest.
    pub layer: Option<usize>,
    /// Its device or image.
    pub name: Option<String>,
    /// The sectors that come from it.
    pub sectors: u64,
    /// Their share of the disk.
    pub share: f64,
}

impl SourceShare {
    /// Returns the character that stands for it in a drawing.
    pub fn symbol(&self) -> char {
        const LAYERS: &[u8] = b"123456789abcdefghijklmnopqrstuvwxyz";
        match self.source {
            SourceKind::Root | SourceKind::Below => '.',
            SourceKind::Zero => '0',
            SourceKind::Leaf => '#',
            SourceKind::Layer => {
                let symbol = self.layer.and_then(|n| LAYERS.get(n.checked_sub(1)?));
                symbol.map_or('*', |&symbol| symbol.into())
            }
        }
    }

    /// Returns what it is, for people.
    pub fn text(&self) -> String {
        match (self.source, self.layer) {
            (SourceKind::Root, _) => "root".to_owned(),
            (SourceKind::Below, _) => "below".to_owned(),
            (SourceKind::Zero, _) => "zeroes".to_owned(),
            (SourceKind::Layer, n) => format!("layer {}", n.unwrap_or(0)),
            (SourceKind::Leaf, _) => "leaf".to_owned(),
        }
    }
}

/// Sectors next to each other from one source, wherever they lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRange {
    /// The first sector.
    pub sector: u64,
    /// Their number.
    pub sectors: u64,
    /// The place of the source in [`SourceMap::sources`].
    pub source: usize,
}

/// The map of a disk.
pub struct SourceMap {
    /// The union, or the leaf or layer on top.
    pub name: String,
    is_union: bool,
    /// The size of the disk.
    pub sectors: u64,
    /// The sources, the lowest first. A higher one hides a lower one in a cell of a drawing.
    pub sources: Vec<SourceShare>,
    /// All of the disk.
    pub ranges: Vec<SourceRange>,
}

impl SourceMap {
    /// Finds out what a stack shows where.
    pub fn new(
        name: String,
        is_union: bool,
        root: Option<String>,
        stack: &OpenStack,
    ) -> ubcore::error::Result<SourceMap> {
        let top = stack.members.last();
        let bottom = top.map_or(0, |top| match &top.superblock {
            Some(sb) => sb.geometry.root_sectors(),
            None => stack.sectors(),
        });
        let mut map = SourceMap {
            name,
            is_union,
            sectors: stack.sectors(),
            sources: sources(&stack.members, root),
            ranges: Vec::new(),
        };
        let mut at = 0;
        while at < map.sectors {
            // The bottom is divided at the end of the root.
            let end = if at < bottom {
                bottom.min(map.sectors)
            } else {
                map.sectors
            };
            let (from, sectors) = stack.range_at(at, end - at)?;
            let source = match from {
                MergedSource::Bottom if at < bottom => 0,
                MergedSource::Bottom | MergedSource::Zero(_) => 1,
                MergedSource::Data(n, _) => 2 + n,
            };
            map.add(at, sectors, source);
            at += sectors;
        }
        for source in &mut map.sources {
            source.share = source.sectors as f64 / map.sectors.max(1) as f64;
        }
        Ok(map)
    }

    fn add(&mut self, sector: u64, sectors: u64, source: usize) {
        self.sources[source].sectors += sectors;
        match self.ranges.last_mut() {
            Some(last) if last.source == source => last.sectors += sectors,
            _ => self.ranges.push(SourceRange {
                sector,
                sectors,
                source,
            }),
        }
    }

    /// Returns what `--json` shows.
    pub fn report(&self, svg: Option<&Path>) -> SourceReport<'_> {
        let range = |s: &SourceRange| RangeReport {
            sector: s.sector,
            sectors: s.sectors,
            source: self.sources[s.source].source,
            layer: self.sources[s.source].layer,
        };
        SourceReport {
            version: VERSION,
            name: &self.name,
            is_union: self.is_union,
            sectors: self.sectors,
            sources: &self.sources,
            ranges: self.ranges.iter().map(range).collect(),
            svg: svg.map(|path| path.display().to_string()),
        }
    }
}

/// Returns the sources of a stack: the bottom, zeroes, and each member.
fn sources(members: &[Member], root: Option<String>) -> Vec<SourceShare> {
    let of = |source, layer, name| SourceShare {
        source,
        layer,
        name,
        sectors: 0,
        share: 0.0,
    };
    let knows_root = members.last().is_some_and(|top| top.superblock.is_some());
    let bottom = if knows_root {
        SourceKind::Root
    } else {
        SourceKind::Below
    };
    let mut all = vec![of(bottom, None, root), of(SourceKind::Zero, None, None)];
    all.extend((1..).zip(members).map(|(n, member)| match member.id {
        None => of(SourceKind::Leaf, None, Some(member.name())),
        Some(_) => of(SourceKind::Layer, Some(n), Some(member.name())),
    }));
    all
}

/// The answer. The field names are those of `--json`.
#[derive(Serialize)]
pub struct SourceReport<'a> {
    version: u32,
    name: &'a str,
    is_union: bool,
    sectors: u64,
    sources: &'a [SourceShare],
    ranges: Vec<RangeReport>,
    svg: Option<String>,
}

/// A range in `--json`.
#[derive(Serialize)]
struct RangeReport {
    sector: u64,
    sectors: u64,
    source: SourceKind,
    layer: Option<usize>,
}
