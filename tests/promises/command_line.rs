//! Command lines in texts, read as a shell and the program's own parser read them.

use clap::Parser;
use vtpm_guard::internals::cli::args::Cli;

/// The programs whose command lines texts name.
const PROGRAMS: [&str; 4] = ["vtpm-guard ", "virsh ", "mv ", "chmod "];

/// The command lines in a text, each as its words: from the program's name to the end of what a
/// reader would copy.
pub(crate) fn command_lines(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((at, program)) = first(rest) {
        let (words, end) = words(&rest[at + program.len()..]);
        let line = std::iter::once(program.trim_end().to_owned()).chain(words);
        found.push(line.collect());
        rest = &rest[at + program.len() + end..];
    }
    found
}

fn first(text: &str) -> Option<(usize, &'static str)> {
    let starts = PROGRAMS.iter().filter_map(|program| {
        let at = text.match_indices(program).find(|(at, _)| {
            let before = text[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "-/_.".contains(c))
        });
        at.map(|(at, _)| (at, *program))
    });
    starts.min()
}

/// The words up to the end of the command line, and the offset of that end. Text in single quotes
/// is a part of a word, whatever it contains.
fn words(text: &str) -> (Vec<String>, usize) {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.char_indices().peekable();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, next)| *next);
        let closes = matches!(c, ';' | ',' | '.' | ')' | ':' | '?')
            && next.is_none_or(|next| next.is_whitespace() || ";,.)`\"".contains(next));
        if closes
            || matches!(
                c,
                '`' | '"' | '|' | '>' | '<' | '#' | '&' | '\n' | '(' | ';'
            )
        {
            end = at;
            break;
        }
        match c {
            ' ' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().map(|(_, c)| c).take_while(|c| *c != '\''));
            }
            '\\' => word
                .get_or_insert_default()
                .extend(chars.next().map(|(_, c)| c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (words, end)
}

/// Parses a command line of this program, with values for its placeholders. `None` for a request
/// for help, and for another program's command line.
pub(crate) fn parsed(line: &[String]) -> Result<Option<Cli>, String> {
    if line[0] != "vtpm-guard" {
        return Ok(None);
    }
    let words = line.iter().map(|word| match word.as_str() {
        "ID" | "N" => "1",
        "CODE" => "VG101",
        "TIME" => "2h",
        "AGE" => "30d",
        "SHELL" => "bash",
        word => word,
    });
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Some(cli)),
        // Help and version are answers.
        Err(error) if !error.use_stderr() => Ok(None),
        Err(error) => Err(format!("{}: {error}", line.join(" "))),
    }
}

/// How the command lines of other programs in `messages::Command` begin.
const OTHER_COMMANDS: [&str; 21] = [
    "ausearch -",
    "chmod ",
    "chown ",
    "kill ",
    "ln -s",
    "man vtpm",
    "mkdir -",
    "mount -",
    "mv ",
    "pgrep ",
    "ps -",
    "restorecon -",
    "rm ",
    "sed -",
    "setsebool ",
    "sqlite3 ",
    "systemctl ",
    "tpm2_",
    "uuidgen",
    "virsh ",
    "virt-install --",
];

/// Whether a text has a command line in it, of this program or of another.
pub(crate) fn names_a_command(text: &str) -> bool {
    let begins = |command: &&str| {
        text.match_indices(*command).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "-/_.".contains(c))
        })
    };
    OTHER_COMMANDS.iter().any(begins) || command_lines(text).iter().any(|line| is_command(line))
}

/// Whether this is a command of this program, and not a sentence about it.
pub(crate) fn is_command(line: &[String]) -> bool {
    use clap::CommandFactory;
    let verb = line.get(1).map(String::as_str).unwrap_or_default();
    line[0] == "vtpm-guard"
        && (verb.starts_with('-') || Cli::command().find_subcommand(verb).is_some())
}

#[test]
fn command_lines_are_read_as_a_shell_reads_them() {
    let lines = |text: &str| -> Vec<String> {
        let lines = command_lines(text);
        lines.iter().map(|line| line.join("|")).collect()
    };
    assert_eq!(
        lines(
            "see what it opens: vtpm-guard key show 'my vm; vtpm-guard doctor'; or: virsh edit 'it'\\''s'"
        ),
        [
            "vtpm-guard|key|show|my vm; vtpm-guard doctor",
            "virsh|edit|it's"
        ]
    );
    assert_eq!(
        lines(
            "compare: vtpm-guard key show vm1, vtpm-guard key use ID. The TPM's state (vtpm-guard doctor)"
        ),
        [
            "vtpm-guard|key|show|vm1",
            "vtpm-guard|key|use|ID",
            "vtpm-guard|doctor"
        ]
    );
    assert_eq!(lines("`vtpm-guard status`, `check`"), ["vtpm-guard|status"]);
    assert_eq!(lines("/usr/sbin/vtpm-guard stage"), [""; 0]);
    assert_eq!(
        lines("vtpm-guard import ./a.b"),
        ["vtpm-guard|import|./a.b"]
    );
}

#[test]
fn a_command_is_told_from_a_sentence_about_a_program() {
    for text in [
        "retry: virsh start vm1",
        "vtpm-guard doctor",
        "fix its mode: chmod 0711 /a",
        "(uuidgen prints one)",
    ] {
        assert!(names_a_command(text), "{text}");
    }
    for text in [
        "vtpm-guard reached a state that should be impossible",
        "/usr/sbin/vtpm-guard stage",
        "the domain XML of a guest",
        "virsh",
    ] {
        assert!(!names_a_command(text), "{text}");
    }
}
