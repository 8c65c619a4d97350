//! `explain`: what a code means, why it matters, what to do.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::answer::wrapped;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::table::table;
use crate::messages::{Command, Explanation, explain, quoted};
use crate::verdict::code::Code;

pub(crate) fn run(context: &Context, code: Option<&str>) -> Result<ExitCode, CommandError> {
    match code {
        None => list(context)?,
        Some(text) => one(context, parse(text)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A code as a person writes it.
pub(crate) fn parse(text: &str) -> Result<Code, CommandError> {
    Code::parse(text).ok_or_else(|| {
        CommandError::usage(format!("unknown code: {}", quoted(text)))
            .with_hint(format!("list them: {}", Command::Explain))
    })
}

fn one(context: &Context, code: Code) -> Result<(), CommandError> {
    let Explanation { what, why, remedy } = explain(code);
    context.output.answer(&document(code), |out| {
        writeln!(out, "{code}\n")?;
        for (heading, text) in [
            ("What happened", what),
            ("Why it matters", why),
            ("What to do", &remedy),
        ] {
            writeln!(out, "{heading}:")?;
            for line in wrapped(text, 78) {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    })
}

fn list(context: &Context) -> Result<(), CommandError> {
    let documents: Value = Code::ALL.iter().map(|code| document(*code)).collect();
    context.output.answer(&documents, |out| {
        let mut rows = table(&["CODE", "NAME", "WHAT HAPPENED"]);
        for code in Code::ALL {
            rows.add_row([code.as_str(), code.name(), code.summary()]);
        }
        out.table(&rows)
    })
}

fn document(code: Code) -> Value {
    let Explanation { what, why, remedy } = explain(code);
    json!({
        "code": code.as_str(),
        "name": code.name(),
        "what": what,
        "why": why,
        "what_to_do": remedy,
    })
}
