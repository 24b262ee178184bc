//! The processes of a run: started on a core, waited for, metered, and killed when the run ends however it ends.

use super::failure::{Doing, Failure};
use crate::load;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take until it serves.
const START: Duration = Duration::from_secs(60);
/// How long a process may take to end when it is asked to.
const END: Duration = Duration::from_secs(10);

/// Moves this process, with all threads it will have, to `core`.
pub(super) fn pin_self(core: &str) -> Result<(), Failure> {
    output(Command::new("taskset").args(["-a", "-c", "-p", core, &std::process::id().to_string()])).map(drop)
}

/// A command that will run on `core` alone. `taskset` becomes the program, so the process keeps its id.
pub(super) fn pinned(core: &str, program: &Path) -> Pinned {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    Pinned(command)
}

/// A command bound to a core.
pub(super) struct Pinned(Command);

impl Pinned {
    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Pinned {
        self.0.arg(argument);
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Pinned {
        self.0.args(arguments);
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Pinned {
        self.0.env(name, value);
        self
    }

    /// Starts it with its output in a file of `folder`.
    pub(super) fn start(mut self, name: &'static str, folder: &Path) -> Result<Process, Failure> {
        let log = folder.join(name).with_extension("log");
        let out = File::create(&log).doing(log.display())?;
        let err = out.try_clone().doing(log.display())?;
        self.0.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = self.0.spawn().doing(format_args!("starting {name}"))?;
        Ok(Process { name, log, child })
    }

    /// The command itself, for a child that is spoken to over its standard input and output.
    pub(super) fn into_command(self) -> Command {
        self.0
    }
}

/// A process of the run.
pub(super) struct Process {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Waits until `path` at `addr` is answered with 200.
    pub(super) fn wait_for(&self, addr: SocketAddr, path: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        let mut last = String::from("it never listened");
        while begun.elapsed() < START {
            match load::ask(addr, request.as_bytes()) {
                Ok((answer, _)) if answer.status == 200 => return Ok(()),
                Ok((_, text)) => last = text,
                Err(error) => last = error.to_string(),
            }
            thread::sleep(Duration::from_millis(20));
        }
        let doing = format!("waiting for {} to answer {path} at {addr}", self.name);
        Err(Failure::because(doing, format!("{last}\n{}", self.last_words())))
    }

    /// The processor time of the process and its children so far. `schedstat` counts nanoseconds, where `stat` has
    /// ticks of ten milliseconds.
    pub(super) fn time(&self) -> Result<Time, Failure> {
        // A thread's count is brought up to date when it stops running.
        thread::sleep(Duration::from_millis(5));
        tree_time(self.child.id()).doing(format_args!("metering {}", self.name))
    }

    /// The end of what it wrote, for the message of a failure.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{} wrote last:\n{}", self.name, lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

impl Drop for Process {
    /// Asked first: a program that was built to note what it does writes that down as it ends.
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let begun = Instant::now();
        while asked.is_ok() && begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the scheduler says of a process.
#[derive(Clone, Copy, Default)]
pub(super) struct Time {
    pub(super) ran_nanoseconds: u64,
    /// How long it was ready to run while something else had its core.
    pub(super) waited_nanoseconds: u64,
}

impl Time {
    pub(super) fn since(self, before: Time) -> Time {
        // A thread that ended takes its time with it, so the difference may fall below nothing.
        Time {
            ran_nanoseconds: self.ran_nanoseconds.saturating_sub(before.ran_nanoseconds),
            waited_nanoseconds: self.waited_nanoseconds.saturating_sub(before.waited_nanoseconds),
        }
    }

    fn add(&mut self, other: Time) {
        self.ran_nanoseconds += other.ran_nanoseconds;
        self.waited_nanoseconds += other.waited_nanoseconds;
    }

    fn parse(schedstat: &str) -> Time {
        let mut numbers = schedstat.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Time { ran_nanoseconds: next(), waited_nanoseconds: next() }
    }
}

fn tree_time(process: u32) -> std::io::Result<Time> {
    let mut sum = Time::default();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        // A thread that ended since the folder was read has nothing left to read.
        let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { continue };
        sum.add(Time::parse(&schedstat));
        for child in fs::read_to_string(task.join("children")).unwrap_or_default().split_whitespace() {
            sum.add(child.parse().map_or(Ok(Time::default()), tree_time)?);
        }
    }
    Ok(sum)
}

/// The processor time of the calling thread so far.
pub(super) fn thread_nanoseconds() -> std::io::Result<u64> {
    thread::sleep(Duration::from_millis(1));
    Ok(Time::parse(&fs::read_to_string("/proc/thread-self/schedstat")?).ran_nanoseconds)
}

/// Runs a command to its end and returns what it printed.
pub(super) fn output(command: &mut Command) -> Result<String, Failure> {
    let doing = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().doing(&doing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::because(doing, format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))))
}

/// Addresses that nothing listens on. All are taken before any is given back, so they differ.
pub(super) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], Failure> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut taken = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).doing("looking for a free port")?;
        *address = listener.local_addr().doing("looking for a free port")?;
        taken.push(listener);
    }
    Ok(addresses)
}
