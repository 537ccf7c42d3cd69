// SPDX-License-Identifier: GPL-2.0

//! The map as an SVG document.

use svg::node::element::{Group, Rectangle, Text, Title};
use svg::Document;

use super::grid::Grid;
use super::sources::{SourceKind, SourceMap, SourceShare};
use crate::output::size;

/// The cells of a row, the most rows, and the size of a cell.
const COLUMNS: usize = 128;
const ROWS: usize = 64;
const CELL: (usize, usize) = (7, 10);
/// The space on the left, for the size at which a row begins, and above, for the heading.
const LEFT: usize = 80;
const TOP: usize = 36;
/// The height of a line of the legend.
const LINE: usize = 18;

/// Returns the document.
pub fn document(map: &SourceMap) -> String {
    let grid = Grid::new(map.sectors, COLUMNS, ROWS);
    let cells = grid.cells(map);
    let mut y = TOP;
    let mut drawing = Group::new();
    for (n, row) in (0..).zip(cells.chunks(COLUMNS)) {
        let start = n * grid.row_sectors();
        if n % 4 == 0 {
            let label = words(&size(start), LEFT - 6, y + CELL.1 - 1);
            drawing = drawing.add(label.set("text-anchor", "end"));
        }
        let mut at = 0;
        for same in row.chunk_by(|a, b| a.source == b.source) {
            let source = &map.sources[same[0].source];
            let sectors = grid.cell_sectors.saturating_mul(same.len() as u64);
            let first = start + at as u64 * grid.cell_sectors;
            let title = format!(
                "{}: {} from {} on",
                source.text(),
                size(sectors.min(map.sectors - first)),
                size(first)
            );
            drawing = drawing.add(
                Rectangle::new()
                    .set("x", LEFT + at * CELL.0)
                    .set("y", y)
                    .set("width", same.len() * CELL.0)
                    .set("height", CELL.1 - 1)
                    .set("fill", colour(source))
                    .add(Title::new(title)),
            );
            at += same.len();
        }
        y += CELL.1;
    }
    let heading = format!(
        "{}: {}, {} a cell",
        map.name,
        size(map.sectors),
        size(grid.cell_sectors)
    );
    let (legend, height) = legend(map, y + LINE);
    let width = LEFT + COLUMNS * CELL.0 + 10;
    let document = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 11)
        .add(
            Rectangle::new()
                .set("width", width)
                .set("height", height)
                .set("fill", "white"),
        )
        .add(words(&heading, LEFT, TOP / 2).set("font-weight", "bold"))
        .add(drawing)
        .add(legend);
    format!("{document}\n")
}

/// Returns a line for each source, and where the last one ends.
fn legend(map: &SourceMap, mut y: usize) -> (Group, usize) {
    let mut legend = Group::new();
    for source in map.sources.iter().rev().filter(|s| s.sectors > 0) {
        let name = source.name.as_ref().map(|name| format!(", {name}"));
        let text = format!(
            "{}: {}, {:.1} %{}",
            source.text(),
            size(source.sectors),
            source.share * 100.0,
            name.unwrap_or_default()
        );
        let square = Rectangle::new()
            .set("x", LEFT)
            .set("y", y - 10)
            .set("width", 12)
            .set("height", 12)
            .set("stroke", "#888888")
            .set("fill", colour(source));
        legend = legend.add(square).add(words(&text, LEFT + 20, y));
        y += LINE;
    }
    (legend, y)
}

fn words(text: &str, x: usize, y: usize) -> Text {
    // SVG has no control characters.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Text::new(text).set("x", x).set("y", y)
}

fn colour(source: &SourceShare) -> &'static str {
    let layers = ["#9467bd", "#1f77b4", "#17becf", "#bcbd22", "#ff7f0e"];
    match source.source {
        SourceKind::Root | SourceKind::Below => "#c7c7c7",
        SourceKind::Zero => "#f5f5f5",
        SourceKind::Layer => layers[source.layer.unwrap_or(0) % layers.len()],
        SourceKind::Leaf => "#2ca02c",
    }
}
