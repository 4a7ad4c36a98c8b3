//! All devices of a guest, and the port bus between it and them, with the local APIC between them and the processor.
//!
//! Dispatch is a match on the port number. Timers are looked at only when the earliest of their events is due, so an
//! access that has nothing to do with time costs one comparison for them.
//!
//! The order of calls that a vCPU needs: [`Devices::advance`], then [`Devices::event_pending`] and, if the guest can
//! take it, [`Devices::take_nmi`] or [`Devices::acknowledge_interrupt`]; before the guest runs or sleeps,
//! [`Devices::next_deadline`].
//! Deadlines depend on interrupt masks and on what is in service: ask again after every access and acknowledge.

use super::bus::{AccessSize, Console, EndRequest, Nanoseconds, Outputs, PortDevice, UNCLAIMED};
use super::debug_console::{self, DebugConsole};
use super::debug_exit::{self, DebugExit};
use super::interrupt_lines::{InterruptLines, REAL_TIME_CLOCK, SERIAL, SYSTEM_CONTROL, TIMER};
use super::io_apic::{self, IoApic};
use super::keyboard_controller::{self, KeyboardController};
use super::local_apic::{self, LocalApic, Mode, Refused};
use super::pic8259::{self, Pic8259};
use super::pit8254::{self, Pit8254};
use super::power::{self, PowerManagement};
use super::reset_control::{self, ResetControl};
use super::rtc::{self, Rtc};
use super::status_line::{self, StatusLine};
use super::system_control::{self, SystemControl};
use super::uart16550::{self, Uart16550};

/// What the devices need to know about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// What the real-time clock shows at the start, in seconds since 1970.
    pub wall_clock: u64,
    /// Bytes of the guest's memory, for those who read its size from CMOS.
    pub memory_size: u64,
}

/// Who answers at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    InterruptControllers,
    Timer,
    Serial,
    StatusLine,
    Clock,
    Power,
    Keyboard,
    SystemControl,
    DebugConsole,
    DebugExit,
    ResetControl,
    Nobody,
}

/// As each device's [`PortDevice::PORTS`] says; a test compares.
pub(super) const fn owner(port: u16) -> Owner {
    const PIC_FIRST_END: u16 = pic8259::FIRST + 1;
    const PIC_SECOND_END: u16 = pic8259::SECOND + 1;
    const PIC_ELCR_END: u16 = pic8259::EDGE_LEVEL_CONTROL + 1;
    const SERIAL_END: u16 = uart16550::BASE + 7;
    const STATUS_END: u16 = status_line::BASE + 7;
    const POWER_CONTROL_END: u16 = power::CONTROL_BLOCK + 1;
    const POWER_TIMER_END: u16 = power::TIMER_BLOCK + 3;
    match port {
        uart16550::BASE..=SERIAL_END => Owner::Serial,
        status_line::BASE..=STATUS_END => Owner::StatusLine,
        pic8259::FIRST..=PIC_FIRST_END | pic8259::SECOND..=PIC_SECOND_END | pic8259::EDGE_LEVEL_CONTROL..=PIC_ELCR_END => {
            Owner::InterruptControllers
        }
        pit8254::COUNTER..=pit8254::CONTROL | pit8254::SYSTEM_CONTROL_B => Owner::Timer,
        rtc::INDEX..=rtc::DATA => Owner::Clock,
        power::EVENT_BLOCK..=POWER_CONTROL_END | power::TIMER_BLOCK..=POWER_TIMER_END => Owner::Power,
        keyboard_controller::DATA | keyboard_controller::COMMAND => Owner::Keyboard,
        system_control::PORT => Owner::SystemControl,
        debug_console::PORT => Owner::DebugConsole,
        debug_exit::PORT => Owner::DebugExit,
        reset_control::PORT => Owner::ResetControl,
        _ => Owner::Nobody,
    }
}

fn offset_in_io_apic(address: u64) -> Option<u64> {
    address.checked_sub(io_apic::ADDRESS).filter(|offset| *offset < io_apic::SIZE)
}

/// All devices of a guest.
#[derive(Debug, Clone)]
pub struct Devices {
    interrupt_controllers: Pic8259,
    io_apic: IoApic,
    local_apic: LocalApic,
    timer: Pit8254,
    serial: Uart16550,
    status_line: StatusLine,
    clock: Rtc,
    power: PowerManagement,
    reset_control: ResetControl,
    lines: InterruptLines,
    end: Option<EndRequest>,
    /// The latest time anybody told us: for the devices time never goes back.
    now: Nanoseconds,
    /// When the next device changes its interrupt line, masked or not. `u64::MAX`: never.
    due: Nanoseconds,
    /// The 8259 pair's interrupt goes to the processor.
    external: bool,
    /// There is an interrupt for the processor.
    interrupt: bool,
    /// There is an interrupt or an NMI for the processor: what is asked at every exit.
    event: bool,
}

impl Devices {
    /// The devices of a machine that is switched on at time 0.
    #[must_use]
    pub fn new(configuration: Configuration) -> Self {
        let mut devices = Self {
            interrupt_controllers: Pic8259::new(),
            io_apic: IoApic::default(),
            local_apic: LocalApic::new(),
            timer: Pit8254::new(),
            serial: Uart16550::new(SERIAL),
            status_line: StatusLine::default(),
            clock: Rtc::new(configuration.wall_clock, configuration.memory_size),
            power: PowerManagement::default(),
            reset_control: ResetControl::default(),
            lines: InterruptLines::default(),
            end: None,
            now: 0,
            due: 0,
            external: false,
            interrupt: false,
            event: false,
        };
        devices.schedule();
        devices
    }

    /// The guest reads from a port. Ports nobody claims read all ones.
    pub fn read(&mut self, port: u16, size: AccessSize, now: Nanoseconds) -> u32 {
        self.advance(now);
        let value = match size {
            AccessSize::One => u32::from(self.read_byte(port)),
            // Not claimed: see `reset_control`.
            _ if port == reset_control::PCI_CONFIGURATION_ADDRESS => size.truncate(u32::MAX),
            _ => (0..size.bytes()).fold(0, |value, offset| {
                let byte = port.checked_add(offset).map_or(UNCLAIMED, |port| self.read_byte(port));
                value | u32::from(byte) << (8 * offset)
            }),
        };
        self.settle();
        value
    }

    /// The guest writes the low `size` bytes of `value` to a port. What it prints goes to `console`.
    pub fn write(&mut self, port: u16, size: AccessSize, value: u32, now: Nanoseconds, console: &mut dyn Console) {
        self.advance(now);
        match size {
            AccessSize::One => self.write_byte(port, value as u8, console),
            _ if port == reset_control::PCI_CONFIGURATION_ADDRESS => {}
            _ if port == debug_exit::PORT => {
                let outputs = &mut Outputs { lines: &mut self.lines, console, end: &mut self.end };
                DebugExit::exit(size.truncate(value), outputs);
            }
            _ => {
                for (offset, byte) in (0..size.bytes()).zip(value.to_le_bytes()) {
                    if let Some(port) = port.checked_add(offset) {
                        self.write_byte(port, byte, console);
                    }
                }
            }
        }
        self.settle();
    }

    /// Lets time pass until `now`: timers that are due raise their interrupts.
    pub fn advance(&mut self, now: Nanoseconds) {
        self.now = self.now.max(now);
        if self.now >= self.due {
            self.timer.advance(self.now, &mut self.lines);
            self.clock.advance(self.now, &mut self.lines);
            self.power.advance(self.now, &mut self.lines);
            self.local_apic.advance(self.now);
            self.settle();
            self.schedule();
        }
    }

    /// When the next interrupt can come if the guest does nothing until then. Later than the last `now`. `None` while
    /// [`Self::event_pending`], as nothing that happens could be seen before the guest has taken that one; else
    /// `None` means that only input can bring an interrupt, if [`Self::wants_input`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanoseconds> {
        if self.event_pending() {
            return None;
        }
        self.timed_lines()
            .into_iter()
            .filter(|&(irq, deadline)| deadline.is_some() && self.would_interrupt(irq))
            .filter_map(|(_, deadline)| deadline)
            .chain(self.local_apic.next_interrupt())
            .min()
    }

    /// Whether there is an interrupt or an NMI for the processor.
    #[must_use]
    pub const fn event_pending(&self) -> bool {
        self.event
    }

    /// Whether the interrupt controllers ask the processor for an interrupt.
    #[must_use]
    pub const fn interrupt_pending(&self) -> bool {
        self.interrupt
    }

    /// The processor takes the interrupt: its vector. That of the 8259 pair comes first, as in KVM; the manual leaves
    /// the order open.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        let external = self.external || !self.local_apic.interrupt_pending() && self.local_apic.passes_external();
        let vector = if external { self.interrupt_controllers.acknowledge() } else { self.local_apic.acknowledge() };
        self.settle();
        vector
    }

    /// Whether there is an NMI for the processor.
    #[must_use]
    pub const fn nmi_pending(&self) -> bool {
        self.local_apic.nmi_pending()
    }

    /// The processor takes the NMI.
    pub fn take_nmi(&mut self) {
        self.local_apic.take_nmi();
        self.settle();
    }

    /// Whether an interrupt of a device can come in although the processor takes no interrupts: as an NMI.
    #[must_use]
    pub fn interrupts_as_nmi(&self) -> bool {
        self.local_apic.takes_external_as_nmi() || self.io_apic.sends_nmis()
    }

    /// The guest reads `size` (1 to 8) bytes of physical memory that is no RAM, within one page. All ones where no
    /// device is; bits above the size may be anything.
    pub fn read_memory(&mut self, address: u64, size: usize, now: Nanoseconds) -> u64 {
        let value = if let Some(offset) = self.offset_in_local_apic(address) {
            self.advance(now);
            self.local_apic.read_page(offset, size, self.now)
        } else if let Some(offset) = offset_in_io_apic(address) {
            self.advance(now);
            self.io_apic.read(offset, size)
        } else {
            return u64::MAX;
        };
        self.settle();
        value
    }

    /// The guest writes the low `size` bytes of `value` to physical memory that is no RAM. Whether a device is there.
    pub fn write_memory(&mut self, address: u64, size: usize, value: u64, now: Nanoseconds) -> bool {
        if let Some(offset) = self.offset_in_local_apic(address) {
            self.advance(now);
            self.local_apic.write_page(offset, size, value, self.now);
            self.local_apic_changed();
            return true;
        }
        if let Some(offset) = offset_in_io_apic(address) {
            self.advance(now);
            self.io_apic.write(offset, size, value, &mut self.local_apic);
            self.settle();
            return true;
        }
        false
    }

    fn offset_in_local_apic(&self, address: u64) -> Option<u64> {
        let page = self.local_apic.page()?;
        address.checked_sub(page).filter(|offset| *offset < local_apic::PAGE_SIZE)
    }

    /// RDMSR of a register of the x2APIC, `local_apic::FIRST_MSR` to `LAST_MSR`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn read_local_apic(&mut self, index: u32, now: Nanoseconds) -> Result<u64, Refused> {
        self.advance(now);
        self.local_apic.read_msr(index, self.now)
    }

    /// WRMSR of a register of the x2APIC.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn write_local_apic(&mut self, index: u32, value: u64, now: Nanoseconds) -> Result<(), Refused> {
        self.advance(now);
        self.local_apic.write_msr(index, value, self.now)?;
        self.local_apic_changed();
        Ok(())
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn local_apic_base(&self) -> u64 {
        self.local_apic.base()
    }

    /// Writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn set_local_apic_base(&mut self, value: u64, physical_address_width: u32) -> Result<(), Refused> {
        self.local_apic.set_base(value, physical_address_width)?;
        self.local_apic_changed();
        Ok(())
    }

    /// Whether CPUID shows that there is a local APIC: it is enabled (SDM 3A 11.4.3 "Enabling or Disabling the Local
    /// APIC").
    #[must_use]
    pub fn has_local_apic(&self) -> bool {
        self.local_apic.mode() != Mode::Disabled
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, now: Nanoseconds) -> u64 {
        self.advance(now);
        self.local_apic.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE; see [`LocalApic::set_tsc_deadline`].
    pub fn set_tsc_deadline(&mut self, deadline: u64, at: Option<Nanoseconds>, now: Nanoseconds) {
        self.advance(now);
        self.local_apic.set_tsc_deadline(deadline, at);
        self.local_apic_changed();
    }

    /// CR8.
    #[must_use]
    pub const fn task_priority_class(&self) -> u8 {
        self.local_apic.task_priority_class()
    }

    /// Writes CR8, 0 to 15.
    pub fn set_task_priority_class(&mut self, class: u8) {
        self.local_apic.set_task_priority_class(class);
        self.settle();
    }

    /// The request to end the run, once.
    pub const fn take_end(&mut self) -> Option<EndRequest> {
        self.end.take()
    }

    /// The status that the guest has given over its status line.
    #[must_use]
    pub const fn status(&self) -> Option<u32> {
        self.status_line.status()
    }

    /// Hands input to the serial line: how many of `bytes` it took. The rest is to be offered again later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = self.serial.receive(bytes, &mut self.lines);
        self.settle();
        taken
    }

    /// How many bytes [`Self::receive`] would take.
    #[must_use]
    pub fn receive_room(&self) -> usize {
        self.serial.room()
    }

    /// Whether input could wake a halted guest: the serial line takes it and its interrupt gets through.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.serial.interrupts_on_input() && self.receive_room() > 0 && self.would_interrupt(SERIAL)
    }

    /// The lines that change as time passes, and when the next of their edges comes.
    fn timed_lines(&self) -> [(u8, Option<Nanoseconds>); 3] {
        [
            (TIMER, self.timer.next_deadline()),
            (REAL_TIME_CLOCK, self.clock.next_deadline()),
            (SYSTEM_CONTROL, self.power.next_deadline()),
        ]
    }

    fn schedule(&mut self) {
        let lines = self.timed_lines().into_iter().filter_map(|(_, deadline)| deadline);
        self.due = lines.chain(self.local_apic.next_deadline()).min().unwrap_or(Nanoseconds::MAX);
    }

    /// The guest has written to the local APIC: its timer may be due at once.
    fn local_apic_changed(&mut self) {
        self.local_apic.advance(self.now);
        self.settle();
        self.schedule();
    }

    /// Whether a request on line `irq` would now reach the processor, through the 8259 pair or the I/O APIC.
    fn would_interrupt(&self, irq: u8) -> bool {
        self.interrupt_controllers.would_interrupt(irq) && self.local_apic.takes_external()
            || self.io_apic.message(irq).is_some_and(|message| self.local_apic.would_receive(message))
    }

    /// Carries what happened on the lines to the 8259 pair and to the I/O APIC.
    fn carry_lines(&mut self) {
        if self.lines.changed() {
            let changes = self.lines.take();
            self.interrupt_controllers.take_lines(changes);
            self.io_apic.take_lines(changes, &mut self.local_apic);
        }
    }

    /// Carries what happened on the lines to the interrupt controllers, the output of the 8259 pair to the local APIC, and
    /// works out what the processor is asked for. The last step of everything that may change it.
    fn settle(&mut self) {
        self.carry_lines();
        if let Some(vector) = self.local_apic.take_ended() {
            self.io_apic.end_of_interrupt(vector, &mut self.local_apic);
        }
        let external = self.interrupt_controllers.interrupt_pending();
        self.local_apic.set_external(external);
        self.external = external && self.local_apic.passes_external();
        self.interrupt = self.external || self.local_apic.interrupt_pending();
        self.event = self.interrupt || self.local_apic.nmi_pending();
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let (now, lines) = (self.now, &mut self.lines);
        match owner(port) {
            Owner::Serial => self.serial.read(port, now, lines),
            Owner::StatusLine => self.status_line.read(port, now, lines),
            Owner::InterruptControllers => {
                self.carry_lines();
                self.interrupt_controllers.read(port, now, &mut self.lines)
            }
            Owner::Timer => self.timer.read(port, now, lines),
            Owner::Clock => {
                let value = self.clock.read(port, now, lines);
                self.schedule();
                value
            }
            Owner::Power => {
                let value = self.power.read(port, now, lines);
                self.schedule();
                value
            }
            Owner::Keyboard => KeyboardController.read(port, now, lines),
            Owner::SystemControl => SystemControl.read(port, now, lines),
            Owner::DebugConsole => DebugConsole.read(port, now, lines),
            Owner::DebugExit => DebugExit.read(port, now, lines),
            Owner::ResetControl => self.reset_control.read(port, now, lines),
            Owner::Nobody => UNCLAIMED,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, console: &mut dyn Console) {
        let now = self.now;
        let owner = owner(port);
        if owner == Owner::InterruptControllers {
            self.carry_lines();
        }
        let outputs = &mut Outputs { lines: &mut self.lines, console, end: &mut self.end };
        match owner {
            Owner::Serial => self.serial.write(port, value, now, outputs),
            Owner::StatusLine => self.status_line.write(port, value, now, outputs),
            Owner::InterruptControllers => self.interrupt_controllers.write(port, value, now, outputs),
            Owner::Timer => {
                self.timer.write(port, value, now, outputs);
                self.schedule();
            }
            Owner::Clock => {
                self.clock.write(port, value, now, outputs);
                self.schedule();
            }
            Owner::Power => {
                self.power.write(port, value, now, outputs);
                self.schedule();
            }
            Owner::Keyboard => KeyboardController.write(port, value, now, outputs),
            Owner::SystemControl => SystemControl.write(port, value, now, outputs),
            Owner::DebugConsole => DebugConsole.write(port, value, now, outputs),
            Owner::DebugExit => DebugExit.write(port, value, now, outputs),
            Owner::ResetControl => self.reset_control.write(port, value, now, outputs),
            Owner::Nobody => {}
        }
    }
}
