//! The VMCS fields that KVM's VMX has, against those that its capability MSRs promise.
//!
//! What always holds: a disagreement that no entry of [`DEVIATIONS`] names fails, and so does an entry that KVM no longer
//! needs. The entries are explained in docs/deviations.md, in the section [`SECTION`].

use std::fmt::Write as _;

use libtest_mimic::Failed;
use serde_json::Value;
use vmcs::entry_check::GROUPS;
use vmcs::field::Field;

/// Name of the job and of its test.
pub const NAME: &str = "doctor --vmx";
/// Arguments of the program. In the lab there is no Bochs: `auto` chooses KVM.
pub const ARGUMENTS: &[&str] = &["doctor", "--vmx", "--json"];
/// Heading of the section in docs/deviations.md.
const SECTION: &str = "VMCS fields of KVM that its capability MSRs do not promise, and the other way round";

/// A field about which KVM's capability MSRs and its VMREAD disagree.
struct Deviation {
    field: Field,
    side: Side,
    /// The processor models on which they disagree.
    models: &'static [&'static str],
}

/// Which way they disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The capability MSRs promise the field, and VMREAD does not take it.
    Missing,
    /// VMREAD takes the field although the capability MSRs do not promise it.
    Unexpected,
}

impl Side {
    /// Name of the list in the report.
    const fn list(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
        }
    }
}

const BOTH: &[&str] = &["haswell", "ivy-bridge"];
/// Haswell has the control, and then KVM offers it.
const IVY_BRIDGE: &[&str] = &["ivy-bridge"];

const fn missing(field: Field) -> Deviation {
    Deviation { field, side: Side::Missing, models: BOTH }
}

const fn unexpected(field: Field, models: &'static [&'static str]) -> Deviation {
    Deviation { field, side: Side::Unexpected, models }
}

const DEVIATIONS: &[Deviation] = &[
    missing(Field::EXECUTIVE_VMCS_POINTER),
    missing(Field::GUEST_SMBASE),
    missing(Field::IO_RCX),
    missing(Field::IO_RSI),
    missing(Field::IO_RDI),
    missing(Field::IO_RIP),
    unexpected(Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR, BOTH),
    unexpected(Field::GUEST_INTERRUPT_STATUS, IVY_BRIDGE),
    unexpected(Field::PML_INDEX, IVY_BRIDGE),
    unexpected(Field::PML_ADDRESS, IVY_BRIDGE),
    unexpected(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, BOTH),
    unexpected(Field::VM_FUNCTION_CONTROLS, IVY_BRIDGE),
    unexpected(Field::EOI_EXIT_BITMAP_0, IVY_BRIDGE),
    unexpected(Field::EOI_EXIT_BITMAP_1, IVY_BRIDGE),
    unexpected(Field::EOI_EXIT_BITMAP_2, IVY_BRIDGE),
    unexpected(Field::EOI_EXIT_BITMAP_3, IVY_BRIDGE),
    unexpected(Field::EPTP_LIST_ADDRESS, IVY_BRIDGE),
    unexpected(Field::XSS_EXITING_BITMAP, BOTH),
    unexpected(Field::ENCLS_EXITING_BITMAP, BOTH),
    unexpected(Field::TSC_MULTIPLIER, BOTH),
    unexpected(Field::GUEST_IA32_BNDCFGS, BOTH),
];

/// Every deviation stands in docs/deviations.md by its name.
pub fn check_documentation() -> Result<(), Failed> {
    let text = include_str!("../../../docs/deviations.md");
    let section = text.split("\n### ").find(|section| section.starts_with(SECTION));
    let section = section.ok_or_else(|| format!("docs/deviations.md has no section {SECTION:?}"))?;
    let missing = DEVIATIONS.iter().find(|deviation| !section.contains(&deviation.field.to_string()));
    missing.map_or(Ok(()), |deviation| Err(format!("the section {SECTION:?} does not name {}", deviation.field).into()))
}

/// L1 reads what the rules of VM entry look at when an entry has failed, and trusts the capability MSRs for that.
pub fn check_rules() -> Result<(), Failed> {
    let rules = GROUPS.iter().flat_map(|group| group.rules);
    let mut read = rules.flat_map(|rule| rule.fields.iter().copied());
    let absent: Vec<Field> = DEVIATIONS.iter().filter(|row| row.side == Side::Missing).map(|row| row.field).collect();
    match read.find(|field| absent.contains(field)) {
        Some(field) => Err(format!("a rule of VM entry reads {field}, which KVM promises and does not have").into()),
        None => Ok(()),
    }
}

/// Compares a report from KVM on the processor `model` with what is known.
pub fn compare(model: &str, json: &[u8]) -> Result<(), Failed> {
    let report: Value = serde_json::from_slice(json)?;
    let capabilities = &report["capabilities"];
    if capabilities["machine"] != "kvm" {
        return Err(format!("this is a report about the machine {}", capabilities["machine"]).into());
    }
    let mut text = String::new();
    for side in [Side::Missing, Side::Unexpected] {
        let rows = capabilities["fields"][side.list()].as_array().ok_or("VMREAD was not tried")?;
        let found: Vec<Field> = rows.iter().map(encoding).collect::<Result<_, _>>()?;
        let here = DEVIATIONS.iter().filter(|row| row.side == side && row.models.contains(&model));
        let known: Vec<Field> = here.map(|row| row.field).collect();
        let news: Vec<_> = found.iter().filter(|field| !known.contains(&field.full())).collect();
        let gone: Vec<_> = known.iter().filter(|field| !found.contains(field)).collect();
        if !news.is_empty() || !gone.is_empty() {
            let _ = writeln!(text, "{}: not known: {news:?}; no longer needed: {gone:?}", side.list());
        }
    }
    if text.is_empty() { Ok(()) } else { Err(text.into()) }
}

fn encoding(row: &Value) -> Result<Field, Failed> {
    let text = row["encoding"].as_str().ok_or("a field without an encoding")?;
    Ok(Field(u32::from_str_radix(text.trim_start_matches("0x"), 16)?))
}
