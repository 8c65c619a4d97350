//! What writes the answers for people: names and other people's words come out as data, whoever
//! forgets about them.

use std::fmt;
use std::io::{self, Write};

use comfy_table::Color;

use super::table::{Rows, painted, terminal_width};
use crate::cli::ui::wrap::wrapped;
use crate::messages::one_line;

/// Writes lines, tables and coloured words to stdout. Nothing that is put into a line ends it, or
/// commands the terminal.
pub(crate) struct Printer<'a>(&'a mut dyn Write);

impl<'a> Printer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self(out)
    }

    /// One line, for `writeln!`.
    pub(crate) fn write_fmt(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        let line = line.to_string();
        debug_assert!(
            line.ends_with('\n'),
            "{line:?}: a part of a line is written by part()"
        );
        let line = line.strip_suffix('\n').unwrap_or(&line);
        writeln!(self.0, "{}", one_line(line))
    }

    /// A part of a line.
    pub(crate) fn part(&mut self, part: fmt::Arguments<'_>) -> io::Result<()> {
        write!(self.0, "{}", one_line(&part.to_string()))
    }

    /// A coloured word of a line. A pipe gets the word alone.
    pub(crate) fn painted(&mut self, colour: Color, word: &str) -> io::Result<()> {
        write!(self.0, "{}", painted(colour, &one_line(word)))
    }

    /// A table.
    pub(crate) fn table(&mut self, rows: &Rows) -> io::Result<()> {
        writeln!(self.0, "{}", rows.shown())
    }

    /// A text that follows what stands in the first `indent` columns of its line, wrapped for the
    /// terminal; in a pipe it is one line.
    pub(crate) fn hanging(&mut self, indent: usize, text: &str) -> io::Result<()> {
        let text = one_line(text);
        let Some(width) = terminal_width() else {
            return writeln!(self.0, "{text}");
        };
        let columns = usize::from(width).saturating_sub(indent);
        let text = wrapped(&text, columns).join(&format!("\n{:indent$}", ""));
        writeln!(self.0, "{text}")
    }

    /// A file of this program's own making, as it is.
    pub(crate) fn verbatim(&mut self, file: &[u8]) -> io::Result<()> {
        self.0.write_all(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::cli::ui::table::{BAD, table};

    const EVIL: &str = "a\u{1b}]0;x\u{7}\nb\u{9b}31m\u{202e}c\u{2028}d\u{200b}\r";

    fn printed(print: impl FnOnce(&mut Printer<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut Printer::new(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_within_a_line_ends_it_or_commands_the_terminal() {
        let harmless = "a ]0;x  b 31m c d  ";
        assert_eq!(
            printed(|out| writeln!(out, "{EVIL}")),
            format!("{harmless}\n")
        );
        assert_eq!(printed(|out| out.part(format_args!("{EVIL}"))), harmless);
        assert_eq!(
            printed(|out| out.painted(BAD, EVIL)),
            format!("\u{1b}[31m{harmless}\u{1b}[0m")
        );
        assert_eq!(printed(|out| out.hanging(4, EVIL)), format!("{harmless}\n"));
    }

    #[test]
    fn nor_does_anything_within_a_cell() {
        let mut rows = table(&["NAME", "WHAT"]);
        rows.add_row([EVIL, "b"]);
        let text = printed(|out| out.table(&rows));
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(text.contains("a ]0;x  b 31m c d"), "{text:?}");
    }
}
