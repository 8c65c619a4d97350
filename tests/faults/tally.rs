//! What each worker is to play, and what all of them have found: told over a pipe, in lines.

use std::collections::BTreeMap;

use super::commands::Scenario;

/// What one of several workers plays.
pub(super) struct Share {
    pub(super) index: usize,
    pub(super) of: usize,
    pub(super) plays: usize,
    pub(super) seed: usize,
    /// It ends after this time, even if that was too short.
    pub(super) minutes: usize,
    /// A part of the names of the commands that are played.
    pub(super) only: String,
}

impl Share {
    /// A part of the names of the commands, and behind an `@` the name of the call.
    pub(super) fn wanted(&self) -> (&str, Option<&str>) {
        match self.only.split_once('@') {
            Some((command, call)) => (command, Some(call)),
            None => (&self.only, None),
        }
    }

    /// Whether what has this number is this worker's.
    pub(super) fn has(&self, number: usize) -> bool {
        number % self.of == self.index
    }

    pub(super) fn to_text(&self) -> String {
        let Self {
            index,
            of,
            plays,
            seed,
            minutes,
            only,
        } = self;
        format!("{index} {of} {plays} {seed} {minutes} {only}")
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut words = text.splitn(6, ' ');
        let mut number = || words.next().unwrap().parse().unwrap();
        Self {
            index: number(),
            of: number(),
            plays: number(),
            seed: number(),
            minutes: number(),
            only: words.next().unwrap().to_owned(),
        }
    }
}

/// What was played, and what was found.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) plays: usize,
    pub(super) findings: Vec<String>,
    by_command: BTreeMap<String, usize>,
    /// Messages that do not name the reason.
    pub(super) unclear: BTreeMap<String, usize>,
}

impl Tally {
    pub(super) fn count(&mut self, scenario: &Scenario) {
        self.plays += 1;
        *self.by_command.entry(scenario.name()).or_default() += 1;
    }

    pub(super) fn find(&mut self, finding: String) {
        println!("\nfound\t{}", finding.replace('\n', " | "));
        self.findings.push(finding);
    }

    /// Tells the process that counts them all.
    pub(super) fn say(&self) {
        println!();
        for (command, plays) in &self.by_command {
            println!("played\t{plays}\t{command}");
        }
        for (message, times) in &self.unclear {
            println!("unclear\t{times}\t{message}");
        }
    }

    pub(super) fn hear(&mut self, line: &str) {
        let mut words = line.splitn(3, '\t');
        match (words.next(), words.next(), words.next()) {
            (Some("played"), Some(plays), Some(command)) => {
                let plays = plays.parse::<usize>().unwrap_or_default();
                self.plays += plays;
                *self.by_command.entry(command.to_owned()).or_default() += plays;
            }
            (Some("unclear"), Some(times), Some(message)) => {
                let times = times.parse::<usize>().unwrap_or_default();
                *self.unclear.entry(message.to_owned()).or_default() += times;
            }
            (Some("found"), Some(finding), _) => {
                println!("found\t{finding}");
                self.findings.push(finding.to_owned());
            }
            (Some("progress"), Some(text), _) => println!("{text}"),
            _ => {}
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.plays += other.plays;
        self.findings.extend(other.findings);
        for (command, plays) in other.by_command {
            *self.by_command.entry(command).or_default() += plays;
        }
        for (message, times) in other.unclear {
            *self.unclear.entry(message).or_default() += times;
        }
    }

    pub(super) fn print(&self) {
        for (command, plays) in &self.by_command {
            println!("{plays:8} {command}");
        }
        for (message, times) in &self.unclear {
            println!("unclear {times:4} {message}");
        }
        let (plays, found) = (self.plays, self.findings.len());
        println!("{plays} plays, {found} findings");
    }
}
