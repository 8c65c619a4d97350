//! Tables for people: aligned, with a bold heading and colours on a terminal, and fitted to its
//! width; plain, one line for each row, in a pipe.

mod layout;

use std::io::{self, IsTerminal};

use comfy_table::{Attribute, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};

use self::layout::{Column, layout};
use crate::messages::one_line;

/// What is as it should be. All colours are of the terminal's own palette.
pub(crate) const GOOD: Color = Color::DarkGreen;
/// What should be seen to.
pub(crate) const NOTABLE: Color = Color::DarkYellow;
/// What is wrong.
pub(crate) const BAD: Color = Color::DarkRed;

/// A cell. Whatever its text holds, it is data: it ends no line and commands no terminal.
pub(crate) struct Cell(comfy_table::Cell);

impl Cell {
    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and identities are passed as they are"
    )]
    pub(crate) fn new(text: impl ToString) -> Self {
        Self(comfy_table::Cell::new(one_line(&text.to_string())))
    }

    /// The same in this colour.
    pub(crate) fn fg(self, colour: Color) -> Self {
        Self(self.0.fg(colour))
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// A cell that has this colour if there is reason for it.
pub(crate) fn cell_if(reason: bool, colour: Color, text: impl ToString) -> Cell {
    let cell = Cell::new(text);
    if reason { cell.fg(colour) } else { cell }
}

/// A word in one of these colours, outside of a table. A pipe gets the word alone.
pub(crate) fn painted(colour: Color, word: &str) -> String {
    let code = match colour {
        GOOD => 32,
        NOTABLE => 33,
        BAD => 31,
        _ => 39,
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

/// Blanks between two columns.
const GAP: u16 = 2;

/// Nobody reads a table on less; a terminal that says so does not know its width.
const NARROWEST: u16 = 40;

/// Rows under a heading.
pub(crate) struct Rows {
    heading: Vec<&'static str>,
    table: Table,
}

/// A table with this heading. The words of the heading say how a column may be fitted to a
/// narrow terminal.
pub(crate) fn table(heading: &[&'static str]) -> Rows {
    let mut table = plain();
    let bold = |text: &&'static str| comfy_table::Cell::new(*text).add_attribute(Attribute::Bold);
    table.set_header(heading.iter().map(bold));
    pad(&mut table, heading.len());
    Rows {
        heading: heading.to_vec(),
        table,
    }
}

impl Rows {
    pub(crate) fn add_row<T: Into<Cell>>(&mut self, row: impl IntoIterator<Item = T>) {
        let cells = row.into_iter().map(|cell| cell.into().0);
        self.table.add_row(cells.collect::<Vec<_>>());
    }

    /// The table as stdout, a terminal or a pipe, shows it best.
    pub(crate) fn shown(&self) -> String {
        self.fitted(terminal_width()).trim_fmt()
    }

    /// The table for a terminal of this width, or for a pipe.
    fn fitted(&self, terminal: Option<u16>) -> Table {
        let mut table = self.table.clone();
        let Some(terminal) = terminal.filter(|_| !self.heading.is_empty()) else {
            return table;
        };
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(terminal);
        let columns: Vec<_> = self
            .heading
            .iter()
            .zip(table.column_max_content_widths())
            .map(|(heading, width)| Column::new(heading, width))
            .collect();
        let widths = layout(&columns, terminal, GAP);
        let shown = widths.iter().rposition(Option::is_some);
        pad(&mut table, shown.map_or(0, |last| last + 1));
        for (column, width) in table.column_iter_mut().zip(widths) {
            let padding = column.padding_width();
            column.set_constraint(match width {
                Some(width) => ColumnConstraint::Absolute(Width::Fixed(width + padding)),
                None => ColumnConstraint::Hidden,
            });
        }
        table
    }
}

/// The width of the terminal that stdout is, and `None` in a pipe.
pub(crate) fn terminal_width() -> Option<u16> {
    let width = Table::new().width().filter(|_| io::stdout().is_terminal());
    width.filter(|&width| width >= NARROWEST)
}

/// A table of one thing's properties, one line for each.
pub(crate) fn fields<const N: usize>(rows: [(&str, String); N]) -> Rows {
    let mut table = plain();
    for (name, value) in rows {
        let name = comfy_table::Cell::new(name).add_attribute(Attribute::Bold);
        table.add_row([name, Cell::new(value).0]);
    }
    pad(&mut table, 2);
    Rows {
        heading: Vec::new(),
        table,
    }
}

/// A gap after each of the first columns, up to the last one of these.
fn pad(table: &mut Table, columns: usize) {
    for (at, column) in table.column_iter_mut().enumerate() {
        let gap = if at + 1 < columns { GAP } else { 0 };
        column.set_padding((0, gap));
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.style_text_only();
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
