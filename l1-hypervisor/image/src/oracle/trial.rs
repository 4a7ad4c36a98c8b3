//! One case: the state into the VMCS, VMLAUNCH, and what the processor said.

use alloc::vec::Vec;

use l1_oracle::{Generator, Machine, machine};
use l1_protocol::oracle::{ENTERED, ENTRY_FAILED, FAIL_INVALID, FAIL_VALID, Verdict};
use vmcs::access::VmcsAccess as _;
use vmcs::capability::Capabilities;
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::field::{FIELDS, Field, FieldInformation, Kind};
use vmcs::software::SoftwareVmcs;

use super::{OracleError, memory};
use crate::context::Context;
use crate::hardware::vmx_state::CurrentVmcs;
use crate::platform::{EntryFailure, Platform as _};

/// Bit 31 of the exit reason: the exit is that of a failed entry.
const ENTRY_FAILURE: u32 = 1 << 31;

/// What goes from case to case.
#[derive(Debug)]
pub struct Trial {
    vmcs: CurrentVmcs,
    machine: Machine,
    revision: u32,
    /// The fields that there are, and whether an exit writes them.
    fields: Vec<(&'static FieldInformation, bool)>,
    /// What was written last.
    written: SoftwareVmcs,
    /// The state of the case.
    state: SoftwareVmcs,
    /// An exit has overwritten fields since.
    stale: bool,
}

/// Whether a VM exit writes the field: guest state, "IA-32e mode guest", the valid bit of the event.
fn is_written_by_exits(row: &FieldInformation) -> bool {
    row.kind == Kind::Guest || matches!(row.field, Field::VM_ENTRY_CONTROLS | Field::VM_ENTRY_INTERRUPTION_INFORMATION)
}

impl Trial {
    /// Writes zero to every field that there is, so that the VMCS is what `written` says.
    pub fn new(mut vmcs: CurrentVmcs, machine: &Machine, capabilities: &Capabilities) -> Self {
        let rows = FIELDS.iter().filter(|row| machine::is_written(row, capabilities));
        let fields: Vec<_> = rows.map(|row| (row, is_written_by_exits(row))).collect();
        for (row, _) in &fields {
            vmcs.write(row.field, 0);
        }
        Self {
            vmcs,
            machine: *machine,
            revision: capabilities.basic().vmcs_revision_identifier(),
            fields,
            written: SoftwareVmcs::new(),
            state: SoftwareVmcs::new(),
            stale: false,
        }
    }

    /// Tries one case.
    ///
    /// # Safety
    /// HOST_RSP in the generator's states must be the address of `context`, and the host state L1's.
    pub unsafe fn run(&mut self, generator: &Generator, case: u64, context: &mut Context) -> Result<Verdict, OracleError> {
        generator.generate(case, &mut self.state);
        for &(row, exits_write) in &self.fields {
            let value = self.state.get(row.field);
            if value != self.written.get(row.field) || (self.stale && exits_write) {
                self.vmcs.write(row.field, value);
                self.written.set(row.field, value);
            }
        }
        self.stale = false;
        context.general = [0; 16];
        match self.vmcs.enter(context) {
            Err(EntryFailure::Invalid) => Ok(Verdict { case, kind: FAIL_INVALID, ..Verdict::default() }),
            Err(EntryFailure::Valid(number)) => Ok(Verdict { case, kind: FAIL_VALID, number, ..Verdict::default() }),
            Ok(()) => self.after_exit(case),
        }
    }

    fn after_exit(&mut self, case: u64) -> Result<Verdict, OracleError> {
        self.stale = true;
        let reason = ExitReason(self.vmcs.read(Field::EXIT_REASON) as u32);
        let qualification = self.vmcs.read(Field::EXIT_QUALIFICATION);
        // SAFETY: the region is the one that the VMCS was loaded from.
        unsafe { self.vmcs.clear(self.machine.vmcs)? };
        let basic = reason.basic();
        let number = basic.0.into();
        if reason.0 & ENTRY_FAILURE == 0 {
            memory::restore(&self.machine, self.revision);
            return Ok(Verdict { case, kind: ENTERED, number, qualification: 0 });
        }
        match basic {
            BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE | BasicExitReason::ENTRY_FAILURE_MSR_LOADING => {
                Ok(Verdict { case, kind: ENTRY_FAILED, number, qualification })
            }
            _ => Err(OracleError::Reason { case, reason: reason.0 }),
        }
    }
}
