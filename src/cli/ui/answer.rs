//! Answers: tables for people, one JSON document for programs; talk goes to stderr.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use clap::Parser;

use super::error::CommandError;
use super::printer::Printer;
use crate::cli::args::Cli;
use crate::messages::{misleads, one_line};

/// What a command answers: the value that `--json` serialises is the one that is printed.
pub(crate) trait Answer: Serialize {
    /// Writes it for people.
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()>;

    /// What else there is to say about it, on stderr.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Where the answer of one command goes, and in which form.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints an answer, and its notes.
    pub(crate) fn print<A: Answer>(&self, answer: &A) -> Result<(), CommandError> {
        // Writing to a value in memory fails for a map whose keys are no strings: a defect.
        let document = serde_json::to_value(answer)
            .map_err(|error| CommandError::failed(format!("internal error: {error}")))?;
        self.answer(&document, |out| answer.print(out))?;
        answer.notes().iter().for_each(|note| self.note(note));
        Ok(())
    }

    /// Prints the answer: the document with `--json`, else what `text` writes.
    fn answer(
        &self,
        document: &Value,
        text: impl FnOnce(&mut Printer<'_>) -> io::Result<()>,
    ) -> Result<(), CommandError> {
        let mut out = anstream::stdout().lock();
        let written = if self.json {
            writeln!(out, "{}", escaped(&format!("{document:#}")))
        } else {
            text(&mut Printer::new(&mut out))
        };
        match written.and_then(|()| out.flush()) {
            // A reader that has seen enough (`| head`) is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| CommandError::failed(format!("stdout: {error}"))),
        }
    }

    /// Says something that is not the answer.
    pub(crate) fn note(&self, text: &str) {
        let (text, mut err) = (one_line(text), anstream::stderr());
        // Talk that nobody hears changes nothing.
        let _ = if self.json {
            writeln!(err, "{}", escaped(&json!({ "note": text }).to_string()))
        } else {
            writeln!(err, "vtpm-guard: {text}")
        };
    }

    /// Tells what went wrong, and what helps.
    pub(crate) fn error(&self, error: &CommandError) -> ExitCode {
        let mut err = anstream::stderr().lock();
        let message = one_line(&error.to_string());
        // Nobody is left to be told that stderr is closed.
        let _ = if self.json {
            let document = json!({ "error": message, "hint": error.hint() });
            writeln!(err, "{}", escaped(&document.to_string()))
        } else {
            match error.hint() {
                Some(hint) => writeln!(err, "vtpm-guard: {message}\n  hint: {}", one_line(hint)),
                None => writeln!(err, "vtpm-guard: {message}"),
            }
        };
        error.status()
    }
}

/// A JSON document in which what misleads a person who reads it on a terminal is escaped, too:
/// serde escapes what JSON demands, which leaves DEL, C1 and the marks of Unicode as they are.
/// Outside of strings JSON has none of them but line feeds.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !misleads(c) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

/// Prints what clap says of these arguments. Help and version are answers; all else is usage.
/// clap repeats an argument as it is, so it is asked again for arguments that mislead nobody.
pub(crate) fn usage(error: clap::Error, arguments: &[OsString]) -> ExitCode {
    let shown = |argument: &OsString| one_line(&argument.to_string_lossy());
    let error =
        Cli::try_parse_from(arguments.iter().map(shown)).map_or_else(|told| told, |_| error);
    // Nobody is left to be told that the terminal is gone.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// A time for people: local time to the second, or "-".
pub(crate) fn time(at: Option<crate::clock::Timestamp>) -> String {
    let Some(at) = at else { return "-".to_owned() };
    let Ok(at) = jiff::Timestamp::from_millisecond(at.0) else {
        return at.0.to_string();
    };
    at.to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn json_keeps_its_value_and_misleads_no_terminal() {
        let value = serde_json::json!({ "name": "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}\nö" });
        let text = escaped(&format!("{value:#}"));
        assert!(
            text.contains(r#""a\u001b\u007f\u009b\u202e\udb40\udc41\nö""#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).ok(),
            Some(value)
        );
    }
}
