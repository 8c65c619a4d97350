//! Plays of programs that are killed, or whose calls fail, and what is demanded of each.

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::calls::{Call, Fault};
use super::commands::{self, Scenario, Tool};
use super::site::{self, Site, Workshop};
use super::statements::Known;
use super::tally::{Share, Tally};
use super::tracer::{self, At, End, Plan, Program, Ran};
use crate::libvirt::FakeDaemon;
use crate::manage::tests::fixture::Fixture;

/// One worker.
pub(super) struct Worker {
    pub(super) share: Share,
    workshop: Workshop,
    site: Site,
    /// libvirt's daemon, where it listens.
    daemon: Option<FakeDaemon>,
    /// The commands that it has made ready are its own; otherwise it shares each with the other workers.
    plays_all_of_them: bool,
    random: u64,
    pub(super) tally: Tally,
    begun: Instant,
}

/// That libvirt's daemon has panicked, which is found where a program's own panic is.
const THE_DAEMON: &str =
    "the fake libvirtd panicked: the program has sent what no libvirtd understands";

/// So many commands for each worker are enough to give each some of its own.
const MANY: usize = 4;

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
            daemon: None,
            plays_all_of_them: false,
            share,
            tally: Tally::default(),
            begun: Instant::now(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        let minutes = self.begun.elapsed().as_secs() / 60;
        self.tally.plays >= self.share.plays || minutes >= self.share.minutes as u64
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 1).unwrap() % limit
    }

    /// Makes the hosts of all commands, and runs each of them undisturbed.
    pub(super) fn ready(&mut self) -> Vec<Ready> {
        let mut wanted = commands::all();
        wanted.retain(|it| it.name().contains(self.share.wanted().0));
        if wanted.len() >= MANY * self.share.of {
            // Each worker has commands of its own, for they have to be made ready.
            let mut numbers = 0..;
            wanted.retain(|_| self.share.has(numbers.next().unwrap_or_default()));
            self.plays_all_of_them = true;
        }
        let mut ready = Vec::new();
        for scenario in wanted {
            let name = scenario.name();
            self.daemon = None;
            let host = self.site.begin();
            (scenario.set_up)(&host);
            if !scenario.keys_in_clear {
                site::seal_keys(&host);
            }
            drop(host);
            self.site.remember(&name);
            let known = Known::of(&self.put_back(&scenario));
            let host = self.put_back(&scenario);
            let ran = self.play(&scenario, &host, None);
            self.find_panics(&scenario, &["undisturbed".to_owned()], &ran);
            let wrong = match (ran.end, outcome(&host, &scenario)) {
                (End::Status(code), Ok(())) if code == scenario.ends => {
                    known.broken(&host, scenario.allowed)
                }
                (end, done) => vec![format!("{end:?}, {done:?}: {}", ran.stderr)],
            };
            let wrong = [wrong, self.not_over_the_socket(&ran)].concat();
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

    /// Makes the host of this command what it was before, with its libvirt.
    pub(super) fn put_back(&mut self, scenario: &Scenario) -> Fixture {
        self.daemon = None;
        let host = self.site.put_back(&scenario.name());
        self.daemon = scenario.over_the_socket.then(|| host.libvirt.listen());
        host
    }

    /// That an undisturbed run has not asked libvirt in the way that it was made for.
    fn not_over_the_socket(&self, ran: &Ran) -> Vec<String> {
        let Some(daemon) = &self.daemon else {
            return Vec::new();
        };
        let helper = ran
            .started
            .iter()
            .any(|path| path.ends_with("vtpm-guard-libvirt"));
        let calls = daemon.calls();
        if calls > 0 && !helper {
            return Vec::new();
        }
        vec![format!(
            "{calls} calls over the socket, and a helper: {helper}"
        )]
    }

    /// Kills each command at each of its changes, then anywhere, until the share is played.
    pub(super) fn kill_everywhere(mut self) -> Tally {
        let ready = self.ready();
        let mut points: Vec<_> = ready
            .iter()
            .flat_map(|ready| (1..=ready.changes).map(move |nth| (ready, At::Change(nth))))
            .enumerate()
            .filter(|(number, _)| self.is_its_own(*number))
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

    /// Whether it plays the one with this number, and no other worker.
    pub(super) fn is_its_own(&self, number: usize) -> bool {
        self.plays_all_of_them || self.share.has(number)
    }

    fn anywhere(&mut self, ready: &Ready) -> At {
        if ready.changes > 0 && self.below(2) == 0 {
            At::Change(1 + self.below(ready.changes))
        } else {
            At::Call(1 + self.below(ready.calls.len()))
        }
    }

    fn kill(&mut self, ready: &Ready, first: At) {
        let scenario = &ready.scenario;
        let host = self.put_back(scenario);
        let mut at = first;
        let mut where_killed = Vec::new();
        let kills = 1 + self.below(KILLS_IN_A_ROW);
        for _ in 0..kills {
            let plan = Plan {
                at,
                fault: Fault::Kill,
            };
            let ran = self.play(scenario, &host, Some(plan));
            self.find_panics(scenario, &where_killed, &ran);
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

    pub(super) fn broken(&mut self, ready: &Ready, host: &Fixture, what: &[String]) -> bool {
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
    pub(super) fn again(&mut self, ready: &Ready, host: &Fixture, what: &[String]) {
        let scenario = &ready.scenario;
        let ran = self.play_alone(scenario, host);
        self.find_panics(scenario, &[what, &["again".to_owned()]].concat(), &ran);
        let is_well = matches!(ran.end, End::Status(code) if code == scenario.ends || scenario.again.contains(&code));
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

    /// A panic is a fault whatever the program makes of it: what follows a start ends with 0 all the same.
    pub(super) fn find_panics(&mut self, scenario: &Scenario, what: &[String], ran: &Ran) {
        if ran.has_panicked() {
            let (end, said) = (ran.end, [&*ran.stderr, &ran.stdout, &ran.log].concat());
            let finding = format!("{}: {what:?}: {end:?}: a panic: {said}", scenario.name());
            self.tally.find(finding);
        }
    }

    pub(super) fn play(&self, scenario: &Scenario, host: &Fixture, plan: Option<Plan>) -> Ran {
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
        let ran = run(&Program {
            path: &self.workshop.program(program),
            arguments: &arguments,
            stdin: stdin.as_bytes(),
        });
        // What a program has asked before it was killed is still done.
        let is_well = self.daemon.as_ref().is_none_or(FakeDaemon::settle);
        let log = site::taken_log();
        Ran {
            log: if is_well { log } else { log + THE_DAEMON },
            ..ran
        }
    }

    /// A line from time to time, in a long run.
    pub(super) fn progress(&self) {
        let plays = self.tally.plays;
        if plays % 1000 < 3 && self.share.plays > 2000 {
            let (seconds, index) = (self.begun.elapsed().as_secs(), self.share.index);
            println!("\nprogress\tworker {index}: {plays} plays in {seconds} s");
        }
    }
}

/// A command that can be played.
pub(super) struct Ready {
    pub(super) scenario: Scenario,
    known: Known,
    pub(super) calls: Vec<Call>,
    changes: usize,
}

pub(super) fn outcome(host: &Fixture, scenario: &Scenario) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (scenario.done)(host))).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}
