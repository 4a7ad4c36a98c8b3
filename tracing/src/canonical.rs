//! Canonical text: what a guest made happen, a line an exit, made for snapshots and comparison.
//!
//! Two runs of a guest that behave alike give the same text, on whatever machine. So there are no times, costs, counts
//! of records or values that a device gave, and no addresses but those that the guest program fixes: a function without
//! offset, or an offset from where the program was loaded. RIP is left out for exits that a clock or device brought
//! about. Exits of L1's own house (see [`is_housekeeping`]) do not appear. What repeats is folded.
//!
//! With [`Mode::Observable`] what only L1 can see of nesting is left out as well, so that hardware VMCS shadowing and
//! software merging give the same text.
//!
//! A line reads `L2 CPUID leaf=0x1 in guest::main -> L1 emulated`: level of the guest, exit reason, what it was about,
//! where, who handled it and how. `3 times:` before a line folds equal lines, before indented lines a block of them.

use crate::fold::Folder;
use crate::nested::{LEVEL_L2, LEVEL_L3};
use crate::record::{Action, Record, RecordKind};
use crate::symbols::SymbolTable;
use crate::words::{is_asynchronous, outcome, summary};
use std::io::{self, Write};
use vmcs::exit_reason::BasicExitReason;

/// How much canonical text tells of nesting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything but [housekeeping](is_housekeeping).
    #[default]
    Full,
    /// Only what L2 and L3 can observe, see [`is_observable`].
    Observable,
}

/// What canonical text tells, and how it names places.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The guest's functions, by the addresses they run at. Where this knows one, the line names it.
    pub symbols: SymbolTable,
    /// Where the guest program was loaded: other places are shown as an offset from here, those below as they are.
    /// `None` leaves them out, for a guest that chooses its own address.
    pub load_base: Option<u64>,
    /// How much of nesting it tells.
    pub mode: Mode,
}

/// Writes canonical text while records come in; holds back a bounded number of lines.
#[derive(Debug)]
pub struct Canonical<W> {
    options: Options,
    folder: Folder<W>,
}

impl<W: Write> Canonical<W> {
    /// Canonical text that goes to `output`.
    pub fn new(options: Options, output: W) -> Self {
        Self { options, folder: Folder::new(output) }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// What the output says.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let hidden = is_housekeeping(record) || self.options.mode == Mode::Observable && !is_observable(record);
        if hidden { Ok(()) } else { self.folder.push(&line(record, &self.options)) }
    }

    /// Says that `count` records are missing here.
    ///
    /// # Errors
    /// What the output says.
    pub fn push_lost(&mut self, count: u64) -> io::Result<()> {
        self.folder.push(&format!("({count} records lost)"))
    }

    /// Writes what was held back, and gives the output back.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> io::Result<W> {
        self.folder.finish()
    }
}

/// The canonical text of `records`.
#[must_use]
pub fn text<'a>(options: Options, records: impl IntoIterator<Item = &'a Record>) -> String {
    let mut canonical = Canonical::new(options, Vec::new());
    let pushed = records.into_iter().try_for_each(|record| canonical.push(record));
    let bytes = pushed.and_then(|()| canonical.finish()).expect("a Vec takes all that is written");
    String::from_utf8(bytes).expect("every line was a String")
}

/// Whether an exit says nothing about the guest: an interrupt or timer of L1's own, or a window that L1 asked for and
/// no longer needed, after which the guest went on unchanged. When they come depends on the machine's clock.
#[must_use]
pub fn is_housekeeping(record: &Record) -> bool {
    const REASONS: [BasicExitReason; 4] = [
        BasicExitReason::EXTERNAL_INTERRUPT,
        BasicExitReason::INTERRUPT_WINDOW,
        BasicExitReason::NMI_WINDOW,
        BasicExitReason::VMX_PREEMPTION_TIMER_EXPIRED,
    ];
    record.kind() == Some(RecordKind::Exit)
        && record.action() == Some(Action::Resumed)
        && REASONS.contains(&record.exit_reason().basic())
}

/// Whether L2 or L3 can tell that this happened, whichever way L2's VMCS accesses are served. Not observable are:
///
/// * copies: syncs with the shadow VMCS and merges;
/// * L2's exits by VMREAD and VMWRITE, which hardware shadowing spares most of;
/// * exits of L3 after which L1 let it go on unchanged, such as those that fill EPT13, and events whose delivery they
///   cut short and L1 took up again;
/// * exits of L3 by a clock or device of L1's: what L2 sees of them is another record.
#[must_use]
pub fn is_observable(record: &Record) -> bool {
    const ACCESSES: [BasicExitReason; 2] = [BasicExitReason::VMREAD, BasicExitReason::VMWRITE];
    match record.kind() {
        Some(RecordKind::Sync | RecordKind::Merge | RecordKind::NestedInject) => false,
        Some(RecordKind::Exit) if record.action() == Some(Action::Stopped) => true,
        Some(RecordKind::Exit) if record.level == LEVEL_L2 => !ACCESSES.contains(&record.exit_reason().basic()),
        Some(RecordKind::Exit) if record.level >= LEVEL_L3 => {
            record.action() != Some(Action::Resumed) && !is_asynchronous(record)
        }
        _ => true,
    }
}

fn line(record: &Record, options: &Options) -> String {
    let place = if has_place(record) { place(record, options) } else { None };
    let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
    let outcome = outcome(record).map(|outcome| format!(" -> {outcome}")).unwrap_or_default();
    format!("L{} {}{place}{outcome}", record.level, summary(record))
}

/// Whether the guest program fixes where this happened. Where L3 goes on after an exit is chance if the exit was.
fn has_place(record: &Record) -> bool {
    use RecordKind as K;
    let own = matches!(record.kind(), Some(K::Exit | K::EntryFailure | K::NestedExit | K::NestedEntryFailed) | None);
    own && !is_asynchronous(record)
}

fn place(record: &Record, options: &Options) -> Option<String> {
    let rip = record.rip;
    if let Some(location) = options.symbols.lookup_at(record.level, rip) {
        return Some(location.function.to_owned());
    }
    let base = options.load_base.filter(|_| options.symbols.covers(record.level))?;
    Some(match rip.checked_sub(base) {
        Some(offset) => format!("+{offset:#x}"),
        None => format!("{rip:#x}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn with_symbols() -> Options {
        Options { symbols: sample::symbols(), load_base: Some(0x10_0000), mode: Mode::Full }
    }

    #[test]
    fn every_reason_says_what_it_was_about() {
        insta::assert_snapshot!(text(with_symbols(), &sample::one_of_each()));
    }

    #[test]
    fn places() {
        let at = |rip| Record { rip, ..sample::hlt() };
        let records = [at(0x10_0004), at(0x10_0050), at(0xfff0)];
        insta::assert_snapshot!(text(with_symbols(), &records), @r"
        L2 HLT in guest::main -> L1 emulated
        L2 HLT in +0x50 -> L1 emulated
        L2 HLT in 0xfff0 -> L1 emulated
        ");
        let no_base = Options { load_base: None, ..with_symbols() };
        insta::assert_snapshot!(text(no_base, &records), @r"
        L2 HLT in guest::main -> L1 emulated
        2 times: L2 HLT -> L1 emulated
        ");
    }

    #[test]
    fn what_varies_does_not_show() {
        let record = sample::io_out(0x3f8);
        let other = Record { tsc: 99, cost: 3, sequence: 7, detail: 0x41, rip: record.rip + 1, vcpu: 0, ..record };
        assert_eq!(line(&record, &with_symbols()), line(&other, &with_symbols()));
        let timer = sample::timer_interrupt();
        let elsewhere = Record { rip: 0x77, ..timer };
        assert_eq!(line(&timer, &with_symbols()), line(&elsewhere, &with_symbols()));
    }

    #[test]
    fn housekeeping_does_not_show_and_does_not_break_folding() {
        let tick = Record { action: Action::Resumed as u8, detail: 0, ..sample::timer_interrupt() };
        assert!(is_housekeeping(&tick) && !is_housekeeping(&sample::timer_interrupt()));
        let interrupt = Record { reason: 1, ..tick };
        let window = Record { reason: 7, ..tick };
        let records = [sample::hlt(), tick, sample::hlt(), interrupt, sample::hlt(), window, sample::hlt()];
        insta::assert_snapshot!(text(Options::default(), &records), @"4 times: L2 HLT -> L1 emulated");
    }

    #[test]
    fn loops_fold() {
        let poll = [sample::io_in(0x3fd), sample::io_in(0x3fd), sample::io_out(0x3f8)];
        let records: Vec<Record> = poll.into_iter().cycle().take(30).chain([sample::hlt()]).collect();
        insta::assert_snapshot!(text(with_symbols(), &records), @r"
        10 times:
          2 times: L2 IO_INSTRUCTION in port=0x3fd size=1 in guest::main -> L1 emulated
          L2 IO_INSTRUCTION out port=0x3f8 size=1 in guest::main -> L1 emulated
        L2 HLT in guest::main -> L1 emulated
        ");
    }

    fn nested(mode: Mode) -> Options {
        Options { symbols: sample::symbols().with_nested_guests(), mode, ..with_symbols() }
    }

    #[test]
    fn every_step() {
        insta::assert_snapshot!(text(nested(Mode::Full), &sample::nested_steps()));
    }

    #[test]
    fn both_ways_of_serving_vmcs_accesses_look_alike_to_the_guests() {
        let (hardware, software) = (sample::hardware_round_trip(), sample::software_round_trip());
        assert_ne!(text(nested(Mode::Full), &hardware), text(nested(Mode::Full), &software));
        let observable = text(nested(Mode::Observable), &hardware);
        assert_eq!(observable, text(nested(Mode::Observable), &software));
        insta::assert_snapshot!(observable);
    }

    #[test]
    fn what_only_l1_sees_is_not_observable() {
        insta::assert_snapshot!(text(nested(Mode::Observable), &sample::nested_steps()));
    }

    #[test]
    fn another_program_is_not_named_after_the_guest() {
        let exit = Record { level: 3, ..sample::hlt() };
        assert_eq!(line(&exit, &with_symbols()), "L3 HLT -> L1 emulated");
        assert_eq!(line(&exit, &nested(Mode::Full)), "L3 HLT in guest::main -> L1 emulated");
        let elsewhere = Record { rip: 0x10_0050, ..exit };
        assert_eq!(line(&elsewhere, &nested(Mode::Full)), "L3 HLT in +0x50 -> L1 emulated");
    }

    #[test]
    fn lost_records_show() {
        let mut canonical = Canonical::new(Options::default(), Vec::new());
        canonical.push(&sample::hlt()).expect("memory takes everything");
        canonical.push_lost(12).expect("memory takes everything");
        let bytes = canonical.finish().expect("memory takes everything");
        insta::assert_snapshot!(String::from_utf8_lossy(&bytes), @r"
        L2 HLT -> L1 emulated
        (12 records lost)
        ");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_records_give_a_line_each(raw in proptest::collection::vec(proptest::num::u8::ANY, 64)) {
            let record: Record = zerocopy::FromBytes::read_from_bytes(&raw).expect("64 bytes");
            proptest::prop_assert!(!line(&record, &with_symbols()).contains('\n'));
        }
    }
}
