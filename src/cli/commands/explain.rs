//! `explain`: what a code means, why it matters, what to do.

use std::io;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::table;
use crate::cli::ui::wrap::wrapped;
use crate::messages::{Command, Explanation, explain, quoted};
use crate::verdict::code::Code;

/// An explained code.
#[derive(Serialize)]
struct Explained {
    code: &'static str,
    name: &'static str,
    #[serde(skip)]
    summary: &'static str,
    what: &'static str,
    why: &'static str,
    what_to_do: String,
}

pub(crate) fn run(context: &Context, code: Option<&str>) -> Result<(), CommandError> {
    match code {
        None => {
            let all: Vec<_> = Code::ALL.iter().map(|code| Explained::of(*code)).collect();
            context.output.print(&all)
        }
        Some(text) => context.output.print(&Explained::of(parse(text)?)),
    }
}

/// A code as a person writes it.
pub(crate) fn parse(text: &str) -> Result<Code, CommandError> {
    Code::parse(text).ok_or_else(|| {
        CommandError::usage(format!("unknown code: {}", quoted(text)))
            .with_hint(format!("list them: {}", Command::Explain))
    })
}

impl Explained {
    fn of(code: Code) -> Self {
        let Explanation { what, why, remedy } = explain(code);
        Self {
            code: code.as_str(),
            name: code.name(),
            summary: code.summary(),
            what,
            why,
            what_to_do: remedy,
        }
    }
}

impl Answer for Explained {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        writeln!(out, "{} {}\n", self.code, self.name)?;
        for (heading, text) in [
            ("What happened", self.what),
            ("Why it matters", self.why),
            ("What to do", &self.what_to_do),
        ] {
            writeln!(out, "{heading}:")?;
            for line in wrapped(text, 78) {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl Answer for Vec<Explained> {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let mut rows = table(&["CODE", "NAME", "WHAT HAPPENED"]);
        for one in self {
            rows.add_row([one.code, one.name, one.summary]);
        }
        out.table(&rows)
    }
}
