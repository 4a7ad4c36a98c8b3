//! The guest's clock, and when L1 must look at its devices and at the host.

use l1_protocol::end::EndReason;
use vmcs::field::Field;

use super::Vcpu;
use crate::exit::{End, EndText};
use crate::platform::Platform;

/// How often L1 looks at least whether the host wants something, in parts of a second.
pub(super) const HOST_POLLS_PER_SECOND: u64 = 20;
/// How often it looks while input comes.
const INPUT_POLLS_PER_SECOND: u64 = 1000;

impl<P: Platform> Vcpu<'_, P> {
    /// Nanoseconds since the guest started.
    pub fn now(&mut self) -> u64 {
        let counter = self.platform.time_stamp_counter();
        self.clock.nanoseconds(counter)
    }

    /// WRMSR of IA32_TIME_STAMP_COUNTER. It sets the counter itself, as L2 reads it: what L2 adds for L3 stays between the two
    /// also if it is L3 that writes (SDM 3C 25.3 "Changes to Instruction Behavior in VMX Non-Root Operation").
    #[cold]
    pub fn set_time_stamp_counter(&mut self, value: u64) {
        let offset = value.wrapping_sub(self.platform.time_stamp_counter());
        let change = offset.wrapping_sub(self.tsc_offset);
        self.tsc_offset = offset;
        self.tsc_offset_is_stale |= self.runs_l3;
        let current = self.platform.read(Field::TSC_OFFSET);
        self.platform.write(Field::TSC_OFFSET, current.wrapping_add(change));
    }

    /// The VMX-preemption timer of the current VMCS no longer says when the guest's run must end.
    pub fn timer_changed(&mut self) {
        self.look_at = 0;
    }

    /// When the guest's time-stamp counter shows `value`, not a tick too early: 0 if it is past that. `None`: that is
    /// beyond the lifetime of the machine, more than 2^53 ticks ahead.
    pub fn time_of_guest_counter(&mut self, value: u64) -> Option<u64> {
        let counter = self.platform.time_stamp_counter();
        match value.saturating_sub(counter.wrapping_add(self.tsc_offset)) {
            0 => Some(0),
            ticks if ticks > 1 << 53 => None,
            ticks => Some(self.clock.nanoseconds(counter + ticks - 1) + 1),
        }
    }

    /// A device was touched: its next deadline may have changed.
    pub fn devices_changed(&mut self) {
        self.deadline_is_stale = true;
        self.look_at = 0;
    }

    /// Something is due, or what was set for the next time no longer holds.
    #[inline(never)]
    pub(super) fn look_at_the_clock(&mut self, counter: u64) -> Result<(), End> {
        if counter >= self.deadline || self.deadline_is_stale {
            self.service(counter)?;
        } else {
            self.arm_timer(counter);
        }
        self.look_at = self.deadline;
        Ok(())
    }

    /// Runs timers and looks at the host, then sets the preemption timer for the next time this is due.
    #[cold]
    fn service(&mut self, counter: u64) -> Result<(), End> {
        if let Some(end) = self.nested.as_ref().and_then(|nested| nested.end()) {
            return Err(end);
        }
        let now = self.clock.nanoseconds(counter);
        self.devices.advance(now);
        let polls = if self.input_flows { INPUT_POLLS_PER_SECOND } else { HOST_POLLS_PER_SECOND };
        let poll_interval = self.clock.frequency() / polls;
        if counter.wrapping_sub(self.last_poll) >= poll_interval {
            self.last_poll = counter;
            self.poll_host()?;
        }
        let next_poll = self.last_poll + poll_interval;
        let next_event = self.devices.next_deadline().map_or(u64::MAX, |deadline| self.clock.counter_at(deadline));
        let deadline = next_poll.min(next_event);
        self.deadline_is_stale = false;
        self.deadline = deadline;
        self.arm_timer(counter);
        Ok(())
    }

    /// Sets the VMX-preemption timer of the current VMCS for the next deadline, be it L1's or that of L2's timer.
    fn arm_timer(&mut self, counter: u64) {
        let deadline = match &self.nested {
            Some(nested) if self.runs_l3 => nested.timer().map_or(self.deadline, |timer| timer.min(self.deadline)),
            _ => self.deadline,
        };
        // The timer counts how often bit `rate` of the counter changes, and may not end before the deadline (SDM 3C
        // 26.5.1 "VMX-Preemption Timer").
        let ticks = (deadline >> self.timer_rate).saturating_sub(counter >> self.timer_rate) + 1;
        self.platform.write(Field::VMX_PREEMPTION_TIMER_VALUE, ticks.min(u64::from(u32::MAX)));
    }

    /// L3's run ends before its first instruction, once the event that is to be injected has been delivered.
    pub(crate) fn exit_at_once(&mut self) {
        self.platform.write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
        self.look_at = 0;
    }

    fn poll_host(&mut self) -> Result<(), End> {
        let mut buffer = [0; 16];
        // What L2's line has no room for stays with the host.
        let room = self.devices.receive_room().min(buffer.len());
        match self.console.poll(&mut buffer[..room]) {
            Some(length) => {
                self.input_flows = length > 0;
                self.devices.receive(&buffer[..length]);
                self.console.idle();
                Ok(())
            }
            None => Err(End { reason: EndReason::Stopped, value: 0, text: EndText::Words("") }),
        }
    }
}
