//! Plays of programs whose calls fail.

use nix::libc;
use nix::sys::signal::Signal;

use super::calls::{Call, Fault};
use super::commands::{Scenario, Tool};
use super::plays::{Ready, Worker, outcome};
use super::tally::Tally;
use super::tracer::{At, End, Plan};

impl Worker {
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
            .filter(|(number, _)| self.is_its_own(*number))
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
        let host = self.put_back(scenario);
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
        self.find_panics(scenario, &what, &ran);
        match ran.end {
            End::Status(0) if follows => {}
            End::Status(0) if passes_unread(scenario, fault, &ran.log) => {}
            End::Status(0) if scenario.ends != 0 => {
                let finding = format!("{name}: {what:?}: done, and not refused: {stderr}");
                self.tally.find(finding);
            }
            End::Status(code) if code == scenario.ends => {
                if let Err(missing) = outcome(&host, scenario)
                    && !(scenario.may_leave_out && names_the_reason(fault, stderr))
                {
                    let finding =
                        format!("{name}: {what:?}: status {code}, not done: {missing}: {stderr}");
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
}

/// Whether a start was let through because its XML could not be read, and the log says so. No definition stands in for
/// it where the guest is transient, and a guest that may have no vTPM is not refused.
fn passes_unread(scenario: &Scenario, fault: Fault, log: &str) -> bool {
    scenario.tool == Tool::Hook
        && log.contains("the domain XML could not be read")
        && names_the_reason(fault, log)
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
