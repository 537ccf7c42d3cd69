// SPDX-License-Identifier: GPL-2.0

//! A disk as cells in rows, each for an equal part of it.

use super::sources::{SourceMap, SourceRange};

/// The least part that a cell stands for: 4 KiB.
const CELL_MIN: u64 = 8;

/// How a disk is divided into cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The cells of a row.
    pub columns: usize,
    /// The sectors of a cell, a power of two.
    pub cell_sectors: u64,
}

impl Grid {
    /// Divides a disk into at most `rows` rows of `columns` cells.
    pub fn new(sectors: u64, columns: usize, rows: usize) -> Grid {
        let cells = (columns as u64).saturating_mul(rows as u64).max(1);
        let least = sectors.div_ceil(cells).max(CELL_MIN);
        // A disk has fewer than 2^63 sectors.
        let cell_sectors = least.checked_next_power_of_two().unwrap_or(1 << 63);
        Grid {
            columns,
            cell_sectors,
        }
    }

    /// Returns the sectors of a row.
    pub fn row_sectors(&self) -> u64 {
        self.cell_sectors.saturating_mul(self.columns as u64)
    }

    /// Returns the cells of a disk.
    pub fn cells(&self, map: &SourceMap) -> Vec<Cell> {
        let count = map.sectors.div_ceil(self.cell_sectors);
        let mut cells = Vec::new();
        let mut ranges = map.ranges.iter().peekable();
        for n in 0..count {
            let start = n * self.cell_sectors;
            let end = (start + self.cell_sectors).min(map.sectors);
            let mut cell = Cell::default();
            while let Some(range) = ranges.peek() {
                cell.add(range, (start, end));
                if range.sector + range.sectors > end {
                    break;
                }
                ranges.next();
            }
            cell.is_most = cell.sectors * 2 >= end - start;
            cells.push(cell);
        }
        cells
    }
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The highest source.
    pub source: usize,
    /// The sectors that come from it.
    sectors: u64,
    /// Whether at least half of the cell comes from it.
    pub is_most: bool,
}

impl Cell {
    fn add(&mut self, range: &SourceRange, (start, end): (u64, u64)) {
        let from = range.sector.max(start);
        let to = (range.sector + range.sectors).min(end);
        let sectors = to.saturating_sub(from);
        if sectors > 0 && (range.source > self.source || self.sectors == 0) {
            self.source = range.source;
            self.sectors = 0;
        }
        if range.source == self.source {
            self.sectors += sectors;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Grid;

    #[test]
    fn a_disk_fits_the_rows() {
        for sectors in [1, 8, 4096, 1 << 20, (1 << 31) + 1, 1 << 46] {
            for columns in [1, 10, 64] {
                let grid = Grid::new(sectors, columns, 16);
                assert!(
                    sectors.div_ceil(grid.row_sectors()) <= 16,
                    "{sectors} {grid:?}"
                );
                assert!(grid.cell_sectors.is_power_of_two() && grid.cell_sectors >= 8);
            }
        }
        // 1 GiB in 64 columns: 1 MiB each.
        assert_eq!(Grid::new(1 << 21, 64, 16).cell_sectors, 2048);
    }
}
