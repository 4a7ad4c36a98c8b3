//! The command line of `explain`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::command::explain::number::{NumberError, parse_number};

/// Shown below the help of `explain`.
const EXIT_STATUS: &str = "\
Exit status:
  0    explained; for `vmcs`: no rule of VM entry is broken, as far as could be checked
  1    `vmcs` only: some rule is broken
  2    wrong usage, or input that cannot be read or in which nothing is recognised";

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_STATUS)]
pub struct ExplainArguments {
    /// What to explain.
    #[command(subcommand)]
    pub subject: Subject,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be explained.
#[derive(Debug, Clone, Subcommand)]
pub enum Subject {
    /// An exit reason: 0x80000021, 48, EPT_VIOLATION, with what the exit's other fields say
    Exit(ExitArguments),
    /// A VMCS field: 0x681e, GUEST_RIP
    Field(FieldArguments),
    /// A word of VMX controls, bit by bit
    Control(ControlArguments),
    /// A VM-instruction error number, as VM_INSTRUCTION_ERROR holds it
    Error(ErrorArguments),
    /// A dump of a VMCS: which rules of VM entry it breaks, then the whole state in words
    #[command(after_help = EXIT_STATUS)]
    Vmcs(VmcsArguments),
}

/// Arguments of `explain exit`.
#[derive(Debug, Clone, Args)]
pub struct ExitArguments {
    /// The exit-reason field or a name
    #[arg(value_name = "REASON")]
    pub reason: String,
    /// Value of EXIT_QUALIFICATION
    #[arg(long, value_name = "N", value_parser = number)]
    pub qualification: Option<u64>,
    /// Value of VM_EXIT_INSTRUCTION_INFORMATION
    #[arg(long, value_name = "N", value_parser = number)]
    pub instruction_information: Option<u64>,
    /// Value of VM_EXIT_INTERRUPTION_INFORMATION
    #[arg(long, value_name = "N", value_parser = number)]
    pub interruption_information: Option<u64>,
}

/// Arguments of `explain field`.
#[derive(Debug, Clone, Args)]
pub struct FieldArguments {
    /// The encoding or a name
    #[arg(value_name = "FIELD")]
    pub field: String,
}

/// Arguments of `explain control`.
#[derive(Debug, Clone, Args)]
pub struct ControlArguments {
    /// Which word
    #[arg(value_enum, value_name = "WORD")]
    pub word: ControlWord,
    /// Its value
    #[arg(value_name = "VALUE", value_parser = number)]
    pub value: u64,
    /// Value of the capability MSR that tells which bits may and must be 1, as one number of 64 bits
    #[arg(long, value_name = "MSR-VALUE", value_parser = number)]
    pub capability: Option<u64>,
}

/// A word of controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ControlWord {
    /// Pin-based VM-execution controls
    Pin,
    /// Primary processor-based VM-execution controls
    Proc,
    /// Secondary processor-based VM-execution controls
    Proc2,
    /// Tertiary processor-based VM-execution controls
    Proc3,
    /// Primary VM-exit controls
    Exit,
    /// Secondary VM-exit controls
    Exit2,
    /// VM-entry controls
    Entry,
    /// VM-function controls
    Vmfunc,
}

/// Arguments of `explain error`.
#[derive(Debug, Clone, Args)]
pub struct ErrorArguments {
    /// The number or a name
    #[arg(value_name = "ERROR")]
    pub error: String,
}

/// Arguments of `explain vmcs`.
#[derive(Debug, Clone, Args)]
pub struct VmcsArguments {
    /// The dump: what KVM's dump_vmcs() wrote to the kernel log, or JSON; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// JSON file with the capability MSRs of the processor (0x480 to 0x493), if the dump has none
    #[arg(long, value_name = "FILE")]
    pub capabilities: Option<PathBuf>,
    /// Physical-address width of the processor, if the dump doesn't say
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(32..=52))]
    pub physical_address_width: Option<u32>,
}

fn number(text: &str) -> Result<u64, NumberError> {
    parse_number(text)
}
