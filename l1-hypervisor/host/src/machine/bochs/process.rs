//! A Bochs process: its files, its terminal, its end.
//!
//! What always holds: Bochs listens on no network (its text display runs on a pseudo terminal that we open), all its
//! files lie in one temporary folder that is removed when [`Process`] is dropped, and the process does not outlive us.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tempfile::TempDir;
use thiserror::Error;

/// Debian's name of the emulator itself (`bochs` is a script around it).
pub const PROGRAM: &str = "bochs-bin";

/// Triple faults of guests that a run may have before the debugger ends it.
const TRIPLE_FAULTS: usize = 10_000;

/// What to start.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Bochs's name of the processor model.
    pub cpu_model: &'static str,
    /// Emulated instructions in a second of emulated time.
    pub instructions_per_second: u64,
    /// Memory of the machine, in MiB.
    pub memory: u64,
    /// The ROM that ends at 4 GiB.
    pub rom: Vec<u8>,
    /// Physical address of the RAM image.
    pub ram_image_address: u64,
    /// Pieces of the RAM image: offset and bytes; gaps are zero.
    pub ram_image: Vec<(u64, Vec<u8>)>,
    /// Whether the machine has a first serial line connected to [`Process::serial`].
    pub serial: bool,
}

/// Why Bochs could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The program is not there.
    #[error("{PROGRAM} is not installed; remedy: apt-get install bochs bochs-term")]
    NotInstalled,
    /// A file, terminal or process could not be made.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The operating system's answer.
        error: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |error| StartError::System { what, error: error.into() }
}

/// Whether Bochs and its text display are there.
///
/// # Errors
/// [`StartError::NotInstalled`].
pub fn is_installed() -> Result<(), StartError> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(PROGRAM).is_file());
    if found { Ok(()) } else { Err(StartError::NotInstalled) }
}

/// A running Bochs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: TempDir,
    output: fs::File,
    serial: Option<Terminal>,
}

/// A pseudo terminal in raw mode. The slave side is kept open: without it, the master reports the end of file while
/// Bochs has not opened its side yet.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    fn open() -> Result<Self, StartError> {
        let pair = openpty(None, None).map_err(system("open a pseudo terminal"))?;
        // Neither side may reach Bochs but as what it is given: it would hold its own terminal open.
        for descriptor in [&pair.master, &pair.slave] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(system("set a terminal to close on exec"))?;
        }
        let mut settings = tcgetattr(&pair.slave).map_err(system("read the terminal's settings"))?;
        cfmakeraw(&mut settings);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &settings).map_err(system("set the terminal to raw mode"))?;
        Ok(Self { master: pair.master, slave: pair.slave })
    }

    fn slave_path(&self) -> Result<PathBuf, StartError> {
        fs::read_link(format!("/proc/self/fd/{}", self.slave.as_raw_fd())).map_err(system("find the terminal's name"))
    }

    fn slave_stdio(&self) -> Result<Stdio, StartError> {
        Ok(Stdio::from(self.slave.try_clone().map_err(system("duplicate the terminal"))?))
    }
}

impl Process {
    /// Starts Bochs.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(configuration: &Configuration) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("l1-hypervisor-").tempdir().map_err(system("make a temporary folder"))?;
        let serial = if configuration.serial { Some(Terminal::open()?) } else { None };
        let serial_path = serial.as_ref().map(Terminal::slave_path).transpose()?;
        write_files(folder.path(), configuration, serial_path.as_deref())?;

        let terminal = Terminal::open()?;
        let errors = fs::File::create(folder.path().join("stderr.txt")).map_err(system("make Bochs's error file"))?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["-q", "-f", "bochsrc.txt", "-rc", "debugger.txt"])
            .current_dir(folder.path())
            // A display that every terminal database has; nothing is drawn, as no video BIOS switches the screen on.
            .env("TERM", "linux")
            .stdin(terminal.slave_stdio()?)
            .stdout(terminal.slave_stdio()?)
            .stderr(errors)
            // A Ctrl-C is for us alone: it would stop Bochs before L1 can report.
            .process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StartError::NotInstalled,
            _ => StartError::System { what: "start Bochs", error },
        })?;
        // Our slave side is closed here, so that the master reports the end of file when Bochs is gone.
        let output = fs::File::from(terminal.master);
        Ok(Self { child, folder, output, serial })
    }

    /// What Bochs prints, the machine's debug console included. Readable until Bochs has ended.
    #[must_use]
    pub fn output(&self) -> &fs::File {
        &self.output
    }

    /// Writes to the machine's first serial line as much as fits at once and returns how much that was.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write_serial(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.serial {
            Some(terminal) => Ok(nix::unistd::write(terminal.master.as_fd(), bytes)?),
            None => Ok(bytes.len()),
        }
    }

    /// Whether Bochs has ended by itself, and how.
    ///
    /// # Errors
    /// The operating system's.
    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of Bochs's log and of its error output, for a message about a Bochs that ended unasked.
    #[must_use]
    pub fn last_words(&self) -> String {
        let mut lines = Vec::new();
        for name in ["bochs.log", "stderr.txt"] {
            let mut text = Vec::new();
            if fs::File::open(self.folder.path().join(name)).and_then(|mut file| file.read_to_end(&mut text)).is_ok() {
                let text = String::from_utf8_lossy(&text).into_owned();
                let all: Vec<&str> = text.lines().filter(|line| !line.contains("ALSA") && !line.trim().is_empty()).collect();
                lines.extend(all[all.len().saturating_sub(8)..].iter().map(|line| format!("{name}: {line}")));
            }
        }
        lines.join("\n")
    }

    /// Ends Bochs if it still runs, and waits for it.
    pub fn end(&mut self) {
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_files(folder: &Path, configuration: &Configuration, serial: Option<&Path>) -> Result<(), StartError> {
    use std::os::unix::fs::FileExt;
    fs::write(folder.join("rom.bin"), &configuration.rom).map_err(system("write the reset ROM"))?;
    let image = fs::File::create(folder.join("ram.bin")).map_err(system("make the RAM image"))?;
    for (offset, bytes) in &configuration.ram_image {
        image.write_all_at(bytes, *offset).map_err(system("write the RAM image"))?;
    }
    fs::write(folder.join("bochsrc.txt"), bochsrc(configuration, serial)).map_err(system("write Bochs's configuration"))?;
    // The debugger stops at every triple fault, even one that becomes a VM exit, and has to be told to go on.
    let commands = "continue\n".repeat(TRIPLE_FAULTS) + "quit\n";
    fs::write(folder.join("debugger.txt"), commands).map_err(system("write Bochs's commands"))
}

/// Bochs's configuration file. `clock: sync=none` with a fixed start makes runs repeat to the instruction.
fn bochsrc(configuration: &Configuration, serial: Option<&Path>) -> String {
    let Configuration { cpu_model, instructions_per_second, memory, ram_image_address, .. } = configuration;
    // Memory of the machine is taken from this much as it is touched; Bochs takes no larger number here.
    let host_memory = memory.min(&2048);
    let mut text = format!(
        "memory: guest={memory}, host={host_memory}\n\
         romimage: file=rom.bin\n\
         optramimage1: file=ram.bin, address={ram_image_address:#x}\n\
         cpu: model={cpu_model}, count=1, ips={instructions_per_second}, reset_on_triple_fault=0\n\
         clock: sync=none, time0=1000000000\n\
         port_e9_hack: enabled=1\n\
         plugin_ctrl: speaker=0\n\
         display_library: term\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         log: bochs.log\n"
    );
    if let Some(path) = serial {
        text.push_str(&format!("com1: enabled=1, mode=term, dev={}\n", path.display()));
    }
    text
}

/// A Bochs whose parent is gone would run for ever.
#[expect(unsafe_code, reason = "code between fork and exec")]
fn end_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only async-signal-safe functions are called: prctl and getppid.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::Error::other("parent is gone")) }
        });
    }
}
