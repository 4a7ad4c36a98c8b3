//! One 8259A.
//!
//! Inputs are numbered 0 to 7. A set is a byte with a bit an input. Priority goes up from the input after the one
//! with the lowest priority, which is input 7 unless the guest rotates priorities.

/// Where the controller is in its initialization (8259A data sheet, "Initialization Command Words").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Initialization {
    Done,
    /// ICW2, the vector base, comes next.
    VectorBase,
    /// ICW3, the cascade, comes next.
    Cascade,
    /// ICW4, the modes, comes next.
    Modes,
}

/// Bit 4 of a command: it is ICW1.
const ICW1: u8 = 1 << 4;
/// ICW1: there is no cascade, ICW3 is left out.
const ICW1_SINGLE: u8 = 1 << 1;
/// ICW1: ICW4 will come.
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
/// ICW4: requests are in service no longer than their acknowledge.
const ICW4_AUTOMATIC_END_OF_INTERRUPT: u8 = 1 << 1;
/// ICW4: a cascaded controller in service does not inhibit its own further requests.
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
/// Bit 3 of a command that is not ICW1: it is OCW3, else OCW2.
const OCW3: u8 = 1 << 3;
/// OCW3: bit 5 counts.
const OCW3_ENABLE_SPECIAL_MASK: u8 = 1 << 6;
/// OCW3: special mask mode.
const OCW3_SPECIAL_MASK: u8 = 1 << 5;
/// OCW3: poll.
const OCW3_POLL: u8 = 1 << 2;
/// OCW3: bit 0 counts.
const OCW3_READ_REGISTER: u8 = 1 << 1;
/// OCW3: the command port reads the in-service register, else the interrupt request register.
const OCW3_READ_IN_SERVICE: u8 = 1 << 0;

#[derive(Debug, Clone)]
pub(super) struct Controller {
    /// Inputs that are high.
    level: u8,
    /// Inputs that rose and have not been acknowledged or withdrawn since.
    edges: u8,
    /// The input that another controller is wired to: its request is always that controller's INT output.
    cascade: u8,
    /// Edge/level control register.
    pub(super) level_triggered: u8,
    mask: u8,
    in_service: u8,
    vector_base: u8,
    highest_priority: u8,
    initialization: Initialization,
    needs_modes: bool,
    single: bool,
    automatic_end: bool,
    rotate_on_automatic_end: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
}

impl Controller {
    pub(super) const fn new(vector_base: u8, cascade: u8) -> Self {
        Self {
            level: 0,
            edges: 0,
            cascade,
            level_triggered: 0,
            mask: 0xff,
            in_service: 0,
            vector_base,
            highest_priority: 0,
            initialization: Initialization::Done,
            needs_modes: false,
            single: false,
            automatic_end: false,
            rotate_on_automatic_end: false,
            special_fully_nested: false,
            special_mask: false,
            read_in_service: false,
            poll: false,
        }
    }

    pub(super) const fn take_lines(&mut self, level: u8, edges: u8, withdrawn: u8) {
        self.level = (self.level & self.cascade) | (level & !self.cascade);
        self.edges = (self.edges | edges) & !withdrawn & !self.cascade;
    }

    pub(super) const fn set_cascade(&mut self, high: bool) {
        self.level = (self.level & !self.cascade) | if high { self.cascade } else { 0 };
    }

    /// The interrupt request register.
    const fn requested(&self) -> u8 {
        let by_level = self.level_triggered | self.cascade;
        (self.level & by_level) | (self.edges & !by_level)
    }

    /// Rank of the first input of `set` in order of priority, 8 if the set is empty.
    const fn rank(&self, set: u8) -> u32 {
        set.rotate_right(self.highest_priority as u32).trailing_zeros()
    }

    const fn at_rank(&self, rank: u32) -> u8 {
        ((rank + self.highest_priority as u32) & 7) as u8
    }

    /// Rank that a request must be before so as not to be inhibited by what is in service.
    const fn inhibited_from(&self) -> u32 {
        let mut inhibiting = self.in_service;
        if self.special_mask {
            inhibiting &= !self.mask;
        }
        if self.special_fully_nested {
            inhibiting &= !self.cascade;
        }
        self.rank(inhibiting)
    }

    /// The input whose request drives the INT output.
    pub(super) const fn request(&self) -> Option<u8> {
        let pending = self.requested() & !self.mask;
        if pending == 0 || !matches!(self.initialization, Initialization::Done) {
            return None;
        }
        let rank = self.rank(pending);
        if rank < self.inhibited_from() { Some(self.at_rank(rank)) } else { None }
    }

    /// Whether a request at `input` would drive the INT output.
    pub(super) const fn would_request(&self, input: u8) -> bool {
        let bit = 1 << (input & 7);
        self.mask & bit == 0 && matches!(self.initialization, Initialization::Done) && self.rank(bit) < self.inhibited_from()
    }

    pub(super) const fn acknowledge(&mut self, input: u8) {
        self.edges &= !(1 << input);
        if !self.automatic_end {
            self.in_service |= 1 << input;
        } else if self.rotate_on_automatic_end {
            self.set_lowest_priority(input);
        }
    }

    pub(super) const fn vector(&self, input: u8) -> u8 {
        self.vector_base | input
    }

    pub(super) const fn mask(&self) -> u8 {
        self.mask
    }

    pub(super) const fn take_poll(&mut self) -> bool {
        let poll = self.poll;
        self.poll = false;
        poll
    }

    pub(super) const fn read_command(&self) -> u8 {
        if self.read_in_service { self.in_service } else { self.requested() }
    }

    pub(super) const fn write_data(&mut self, value: u8) {
        use Initialization as I;
        self.initialization = match self.initialization {
            I::Done => {
                self.mask = value;
                I::Done
            }
            I::VectorBase => {
                self.vector_base = value & 0xf8;
                if !self.single {
                    I::Cascade
                } else if self.needs_modes {
                    I::Modes
                } else {
                    I::Done
                }
            }
            // The wiring is what it is: nothing to keep.
            I::Cascade => {
                if self.needs_modes {
                    I::Modes
                } else {
                    I::Done
                }
            }
            I::Modes => {
                self.automatic_end = value & ICW4_AUTOMATIC_END_OF_INTERRUPT != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                I::Done
            }
        };
    }

    pub(super) const fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.initialize(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    const fn initialize(&mut self, value: u8) {
        let level_triggered = self.level_triggered;
        *self = Self { level: self.level, level_triggered, mask: 0, ..Self::new(self.vector_base, self.cascade) };
        self.initialization = Initialization::VectorBase;
        self.single = value & ICW1_SINGLE != 0;
        self.needs_modes = value & ICW1_NEEDS_ICW4 != 0;
    }

    const fn write_ocw3(&mut self, value: u8) {
        if value & OCW3_ENABLE_SPECIAL_MASK != 0 {
            self.special_mask = value & OCW3_SPECIAL_MASK != 0;
        }
        if value & OCW3_READ_REGISTER != 0 {
            self.read_in_service = value & OCW3_READ_IN_SERVICE != 0;
        }
        self.poll = value & OCW3_POLL != 0;
    }

    /// `operation`: bits 7 to 5 of OCW2, rotate, specific, end of interrupt.
    const fn write_ocw2(&mut self, operation: u8, input: u8) {
        match operation {
            0b000 => self.rotate_on_automatic_end = false,
            0b100 => self.rotate_on_automatic_end = true,
            0b001 | 0b101 => {
                // In special mask mode the command does not see what is masked.
                let candidates = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
                if candidates != 0 {
                    let ended = self.at_rank(self.rank(candidates));
                    self.end(ended, operation == 0b101);
                }
            }
            0b011 | 0b111 => self.end(input, operation == 0b111),
            0b110 => self.set_lowest_priority(input),
            // 0b010 is no operation.
            _ => {}
        }
    }

    const fn end(&mut self, input: u8, rotate: bool) {
        self.in_service &= !(1 << input);
        if rotate {
            self.set_lowest_priority(input);
        }
    }

    const fn set_lowest_priority(&mut self, input: u8) {
        self.highest_priority = (input + 1) & 7;
    }
}
