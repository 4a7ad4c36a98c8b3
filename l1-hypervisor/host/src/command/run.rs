//! `run`: a guest, on a machine, to its end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exit_trace::canonical::{Canonical, Mode, Options as CanonicalOptions};
use exit_trace::event::Emitter;
use exit_trace::statistics::Statistics;
use exit_trace::symbols::SymbolTable;
use exit_trace::tree::Tree;
use l1_protocol::boot;
use l1_protocol::end::{EndReason, ExitStatus};
use thiserror::Error;
use tracing_subscriber::filter::LevelFilter;

use crate::built_in;
use crate::command::nested;
use crate::command_line::{Intercept, LookAheadChoice, MachineChoice, NestedProfile, RunArguments, ShadowingChoice, TraceChoice};
use crate::handover::{self, HandoverError};
use crate::loader::{self, GuestFormat, Initrd, LoadError, LoadOptions, LoadedGuest};
use crate::logging::{self, EventFormat};
use crate::machine::bochs::bare::{self, BareError};
use crate::machine::bochs::model::{self, MODELS, Model};
use crate::machine::bochs::{BochsMachine, INSTRUCTIONS_PER_SECOND};
use crate::machine::kvm::{self, KvmMachine};
use crate::machine::{MachineError, RunningMachine};
use crate::self_nesting::{self, Nesting};
use crate::session::input::Input;
use crate::session::sinks::{Sinks, Trace};
use crate::session::{self, Ending, RunResult, SessionError, report};

/// What L2's real-time clock shows on Bochs, so that runs repeat: 2001-09-09 01:46:40 UTC.
const BOCHS_WALL_CLOCK: u64 = 1_000_000_000;

/// Why a run did not even start, or could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no such guest.
    #[error("no built-in guest and no file is called {0:?}; `l1-hypervisor guests` lists the built-in ones")]
    NoGuest(String),
    /// A file cannot be read.
    #[error("cannot read {file}: {error}")]
    File {
        /// Its name.
        file: String,
        /// The operating system's answer.
        error: io::Error,
    },
    /// A file for output cannot be made.
    #[error("cannot write {file}: {error}")]
    OutputFile {
        /// Its name.
        file: String,
        /// The operating system's answer.
        error: io::Error,
    },
    /// The guest is invalid.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The guest and L1 do not fit together.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// There is no such processor model.
    #[error("Bochs has no processor model {name:?}; there are: {known}", known = MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(", "))]
    NoModel {
        /// What was asked for.
        name: String,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Usage(&'static str),
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// A guest of our own did not do what it must.
    #[error("the guest {guest:?} failed: {report}")]
    Guest {
        /// Which one.
        guest: String,
        /// How.
        report: String,
    },
    /// No machine.
    #[error("no usable machine: {0}")]
    NoMachine(String),
    /// The guest cannot run without L1.
    #[error(transparent)]
    Bare(#[from] BareError),
    /// The run.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl RunError {
    /// The exit status that this leads to.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::NoGuest(_)
            | Self::File { .. }
            | Self::OutputFile { .. }
            | Self::Load(_)
            | Self::Handover(HandoverError::Memory { .. })
            | Self::NoModel { .. }
            | Self::Bare(_)
            | Self::Usage(_) => ExitStatus::Usage,
            // Nobody reads what is written, or there is no room for it.
            Self::Session(SessionError::Output { .. }) => ExitStatus::Usage,
            Self::Interrupted => ExitStatus::Interrupted,
            Self::NoMachine(_) | Self::Session(SessionError::Machine(MachineError::Bochs(_))) => ExitStatus::NoMachine,
            Self::Handover(_) | Self::Session(_) | Self::Guest { .. } => ExitStatus::Bug,
        }
    }
}

/// The machine a run takes place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Bochs with this processor.
    Bochs(&'static Model),
    /// A KVM guest.
    Kvm,
}

impl Target {
    /// What the costs of exits are counted in.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bochs(_) => "instructions",
            Self::Kvm => "cycles",
        }
    }

    /// Name of the machine and of the processor.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Bochs(model) => ("bochs", model.name),
            Self::Kvm => ("kvm", "host"),
        }
    }
}

/// The bytes of everything that a guest is made of.
#[derive(Debug)]
struct GuestFiles {
    name: String,
    file: Vec<u8>,
    initrd: Option<(String, Vec<u8>)>,
    command_line: String,
}

/// Runs a guest as the command line says.
///
/// # Errors
/// [`RunError`].
pub fn run(arguments: &RunArguments) -> Result<ExitStatus, RunError> {
    let events = match arguments.trace {
        TraceChoice::Pretty => Some(EventFormat::Pretty),
        TraceChoice::Json => Some(EventFormat::Json),
        TraceChoice::Last | TraceChoice::Off | TraceChoice::Tree | TraceChoice::Canonical | TraceChoice::Observable => None,
    };
    let mut trace_file = arguments.trace_out.as_deref().map(create).transpose()?;
    if arguments.trace.mode() != boot::TRACE_STREAM && trace_file.is_some() {
        return Err(RunError::Usage("--trace-out needs --trace pretty, json, tree, canonical or observable"));
    }
    let event_file = if events.is_some() { trace_file.take() } else { None };
    let verbosity = if arguments.quiet { LevelFilter::ERROR } else { LevelFilter::INFO };
    let _complete = logging::start(verbosity, events, event_file).map_err(|error| RunError::OutputFile {
        file: "the event log (RUST_LOG is perhaps no valid filter)".to_owned(),
        error,
    })?;

    handover::check_memory(arguments.memory)?;
    // Before a machine is looked for: options that contradict each other do so everywhere.
    nested::profile(arguments)?;
    let files = read_files(arguments)?;
    let guest = load(arguments, &files)?;
    let target = choose_machine(arguments)?;
    // The guest hypervisors that are built in run functions of their own as L3.
    let symbols = if built_in::find(&arguments.guest).is_some() { symbols(&guest).with_nested_guests() } else { symbols(&guest) };
    let trace_output = || -> Box<dyn Write> {
        match trace_file {
            Some(file) => Box::new(BufWriter::new(file)),
            None => Box::new(io::stderr()),
        }
    };
    let trace = match arguments.trace {
        TraceChoice::Last | TraceChoice::Off => Trace::Off,
        TraceChoice::Pretty | TraceChoice::Json => Trace::Events(Emitter::new(symbols.clone())),
        TraceChoice::Tree => Trace::Tree(Some(Tree::new(symbols.clone(), trace_output()))),
        TraceChoice::Canonical | TraceChoice::Observable => {
            let mode = if arguments.trace == TraceChoice::Observable { Mode::Observable } else { Mode::Full };
            let options = CanonicalOptions { mode, ..canonical_options(&guest, symbols.clone()) };
            Trace::Canonical(Some(Canonical::new(options, trace_output())))
        }
    };
    let mut sinks = Sinks { console: Box::new(io::stdout()), trace, statistics: arguments.stats.then(Statistics::new) };
    let result = if arguments.bare {
        run_bare(target, &guest, &files.file, arguments, &mut sinks, Input::standard())?
    } else {
        run_on(target, arguments, &guest, &mut sinks, Input::standard())?
    };
    if let Some(statistics) = &sinks.statistics {
        eprint!("{}", statistics.report(target.unit()).to_table());
        eprint!("{}", report::exits_per_guest_exit(&result));
    }
    let status = result.exit_status();
    if status != ExitStatus::Success {
        eprint!("{}", report::full(&result, &symbols));
    } else if !arguments.quiet {
        eprintln!("{}", report::headline(&result));
    }
    Ok(status)
}

/// Runs a built-in guest on Bochs in L1's place.
pub(super) fn run_bare(
    target: Target,
    guest: &LoadedGuest<'_>,
    elf_file: &[u8],
    arguments: &RunArguments,
    sinks: &mut Sinks<'_>,
    input: Input,
) -> Result<RunResult, RunError> {
    let Target::Bochs(model) = target else { return Err(RunError::Usage("--bare is for Bochs only")) };
    let image = bare::prepare(guest, elf_file, arguments.memory)?;
    let mut machine = BochsMachine::start_bare(model, image).map_err(SessionError::from)?;
    let timeout = (!arguments.timeout.is_zero()).then_some(arguments.timeout);
    let mut result = session::run(&mut machine, sinks, input, timeout)?;
    // Nobody reports the guest's triple fault but Bochs, which ends with it.
    if result.ending == Ending::MachineDied && result.last_words.contains(bare::TRIPLE_FAULT) {
        result.ending = Ending::Reported(EndReason::TripleFault);
    }
    Ok(result)
}

/// Runs a guest that is loaded. The building block of `run`, `bench` and the tests.
///
/// # Errors
/// [`RunError`].
pub fn run_on(
    target: Target,
    arguments: &RunArguments,
    guest: &LoadedGuest<'_>,
    sinks: &mut Sinks<'_>,
    input: Input,
) -> Result<RunResult, RunError> {
    let inner_trace_mode = arguments.trace.mode();
    // Statistics are about exits that L1 takes, and each record of an inner hypervisor would cost it some.
    let options = options(target, arguments, if arguments.stats { boot::TRACE_STREAM } else { inner_trace_mode })?;
    let nesting = Nesting { depth: arguments.depth, inner_trace_mode };
    run_nested(target, &options, nesting, guest, sinks, input, arguments.timeout)
}

/// As [`run_on`], with one of `l1_protocol::boot::TRACE_…`.
///
/// # Errors
/// [`RunError`].
pub fn run_with_trace(
    target: Target,
    arguments: &RunArguments,
    guest: &LoadedGuest<'_>,
    sinks: &mut Sinks<'_>,
    input: Input,
    trace_mode: u32,
) -> Result<RunResult, RunError> {
    let nesting = Nesting { depth: arguments.depth, inner_trace_mode: trace_mode };
    run_nested(target, &options(target, arguments, trace_mode)?, nesting, guest, sinks, input, arguments.timeout)
}

/// What L1 is told for a run as `arguments` say.
///
/// # Errors
/// [`RunError`].
pub fn options(target: Target, arguments: &RunArguments, trace_mode: u32) -> Result<handover::Options, RunError> {
    let (machine_number, tsc_frequency, wall_clock) = match target {
        Target::Bochs(_) => (boot::MACHINE_BOCHS, INSTRUCTIONS_PER_SECOND, BOCHS_WALL_CLOCK),
        Target::Kvm => (boot::MACHINE_KVM, kvm::tsc_frequency().map_err(SessionError::from)?, now()),
    };
    Ok(handover::Options {
        machine: machine_number,
        trace_mode,
        shadowing: match arguments.shadowing {
            ShadowingChoice::Auto => boot::SHADOWING_AUTO,
            ShadowingChoice::Hardware => boot::SHADOWING_HARDWARE,
            ShadowingChoice::Software => boot::SHADOWING_SOFTWARE,
        },
        nested: nested::profile(arguments)?.map(NestedProfile::number),
        shadow_fields: arguments.shadow_fields.unwrap_or_default().number(),
        look_ahead: match (arguments.look_ahead, target) {
            (LookAheadChoice::On, _) | (LookAheadChoice::Auto, Target::Kvm) => boot::LOOK_AHEAD_ON,
            (LookAheadChoice::Off, _) | (LookAheadChoice::Auto, Target::Bochs(_)) => boot::LOOK_AHEAD_OFF,
        },
        intercepts: arguments.intercept.iter().copied().map(Intercept::bit).fold(0, |bits, bit| bits | bit),
        exception_intercepts: arguments.intercept_exceptions.iter().fold(0, |bits, vector| bits | 1 << vector),
        report_capabilities: boot::REPORT_NOTHING,
        oracle: None,
        guest_memory: arguments.memory,
        tsc_frequency,
        wall_clock,
    })
}

/// As [`run_on`], with what L1 is told in detail. A `timeout` of zero is none.
///
/// # Errors
/// [`RunError`].
pub fn run_with_options(
    target: Target,
    options: &handover::Options,
    guest: &LoadedGuest<'_>,
    sinks: &mut Sinks<'_>,
    input: Input,
    timeout: Duration,
) -> Result<RunResult, RunError> {
    run_nested(target, options, Nesting::NONE, guest, sinks, input, timeout)
}

/// As [`run_with_options`], in several hypervisors inside each other.
///
/// # Errors
/// [`RunError`].
pub fn run_nested(
    target: Target,
    options: &handover::Options,
    nesting: Nesting,
    guest: &LoadedGuest<'_>,
    sinks: &mut Sinks<'_>,
    input: Input,
    timeout: Duration,
) -> Result<RunResult, RunError> {
    let image = self_nesting::prepare(built_in::IMAGE, guest, options, nesting)?;
    let timeout = (!timeout.is_zero()).then_some(timeout);
    let mut machine: Box<dyn RunningMachine> = match target {
        Target::Bochs(model) => Box::new(BochsMachine::start(model, image).map_err(SessionError::from)?),
        Target::Kvm => Box::new(KvmMachine::start(image).map_err(SessionError::from)?),
    };
    Ok(session::run_nested(&mut *machine, sinks, input, timeout, nesting.depth)?)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(BOCHS_WALL_CLOCK, |time| time.as_secs())
}

fn create(path: &Path) -> Result<File, RunError> {
    File::create(path).map_err(|error| RunError::OutputFile { file: path.display().to_string(), error })
}

fn read(path: &Path) -> Result<Vec<u8>, RunError> {
    fs::read(path).map_err(|error| RunError::File { file: path.display().to_string(), error })
}

fn read_files(arguments: &RunArguments) -> Result<GuestFiles, RunError> {
    let name = arguments.guest.clone();
    let file = match built_in::find(&name) {
        Some(guest) => guest.elf.to_vec(),
        None if arguments.bare => {
            return Err(RunError::Usage("--bare needs the name of a built-in guest; `l1-hypervisor guests` lists them"));
        }
        None if Path::new(&name).exists() => read(Path::new(&name))?,
        None => return Err(RunError::NoGuest(name)),
    };
    let initrd = match &arguments.initrd {
        Some(path) => Some((path.display().to_string(), read(path)?)),
        None => None,
    };
    let words: Vec<&str> =
        arguments.append.as_deref().into_iter().chain(arguments.arguments.iter().map(String::as_str)).collect();
    Ok(GuestFiles { name, file, initrd, command_line: words.join(" ") })
}

fn load<'a>(arguments: &RunArguments, files: &'a GuestFiles) -> Result<LoadedGuest<'a>, RunError> {
    Ok(loader::load(
        &files.file,
        &LoadOptions {
            file_name: &files.name,
            memory_size: arguments.memory,
            command_line: &files.command_line,
            initrd: files.initrd.as_ref().map(|(file_name, bytes)| Initrd { file_name, bytes }),
            load_at: arguments.load_at,
        },
    )?)
}

/// The processor model of Bochs called `name`.
///
/// # Errors
/// [`RunError::NoModel`].
pub fn find_model(name: &str) -> Result<&'static Model, RunError> {
    model::find(name).ok_or_else(|| RunError::NoModel { name: name.to_owned() })
}

/// The machine for a run: what was asked for, or what is there.
///
/// # Errors
/// [`RunError`].
pub fn choose_machine(arguments: &RunArguments) -> Result<Target, RunError> {
    let model = |name: Option<&str>| find_model(name.unwrap_or(model::DEFAULT));
    let cpu = arguments.cpu.as_deref();
    match arguments.machine {
        MachineChoice::Kvm if arguments.bare => Err(RunError::Usage("--bare is for Bochs only")),
        MachineChoice::Auto if arguments.bare => model(cpu).map(Target::Bochs),
        MachineChoice::Kvm if cpu.is_some() => {
            Err(RunError::Usage("--cpu names a processor model of Bochs; on KVM the processor is the host's"))
        }
        MachineChoice::Kvm => kvm::check()
            .map(|()| Target::Kvm)
            .map_err(|problem| RunError::NoMachine(format!("{problem}; remedy: {}", problem.remedy()))),
        MachineChoice::Bochs => model(cpu).map(Target::Bochs),
        MachineChoice::Auto if cpu.is_some() => model(cpu).map(Target::Bochs),
        MachineChoice::Auto => match kvm::check() {
            Ok(()) => Ok(Target::Kvm),
            Err(_) => model(None).map(Target::Bochs),
        },
    }
}

/// The guest's functions.
#[must_use]
pub fn symbols(guest: &LoadedGuest<'_>) -> SymbolTable {
    SymbolTable::new(guest.symbols.iter().map(|symbol| (symbol.address, symbol.size, symbol.name.clone())))
}

/// How canonical text names places in this guest. Linux moves its code while it starts, so there only what its symbols
/// tell could be said.
#[must_use]
pub fn canonical_options(guest: &LoadedGuest<'_>, symbols: SymbolTable) -> CanonicalOptions {
    let load_base = (guest.format != GuestFormat::Linux).then_some(guest.load_base);
    CanonicalOptions { symbols, load_base, mode: Mode::Full }
}
