//! The command line.

pub mod explain;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::duration::{DurationError, parse_duration};
use crate::self_nesting::Nesting;
use crate::size::{SizeError, parse_size};

/// Runs L2 guests in the L1 hypervisor and shows every VM exit.
#[derive(Debug, Parser)]
#[command(name = "l1-hypervisor", version, about, after_help = EXIT_STATUS)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown below the help.
const EXIT_STATUS: &str = "\
Exit status:
  0    the guest succeeded
  1    the guest reported failure
  2    wrong usage, or a guest file that cannot be read or is invalid
  3    the guest crashed (triple fault, failed VM entry, unhandled exit, halted for ever)
  4    the guest did not end in time
  5    a bug in L1 or in this program
  69   no usable machine
  130  interrupted";

/// The commands.
#[allow(clippy::large_enum_variant, reason = "there is one value in a process")]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a guest: a built-in one by name, or a file (ELF64, Multiboot 1, Linux bzImage, flat binary)
    Run(RunArguments),
    /// List the built-in guests
    Guests,
    /// Say which machines can be used here, and what to do about those that cannot
    Doctor(DoctorArguments),
    /// Count what exits cost
    Bench(BenchArguments),
    /// Say what an exit reason, a VMCS field, a word of controls, an error or a VMCS dump means
    Explain(explain::ExplainArguments),
    /// Try near-valid VM entries on a processor of Bochs and compare it with the library's checks
    Oracle(OracleArguments),
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Name of a built-in guest, or a file
    pub guest: String,
    /// Arguments for the guest (its command line); those that begin with a hyphen come after `--`
    pub arguments: Vec<String>,
    /// Machine that L1 boots on
    #[arg(long, value_enum, default_value_t, env = "L1_MACHINE")]
    pub machine: MachineChoice,
    /// Processor model of Bochs (haswell, ivy-bridge, sandy-bridge, skylake-x, …)
    #[arg(long, value_name = "MODEL", env = "L1_CPU")]
    pub cpu: Option<String>,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub memory: u64,
    /// How VMREAD and VMWRITE of a guest hypervisor are served
    #[arg(long, value_enum, default_value_t)]
    pub shadowing: ShadowingChoice,
    /// Whether the guest has VMX, so that it can be a hypervisor itself
    #[arg(long, value_enum, default_value_t)]
    pub nested: NestedChoice,
    /// What VMX the guest sees [default: full]
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub nested_caps: Option<NestedProfile>,
    /// Which VMCS fields hardware shadowing serves [default: hot]
    #[arg(long, value_enum, value_name = "FIELDS")]
    pub shadow_fields: Option<ShadowFields>,
    /// Whether L1, where VMREAD and VMWRITE exit and no records are made, executes the instructions from one to the next itself
    #[arg(long, value_enum, default_value_t)]
    pub look_ahead: LookAheadChoice,
    /// How many hypervisors there are inside each other: with 2, L1 hosts itself as L2, and that the guest as L3
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(Nesting::DEPTH_MAXIMUM)))]
    pub depth: u8,
    /// Run a built-in guest on Bochs itself, without L1: the processor alone judges what the guest does
    #[arg(long, conflicts_with_all = ["trace", "trace_out", "stats", "shadowing", "intercept", "intercept_exceptions", "depth"])]
    pub bare: bool,
    /// What to do with exit records
    #[arg(long, value_enum, default_value_t)]
    pub trace: TraceChoice,
    /// File for the trace, instead of standard error
    #[arg(long, value_name = "FILE")]
    pub trace_out: Option<PathBuf>,
    /// Print a table of exits at the end
    #[arg(long)]
    pub stats: bool,
    /// Also take these exits, which L1 does not need (comma-separated)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "EXIT")]
    pub intercept: Vec<Intercept>,
    /// Also take exits for these exceptions, by vector (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "VECTOR", value_parser = clap::value_parser!(u8).range(0..32))]
    pub intercept_exceptions: Vec<u8>,
    /// End the run after this time (0s for never)
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub timeout: Duration,
    /// Linux and Multiboot: file to load as initial RAM disk or module
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Linux: kernel command line (more can be given as guest arguments)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Flat binary: address to load at (real mode, default 0x7c00)
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub load_at: Option<u64>,
    /// Print nothing but the guest's output and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Default for RunArguments {
    /// What the command line gives without options.
    fn default() -> Self {
        Self {
            guest: String::new(),
            arguments: Vec::new(),
            machine: MachineChoice::default(),
            cpu: None,
            memory: MEMORY,
            shadowing: ShadowingChoice::default(),
            nested: NestedChoice::default(),
            nested_caps: None,
            shadow_fields: None,
            look_ahead: LookAheadChoice::default(),
            depth: 1,
            bare: false,
            trace: TraceChoice::default(),
            trace_out: None,
            stats: false,
            intercept: Vec::new(),
            intercept_exceptions: Vec::new(),
            timeout: TIMEOUT,
            initrd: None,
            append: None,
            load_at: None,
            quiet: false,
        }
    }
}

/// The guest's memory unless the user says otherwise, in bytes.
const MEMORY: u64 = 256 << 20;
/// The time limit unless the user says otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArguments {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also say what L1 would find on this processor model of Bochs
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Say instead everything about VMX that L1 finds: on the model --cpu names, or on the machine that auto chooses
    #[arg(long)]
    pub vmx: bool,
    /// Say instead what VMX a guest gets, beside what the processor has: as for --vmx
    #[arg(long, conflicts_with = "vmx")]
    pub nested: bool,
    /// What VMX the guest sees [default: full]
    #[arg(long, value_enum, value_name = "PROFILE", requires = "nested")]
    pub nested_caps: Option<NestedProfile>,
    /// Say instead how VMX differs between two of: kvm, bochs, processor models of Bochs, saved output of --vmx --json
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["cpu", "vmx", "nested"])]
    pub diff: Option<Vec<String>>,
}

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArguments {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Processor model of Bochs
    #[arg(long, value_name = "MODEL", default_value = crate::machine::bochs::model::DEFAULT)]
    pub cpu: String,
}

/// Arguments of `oracle`.
#[derive(Debug, Clone, Args)]
pub struct OracleArguments {
    /// Processor model of Bochs
    #[arg(long, value_name = "MODEL", default_value = crate::machine::bochs::model::DEFAULT)]
    pub cpu: String,
    /// How many states to try
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub cases: u64,
    /// Number of the first state: to try one again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first: u64,
    /// What the states are derived from
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also list the rules that decided no case
    #[arg(long)]
    pub verbose: bool,
}

/// The machine that L1 boots on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MachineChoice {
    /// KVM where it offers VMX, else Bochs; Bochs if a processor model is named
    #[default]
    Auto,
    /// Bochs, the CPU emulator
    Bochs,
    /// A KVM guest
    Kvm,
}

/// How VMREAD and VMWRITE of a guest hypervisor are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ShadowingChoice {
    /// By the CPU where it offers VMCS shadowing
    #[default]
    Auto,
    /// By the CPU
    Hardware,
    /// Each one exits
    Software,
}

/// Whether the guest has VMX.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum NestedChoice {
    /// Built-in guests whose names begin with nested- have it
    #[default]
    Auto,
    /// It has
    On,
    /// It has not
    Off,
}

/// What VMX a guest sees, of what L1 can give on the processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum NestedProfile {
    /// Everything
    #[default]
    Full,
    /// No EPT, and so no unrestricted guest
    NoEpt,
    /// No unrestricted guest
    NoUnrestrictedGuest,
    /// No VPIDs
    NoVpid,
    /// About what the first processors with VMX had
    Minimal,
}

impl NestedProfile {
    /// Its number in the boot information.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Full => l1_protocol::boot::NESTED_PROFILE_FULL,
            Self::NoEpt => l1_protocol::boot::NESTED_PROFILE_NO_EPT,
            Self::NoUnrestrictedGuest => l1_protocol::boot::NESTED_PROFILE_NO_UNRESTRICTED_GUEST,
            Self::NoVpid => l1_protocol::boot::NESTED_PROFILE_NO_VPID,
            Self::Minimal => l1_protocol::boot::NESTED_PROFILE_MINIMAL,
        }
    }
}

/// Which VMCS fields of a guest hypervisor the hardware shadow VMCS serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ShadowFields {
    /// Those that guest hypervisors access at most exits
    #[default]
    Hot,
    /// Every one that it can
    All,
    /// None: each VMREAD and VMWRITE exits
    None,
}

impl ShadowFields {
    /// Its number in the boot information.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Hot => l1_protocol::boot::SHADOW_FIELDS_HOT,
            Self::All => l1_protocol::boot::SHADOW_FIELDS_ALL,
            Self::None => l1_protocol::boot::SHADOW_FIELDS_NONE,
        }
    }
}

/// Whether L1 executes what follows a VMREAD or VMWRITE that has exited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LookAheadChoice {
    /// In a KVM guest, where an exit costs more
    #[default]
    Auto,
    /// It does
    On,
    /// It does not
    Off,
}

/// What to do with exit records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TraceChoice {
    /// Keep the last ones, for the report of a run that ends badly
    #[default]
    Last,
    /// Make none: the cheapest way to run
    Off,
    /// A line an exit
    Pretty,
    /// A JSON object an exit
    Json,
    /// A tree an exit of a nested guest, for people
    Tree,
    /// Text that does not vary from run to run, for snapshots
    Canonical,
    /// Canonical text of what the guests can observe, the same with and without hardware VMCS shadowing
    Observable,
}

impl TraceChoice {
    /// What L1 does for it, one of `l1_protocol::boot::TRACE_…`.
    #[must_use]
    pub const fn mode(self) -> u32 {
        match self {
            Self::Off => l1_protocol::boot::TRACE_OFF,
            Self::Last => l1_protocol::boot::TRACE_RECORDER,
            Self::Pretty | Self::Json | Self::Tree | Self::Canonical | Self::Observable => l1_protocol::boot::TRACE_STREAM,
        }
    }
}

/// An exit that L1 does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Intercept {
    Rdtsc,
    Pause,
    MovDr,
    Cr3,
    Invlpg,
    Rdrand,
    Rdseed,
}

impl Intercept {
    /// Its bit in the boot information.
    #[must_use]
    pub const fn bit(self) -> u32 {
        match self {
            Self::Rdtsc => l1_protocol::boot::INTERCEPT_RDTSC,
            Self::Pause => l1_protocol::boot::INTERCEPT_PAUSE,
            Self::MovDr => l1_protocol::boot::INTERCEPT_MOV_DR,
            Self::Cr3 => l1_protocol::boot::INTERCEPT_CR3,
            Self::Invlpg => l1_protocol::boot::INTERCEPT_INVLPG,
            Self::Rdrand => l1_protocol::boot::INTERCEPT_RDRAND,
            Self::Rdseed => l1_protocol::boot::INTERCEPT_RDSEED,
        }
    }
}

fn size(text: &str) -> Result<u64, SizeError> {
    parse_size(text)
}

fn duration(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text)
}

fn address(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?} is not an address: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn addresses() {
        assert_eq!(address("0x7c00"), Ok(0x7c00));
        assert_eq!(address("31744"), Ok(0x7c00));
        assert!(address("0xzz").is_err());
    }
}
