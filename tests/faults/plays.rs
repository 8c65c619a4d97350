//! Plays of programs that are killed, or whose calls fail, and what is demanded of each.

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use nix::libc;
use nix::sys::signal::Signal;

use super::calls::{Call, Fault};
use super::commands::{self, Scenario, Tool};
use super::site::{Site, Workshop};
use super::statements::Known;
use super::tracer::{self, At, End, Plan, Program, Ran};
use crate::manage::tests::fixture::Fixture;

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
    fn wanted(&self) -> (&str, Option<&str>) {
        match self.only.split_once('@') {
            Some((command, call)) => (command, Some(call)),
            None => (&self.only, None),
        }
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
    unclear: BTreeMap<String, usize>,
}

impl Tally {
    fn count(&mut self, scenario: &Scenario) {
        self.plays += 1;
        *self.by_command.entry(scenario.name()).or_default() += 1;
    }

    fn find(&mut self, finding: String) {
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

/// One worker.
pub(super) struct Worker {
    share: Share,
    workshop: Workshop,
    site: Site,
    random: u64,
    tally: Tally,
    begun: Instant,
}

/// How often a command is killed at most before it is left alone.
const KILLS_IN_A_ROW: usize = 3;

impl Worker {
    pub(super) fn new(share: Share) -> Self {
        // What a check says is caught, and told once.
        panic::set_hook(Box::new(|_| {}));
        let workshop = Workshop::here();
        let seed = share.seed * share.of + share.index;
        Self {
            random: 0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9),
            site: workshop.site(),
            workshop,
            share,
            tally: Tally::default(),
            begun: Instant::now(),
        }
    }

    fn is_over(&self) -> bool {
        let minutes = self.begun.elapsed().as_secs() / 60;
        self.tally.plays >= self.share.plays || minutes >= self.share.minutes as u64
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 1).unwrap() % limit
    }

    /// Makes the hosts of all commands, and runs each of them undisturbed.
    fn ready(&mut self) -> Vec<Ready> {
        let scenarios = commands::all().into_iter();
        let (only, _) = self.share.wanted();
        let wanted = scenarios.filter(|it| it.name().contains(only));
        let mut ready = Vec::new();
        for scenario in wanted {
            let name = scenario.name();
            let host = self.site.begin();
            (scenario.set_up)(&host);
            drop(host);
            self.site.remember(&name);
            let known = Known::of(&self.site.put_back(&name));
            let host = self.site.put_back(&name);
            let ran = self.play(&scenario, &host, None);
            let wrong = match (ran.end, outcome(&host, &scenario)) {
                (End::Status(0), Ok(())) => known.broken(&host, scenario.allowed),
                (end, done) => vec![format!("{end:?}, {done:?}: {}", ran.stderr)],
            };
            if !wrong.is_empty() {
                self.tally.find(format!("{name}: undisturbed: {wrong:?}"));
                continue;
            }
            ready.push(Ready {
                scenario,
                known,
                changes: ran.calls.iter().filter(|call| call.changes()).count(),
                calls: ran.calls,
            });
        }
        ready
    }

    /// Kills each command at each of its changes, then anywhere, until the share is played.
    pub(super) fn kill_everywhere(mut self) -> Tally {
        let ready = self.ready();
        let mut points: Vec<_> = ready
            .iter()
            .flat_map(|ready| (1..=ready.changes).map(move |nth| (ready, At::Change(nth))))
            .enumerate()
            .filter(|(number, _)| number % self.share.of == self.share.index)
            .map(|(_, point)| point)
            .collect();
        // A short run plays some of all, and few of those that take long.
        if self.share.plays < points.len() {
            points.retain(|(ready, _)| !ready.scenario.is_slow() || self.below(10) == 0);
        }
        for last in (1..points.len()).rev() {
            let other = self.below(last + 1);
            points.swap(last, other);
        }
        for (ready, at) in points {
            if self.is_over() {
                return self.tally;
            }
            self.kill(ready, at);
        }
        while !self.is_over() && !ready.is_empty() {
            let number = self.below(ready.len());
            let ready = &ready[number];
            if ready.scenario.is_slow() && self.below(20) > 0 {
                continue;
            }
            let at = self.anywhere(ready);
            self.kill(ready, at);
        }
        self.tally
    }

    fn anywhere(&mut self, ready: &Ready) -> At {
        if self.below(2) == 0 {
            At::Change(1 + self.below(ready.changes))
        } else {
            At::Call(1 + self.below(ready.calls.len()))
        }
    }

    fn kill(&mut self, ready: &Ready, first: At) {
        let scenario = &ready.scenario;
        let host = self.site.put_back(&scenario.name());
        let mut at = first;
        let mut where_killed = Vec::new();
        let kills = 1 + self.below(KILLS_IN_A_ROW);
        for _ in 0..kills {
            let plan = Plan {
                at,
                fault: Fault::Kill,
            };
            let ran = self.play(scenario, &host, Some(plan));
            // It may have ended before, where it did something else than the first time.
            let Some(hit) = ran.hit else { break };
            self.tally.count(scenario);
            where_killed.push(format!("{at:?} {} {}", hit.name(), ran.path));
            let broken = self.broken(ready, &host, &where_killed);
            if broken {
                return;
            }
            at = self.anywhere(ready);
        }
        self.again(ready, &host, &where_killed);
        self.progress();
    }

    fn broken(&mut self, ready: &Ready, host: &Fixture, what: &[String]) -> bool {
        let scenario = &ready.scenario;
        let broken = catch_unwind(AssertUnwindSafe(|| {
            ready.known.broken(host, scenario.allowed)
        }));
        let broken = broken.unwrap_or_else(|panic| vec![words(&*panic)]);
        for broken in &broken {
            let finding = format!("{}: {what:?}: {broken}", scenario.name());
            self.tally.find(finding);
        }
        !broken.is_empty()
    }

    /// The same command said again ends well.
    fn again(&mut self, ready: &Ready, host: &Fixture, what: &[String]) {
        let scenario = &ready.scenario;
        let ran = self.play_alone(scenario, host);
        let is_well =
            matches!(ran.end, End::Status(code) if code == 0 || scenario.again.contains(&code));
        if !is_well {
            let (end, stderr) = (ran.end, ran.stderr);
            let name = scenario.name();
            let finding = format!("{name}: {what:?}: again: {end:?}: {stderr}");
            return self.tally.find(finding);
        }
        if let Err(missing) = outcome(host, scenario) {
            let finding = format!("{}: {what:?}: again, not done: {missing}", scenario.name());
            self.tally.find(finding);
        }
        self.broken(ready, host, &[what, &["again".to_owned()]].concat());
    }

    /// Lets calls fail, in each way in which each can, until the share is played.
    pub(super) fn fail_everywhere(mut self) -> Tally {
        let ready = self.ready();
        let mut points: Vec<_> = ready
            .iter()
            .flat_map(|ready| {
                let (_, call) = self.share.wanted();
                let is_wanted =
                    move |it: &(usize, &Call)| call.is_none_or(|call| it.1.name() == call);
                let calls = ready.calls.iter().enumerate().filter(is_wanted);
                calls.flat_map(move |(number, call)| {
                    let faults = call.faults().into_iter();
                    faults.map(move |fault| (ready, number + 1, fault))
                })
            })
            .enumerate()
            .filter(|(number, _)| number % self.share.of == self.share.index)
            .map(|(_, point)| point)
            .collect();
        for last in (1..points.len()).rev() {
            let other = self.below(last + 1);
            points.swap(last, other);
        }
        points.truncate(self.share.plays);
        for (ready, nth, fault) in points {
            if self.is_over() {
                return self.tally;
            }
            self.fail(ready, nth, fault);
            self.progress();
        }
        self.tally
    }

    fn fail(&mut self, ready: &Ready, nth: usize, fault: Fault) {
        let scenario = &ready.scenario;
        let host = self.site.put_back(&scenario.name());
        let plan = Plan {
            at: At::CallOf(nth, ready.calls[nth - 1].number),
            fault,
        };
        let ran = self.play(scenario, &host, Some(plan));
        let Some(hit) = ran.hit else { return };
        self.tally.count(scenario);
        let what = [format!(
            "{}: {} {nth} {}",
            named(fault),
            hit.name(),
            ran.path
        )];
        let name = scenario.name();
        let stderr = &format!("{}{}", ran.stderr, ran.stdout);
        let follows = scenario.tool == Tool::Hook && !scenario.command.ends_with("prepare");
        let is_runtimes = stderr.contains("failed to allocate an alternative stack");
        if stderr.contains("panicked") && !is_runtimes {
            self.tally
                .find(format!("{name}: {what:?}: a panic: {stderr}"));
        }
        match ran.end {
            End::Status(0) if follows => {}
            End::Status(0) => {
                if let Err(missing) = outcome(&host, scenario)
                    && !(scenario.may_leave_out && names_the_reason(fault, stderr))
                {
                    let finding =
                        format!("{name}: {what:?}: success, not done: {missing}: {stderr}");
                    self.tally.find(finding);
                }
            }
            End::Status(code) if fault.is_invisible() => {
                let finding = format!("{name}: {what:?}: seen: status {code}: {stderr}");
                self.tally.find(finding);
            }
            End::Status(_) => self.judge_message(&what[0], &name, fault, stderr),
            // Rust's answer where there is no memory.
            End::Signal(Signal::SIGABRT)
                if fault == Fault::Error(libc::ENOMEM) && stderr.contains("memory") => {}
            end => {
                let finding = format!("{name}: {what:?}: {end:?}: {stderr}");
                self.tally.find(finding);
            }
        }
        if !self.broken(ready, &host, &what) {
            self.again(ready, &host, &what);
        }
    }

    /// Counts a message that does not name the reason.
    fn judge_message(&mut self, what: &str, name: &str, fault: Fault, stderr: &str) {
        if !names_the_reason(fault, stderr) {
            let line = stderr.replace('\n', " | ");
            let message = format!("{name}: {what}: {line}");
            *self.tally.unclear.entry(message).or_default() += 1;
        }
    }

    fn play(&self, scenario: &Scenario, host: &Fixture, plan: Option<Plan>) -> Ran {
        self.with_program(scenario, host, |program| tracer::run(program, plan))
    }

    fn play_alone(&self, scenario: &Scenario, host: &Fixture) -> Ran {
        self.with_program(scenario, host, tracer::run_alone)
    }

    fn with_program(
        &self,
        scenario: &Scenario,
        host: &Fixture,
        run: impl FnOnce(&Program<'_>) -> Ran,
    ) -> Ran {
        let root = host.root().to_str().unwrap();
        let arguments = scenario.arguments.iter();
        let arguments: Vec<_> = arguments.map(|it| it.replace("{root}", root)).collect();
        let (program, stdin) = match scenario.tool {
            Tool::Command => ("vtpm-guard", String::new()),
            Tool::Hook => ("vtpm-guard-hook", commands::xml(host)),
        };
        run(&Program {
            path: &self.workshop.program(program),
            arguments: &arguments,
            stdin: stdin.as_bytes(),
        })
    }

    /// A line from time to time, in a long run.
    fn progress(&self) {
        let plays = self.tally.plays;
        if plays % 1000 < 3 && self.share.plays > 2000 {
            let (seconds, index) = (self.begun.elapsed().as_secs(), self.share.index);
            println!("\nprogress\tworker {index}: {plays} plays in {seconds} s");
        }
    }
}

/// A command that can be played.
struct Ready {
    scenario: Scenario,
    known: Known,
    calls: Vec<Call>,
    changes: usize,
}

/// How `SQLite` names the reason.
const SQLITES_WORDS: [&str; 7] = [
    "disk I/O error",
    "disk image is malformed",
    "disk is full",
    "unable to open database file",
    "out of memory",
    "readonly database",
    "is locked",
];

fn names_the_reason(fault: Fault, said: &str) -> bool {
    let Fault::Error(error) = fault else {
        return false;
    };
    let reason = std::io::Error::from_raw_os_error(error).to_string();
    said.contains(reason.split(" (os").next().unwrap())
        || SQLITES_WORDS.iter().any(|words| said.contains(words))
}

fn named(fault: Fault) -> String {
    match fault {
        Fault::Error(error) => format!("{:?}", nix::errno::Errno::from_raw(error)),
        other => format!("{other:?}"),
    }
}

fn outcome(host: &Fixture, scenario: &Scenario) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (scenario.done)(host))).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}
