//! Task switches always exit and L1 does not perform them: no guest of today uses hardware tasks. The run ends and the
//! record says what was attempted.

use l1_protocol::end::EndReason;

use super::Action;
use super::information::Exit;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Ends the run.
pub fn handle<P: Platform>(vcpu: &mut Vcpu<'_, P>, exit: &mut Exit) -> Action {
    let _ = exit.qualification(&mut vcpu.platform);
    Action::stop(EndReason::UnhandledExit, u64::from(exit.reason.0), "a task switch, which L1 does not perform")
}
