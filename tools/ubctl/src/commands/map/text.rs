// SPDX-License-Identifier: GPL-2.0

//! The map as a drawing of characters and a table.

use std::path::Path;

use anstyle::{AnsiColor, Style};

use super::grid::{Cell, Grid};
use super::sources::{SourceKind, SourceMap, SourceShare};
use crate::output::{self, size};

/// The most rows of a drawing.
const ROWS: usize = 16;
/// The columns of the size at which a row begins, with the space behind it.
const LABEL: usize = 12;

/// Returns the drawing and the table. No line of the drawing is longer than `width`.
pub fn text(map: &SourceMap, width: usize, has_colours: bool) -> String {
    let columns = width.saturating_sub(LABEL).max(1);
    // Rows of a round size are easier to find a place in.
    let columns = if columns > 8 { columns & !7 } else { columns };
    let grid = Grid::new(map.sectors, columns, ROWS);
    let cells = grid.cells(map);
    let mut out = format!(
        "{}: {}, {} a cell\n",
        output::path(Path::new(&map.name)),
        size(map.sectors),
        size(grid.cell_sectors)
    );
    for (n, row) in (0..).zip(cells.chunks(columns)) {
        let start = size(n * grid.row_sectors());
        out += &format!("{start:>10}  {}\n", cells_text(map, row, has_colours));
    }
    out + &table(&map.sources, has_colours)
}

fn cells_text(map: &SourceMap, row: &[Cell], has_colours: bool) -> String {
    let mut out = String::new();
    for same in row.chunk_by(|a, b| a.source == b.source) {
        let source = &map.sources[same[0].source];
        let symbol = |cell: &Cell| match source.symbol() {
            '#' if !cell.is_most => '+',
            symbol => symbol,
        };
        let symbols: String = same.iter().map(symbol).collect();
        out += &coloured(&symbols, source, has_colours);
    }
    out
}

fn coloured(text: &str, source: &SourceShare, has_colours: bool) -> String {
    let style = style(source);
    if has_colours && !style.is_plain() {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

fn style(source: &SourceShare) -> Style {
    let layers = [
        AnsiColor::Blue,
        AnsiColor::Magenta,
        AnsiColor::Cyan,
        AnsiColor::Yellow,
    ];
    match source.source {
        SourceKind::Root | SourceKind::Below => Style::new(),
        SourceKind::Zero => Style::new().dimmed(),
        SourceKind::Layer => {
            let colour = layers[source.layer.unwrap_or(0) % layers.len()];
            Style::new().fg_color(Some(colour.into()))
        }
        SourceKind::Leaf => Style::new().bold().fg_color(Some(AnsiColor::Green.into())),
    }
}

/// Returns the sources, the highest first. One from which nothing comes is left out unless it is a
/// device.
fn table(sources: &[SourceShare], has_colours: bool) -> String {
    let heading = ["", "SOURCE", "SIZE", "SHARE", "NAME"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let shown = |s: &&SourceShare| s.sectors > 0 || s.name.is_some();
    let shown: Vec<&SourceShare> = sources.iter().rev().filter(shown).collect();
    for source in &shown {
        let name = source.name.as_deref();
        rows.push(vec![
            source.symbol().to_string(),
            source.text(),
            size(source.sectors),
            format!("{:.1} %", source.share * 100.0),
            name.map_or_else(|| "-".to_owned(), |name| output::path(Path::new(name))),
        ]);
    }
    let plain = output::table(&rows);
    if !has_colours {
        return plain;
    }
    // The symbol is the first character of its line.
    let mut lines = plain.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (line, source) in lines.zip(shown) {
        let (symbol, rest) = line.split_at(1);
        out += &format!("{}{rest}\n", coloured(symbol, source, true));
    }
    out
}
