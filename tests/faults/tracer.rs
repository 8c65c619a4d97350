//! Runs a program under ptrace(2), and lets one of its system calls fail, or kills it there.
//!
//! The calls are counted from the first one that the program itself makes: those of the dynamic
//! loader are not. Processes that it starts are followed as long as they are programs of this
//! project; their calls count, too.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::{Call, Fault};

/// A program that is to be run.
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) arguments: &'a [String],
    pub(super) stdin: &'a [u8],
}

impl Program<'_> {
    /// Another program that becomes this one, or starts it, with its input and the environment of a hook.
    fn started_by(&self, starter: &str, arguments: &[&str]) -> Command {
        let mut stdin = scratch();
        stdin.write_all(self.stdin).unwrap();
        stdin.rewind().unwrap();
        let mut command = Command::new(starter);
        command
            .args(arguments)
            .arg(self.path)
            .args(self.arguments)
            .env_clear()
            .envs(ENVIRONMENT)
            .current_dir("/")
            .stdin(Stdio::from(stdin));
        command
    }
}

/// Where something is to happen, and what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) at: At,
    pub(super) fault: Fault,
}

/// One of the calls of a run, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// Of all calls.
    Call(usize),
    /// The first of this number at this place or behind it: no run is quite like another.
    CallOf(usize, i64),
    /// Of those that change something.
    Change(usize),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Status(i32),
    Signal(Signal),
    /// It did not end, and was killed.
    Hung,
}

/// A run that is over.
pub(super) struct Ran {
    pub(super) end: End,
    /// The call at which something happened.
    pub(super) hit: Option<Call>,
    /// The path that this call names, or its descriptor's.
    pub(super) path: String,
    pub(super) calls: Vec<Call>,
    /// The programs that it has tried to start, or those that it has become.
    pub(super) started: Vec<String>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What it has logged. The hook's own words for a panic are nowhere else where nothing can be refused.
    pub(super) log: String,
}

impl Ran {
    /// Whether it panicked: in Rust's words, or in the hook's own (`hook::emergency`). Rust's runtime does so itself where it
    /// has no memory for an alternative stack.
    pub(super) fn has_panicked(&self) -> bool {
        let runtimes = [
            "failed to allocate an alternative stack",
            "stack_overflow.rs",
        ];
        // Of a thread whose panic nobody answers for.
        let status = End::Status(101);
        let said = [&self.stdout, &self.stderr, &self.log];
        let has = |words: &str| said.iter().any(|text| text.contains(words));
        (self.end == status || has("panicked") || has("panic at "))
            && !runtimes.iter().any(|words| has(words))
    }
}

/// How long a program may take. The slowest, a recovery file, needs a second or two.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is known of one thread.
#[derive(Default)]
struct Thread {
    /// It runs a program whose loader has not finished.
    is_loading: bool,
    at_exit: Option<AtExit>,
}

/// What is to be put right when a call returns.
enum AtExit {
    Answer(i32),
    Length(u64),
}

/// Runs it to its end, untraced.
pub(super) fn run_alone(program: &Program<'_>) -> Ran {
    let output = program
        .started_by("/usr/bin/timeout", &["--signal=KILL", "60"])
        .output()
        .unwrap();
    let end = match output.status.code() {
        Some(code) if code < 128 => End::Status(code),
        _ => End::Hung,
    };
    Ran {
        end,
        hit: None,
        path: String::new(),
        calls: Vec::new(),
        started: Vec::new(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        log: String::new(),
    }
}

const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")];

/// Runs it to its end.
pub(super) fn run(program: &Program<'_>, plan: Option<Plan>) -> Ran {
    let (stdout, stderr) = (scratch(), scratch());
    // It stops before it becomes the program, so that nothing of it is missed.
    let mut child = program
        .started_by("/bin/sh", &["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
        .stdout(Stdio::from(stdout.try_clone().unwrap()))
        .stderr(Stdio::from(stderr.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let main = Pid::from_raw(child.id().cast_signed());
    let (ended, is_over) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let hung = is_over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            let _ = kill(main, Signal::SIGKILL);
        }
        hung
    });
    let mut tracer = Tracer {
        main,
        plan,
        threads: HashMap::new(),
        hit: None,
        path: String::new(),
        calls: Vec::new(),
        started: Vec::new(),
        changes: 0,
    };
    let end = tracer.follow();
    drop(ended);
    let hung = watchdog.join().unwrap();
    // It was reaped by the tracer; this only lets std know.
    let _ = child.try_wait();
    Ran {
        end: if hung { End::Hung } else { end },
        hit: tracer.hit,
        path: tracer.path,
        calls: tracer.calls,
        started: tracer.started,
        stdout: text(stdout),
        stderr: text(stderr),
        log: String::new(),
    }
}

struct Tracer {
    main: Pid,
    plan: Option<Plan>,
    threads: HashMap<Pid, Thread>,
    hit: Option<Call>,
    path: String,
    calls: Vec<Call>,
    started: Vec<String>,
    changes: usize,
}

impl Tracer {
    /// Follows it to its end, and says how the main process ended.
    fn follow(&mut self) -> End {
        let stopped = waitpid(self.main, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(self.main, options).unwrap();
        kill(self.main, Signal::SIGCONT).unwrap();
        let mut end = None;
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return end.unwrap(),
                Err(error) => panic!("the traced program is lost: {error}"),
            };
            // What it leaves behind ends with it.
            if let (Some(_), Some(pid)) = (end, status.pid()) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            match status {
                WaitStatus::Exited(pid, code) if pid == self.main => end = Some(End::Status(code)),
                WaitStatus::Signaled(pid, signal, _) if pid == self.main => {
                    end = Some(End::Signal(signal));
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.threads.remove(&pid);
                }
                WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => self.at_exec(pid),
                WaitStatus::PtraceEvent(pid, ..) => self.go_on(pid, None),
                WaitStatus::Stopped(pid, signal) => {
                    let passed = (signal != Signal::SIGTRAP).then_some(signal);
                    self.go_on(pid, passed);
                }
                _ => {}
            }
        }
    }

    /// Lets it go on to its next call. It may be gone: somebody has killed it.
    fn go_on(&mut self, pid: Pid, signal: Option<Signal>) {
        let known = self.threads.contains_key(&pid) || pid != self.main;
        let gone_on = if known {
            ptrace::syscall(pid, signal)
        } else {
            // The shell, before it becomes the program.
            ptrace::cont(pid, signal)
        };
        assert!(matches!(gone_on, Ok(()) | Err(Errno::ESRCH)), "{gone_on:?}");
    }

    fn at_exec(&mut self, pid: Pid) {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().unwrap_or_default();
        let is_ours = pid == self.main || name.as_encoded_bytes().starts_with(b"vtpm-guard");
        if is_ours {
            let thread = Thread {
                is_loading: true,
                at_exit: None,
            };
            self.threads.insert(pid, thread);
            self.go_on(pid, None);
        } else {
            self.threads.remove(&pid);
            let _ = ptrace::detach(pid, None);
        }
    }

    fn at_call(&mut self, pid: Pid) {
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(pid), ptrace::getregs(pid))
        else {
            return self.go_on(pid, None);
        };
        let thread = self.threads.entry(pid).or_default();
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            match thread.at_exit.take() {
                Some(AtExit::Answer(error)) => {
                    registers.rax = i64::from(-error).cast_unsigned();
                    let _ = ptrace::setregs(pid, registers);
                }
                Some(AtExit::Length(length)) => {
                    registers.rdx = length;
                    let _ = ptrace::setregs(pid, registers);
                }
                None => {}
            }
            return self.go_on(pid, None);
        }
        let number = registers.orig_rax.cast_signed();
        if thread.is_loading {
            // The first thing that Rust's own start does.
            if number == libc::SYS_poll {
                thread.is_loading = false;
            }
            return self.go_on(pid, None);
        }
        let call = Call {
            number,
            arguments: [registers.rdi, registers.rsi, registers.rdx, registers.r10],
        };
        self.calls.push(call);
        if number == libc::SYS_execve {
            self.started.push(path_of(pid, call));
        }
        self.changes += usize::from(call.changes());
        let Some(plan) = self.plan.filter(|_| self.hit.is_none()) else {
            return self.go_on(pid, None);
        };
        let is_it = match plan.at {
            At::Call(nth) => self.calls.len() == nth,
            At::CallOf(nth, of) => self.calls.len() >= nth && number == of,
            At::Change(nth) => call.changes() && self.changes == nth,
        };
        if is_it {
            self.hit = Some(call);
            self.path = path_of(pid, call);
            let thread = self.threads.entry(pid).or_default();
            match plan.fault {
                Fault::Kill => {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                Fault::Error(error) => {
                    thread.at_exit = Some(AtExit::Answer(error));
                    // A call that does not exist: nothing is done.
                    registers.orig_rax = u64::MAX;
                    let _ = ptrace::setregs(pid, registers);
                }
                Fault::Short => {
                    thread.at_exit = Some(AtExit::Length(registers.rdx));
                    registers.rdx = 1;
                    let _ = ptrace::setregs(pid, registers);
                }
            }
        }
        self.go_on(pid, None);
    }
}

/// For findings: what a call is about, as far as that is easily told.
fn path_of(pid: Pid, call: Call) -> String {
    let name = call.name();
    let argument = call.arguments[usize::from(name.contains("at") && name != "stat")];
    let of_descriptor = fs::read_link(format!("/proc/{pid}/fd/{}", call.arguments[0]));
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else {
        return String::new();
    };
    let mut bytes = [0; 200];
    let path = memory.read_at(&mut bytes, argument).ok().and_then(|read| {
        let path = bytes[..read].split(|byte| *byte == 0).next()?;
        std::str::from_utf8(path).ok().map(ToOwned::to_owned)
    });
    let path = path.unwrap_or_default();
    match of_descriptor {
        Ok(descriptor) => format!("{} {path}", descriptor.display()),
        Err(_) => path,
    }
}

/// A file in memory.
fn scratch() -> File {
    tempfile::tempfile_in("/dev/shm").unwrap()
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
