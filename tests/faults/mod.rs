//! The real programs, killed at each system call that changes something, and with each of their
//! system calls failing: `./dev faults`.
//!
//! A worker is a process of its own with a host of its own (`site`), on which it plays each of the
//! `commands` once for each call (`tracer`), and holds `statements` afterwards. libvirt is the fake
//! one of the unit tests: behind a helper of its own, and for some calls of the hook on its daemon's socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it does"
)]

mod calls;
mod commands;
mod failures;
mod plays;
mod site;
mod statements;
mod tally;
mod tracer;

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use self::plays::Worker;
use self::site::Workshop;
use self::tally::{Share, Tally};
use crate::libvirt::fake::FakeLibvirt;

/// How many plays there are in all, unless the environment says otherwise.
const KILLS: usize = 1500;
const FAILURES: usize = 700;

/// In a worker: its share of the plays.
const SHARE: &str = "VTPM_GUARD_FAULTS_SHARE";

#[test]
#[ignore = "the helper of the programs under test"]
fn serves_the_fake_libvirt() {
    let libvirt = FakeLibvirt::at(&Workshop::here().host().join("libvirt"));
    // stdout is what libtest prints on.
    let mut replies = File::options().write(true).open("/proc/self/fd/3").unwrap();
    let mut requests = File::open("/proc/self/fd/0").unwrap();
    libvirt.serve_helper(&mut requests, &mut replies).unwrap();
}

#[test]
#[ignore = "needs root and the built programs: ./dev faults runs it"]
fn a_kill_at_any_call_loses_nothing_and_the_next_run_ends_well() {
    play_all("faults::worker_of_kills", "KILLS", KILLS);
}

#[test]
#[ignore = "needs root and the built programs: ./dev faults runs it"]
fn a_failing_call_is_an_error_or_invisible_and_changes_nothing_or_all() {
    play_all("faults::worker_of_failures", "FAILURES", FAILURES);
}

#[test]
#[ignore = "a worker, which others start"]
fn worker_of_kills() {
    let Some(share) = share() else { return };
    Worker::new(share).kill_everywhere().say();
}

#[test]
#[ignore = "a worker, which others start"]
fn worker_of_failures() {
    let Some(share) = share() else { return };
    Worker::new(share).fail_everywhere().say();
}

fn share() -> Option<Share> {
    Some(Share::parse(&env::var(SHARE).ok()?))
}

/// Plays this many, on all cores.
fn play_all(worker: &str, count: &str, usual: usize) {
    let number = |name: &str| {
        env::var(format!("VTPM_GUARD_FAULTS_{name}"))
            .ok()?
            .parse()
            .ok()
    };
    let plays = number(count).unwrap_or(usual);
    // Always the same: a change is judged by what it changes, and not by chance.
    let seed = number("SEED").unwrap_or(5);
    let minutes = number("MINUTES").unwrap_or(24 * 60);
    let only = env::var("VTPM_GUARD_FAULTS_ONLY").unwrap_or_default();
    let workshop = Workshop::here();
    workshop.prepare();
    let begun = Instant::now();
    let workers = thread::available_parallelism().unwrap().get();
    let workers: Vec<_> = (0..workers)
        .map(|index| {
            let share = Share {
                index,
                of: workers,
                plays: plays.div_ceil(workers),
                seed,
                minutes,
                only: only.clone(),
            };
            let mut command = workshop.worker(worker);
            command.env(SHARE, share.to_text()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            thread::spawn(move || {
                let mut tally = Tally::default();
                for line in output.lines() {
                    tally.hear(&line.unwrap());
                }
                assert!(child.wait().unwrap().success(), "a worker failed");
                tally
            })
        })
        .collect();
    let mut all = Tally::default();
    for worker in workers {
        all.add(worker.join().unwrap());
    }
    all.print();
    println!("seed {seed}, in {} s", begun.elapsed().as_secs());
    assert!(all.plays > 0, "nothing was played");
    // Said once more where nobody can overlook it.
    let findings = all.findings.join("\n");
    assert!(findings.is_empty(), "seed {seed} has found:\n{findings}");
}
