//! From the first instruction to the end of the run.
#![expect(unsafe_code, reason = "memory and registers of the machine")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::ptr;

use l1_protocol::boot::{
    BootInformation, LOOK_AHEAD_ON, MACHINE_BOCHS, MODE_ORACLE, REPORT_FIELDS, REPORT_NOTHING, SHADOW_FIELDS_ALL,
    SHADOW_FIELDS_NONE, SHADOWING_AUTO, SHADOWING_HARDWARE, TRACE_OFF, TRACE_STREAM,
};
use l1_protocol::end::{Counters, EndReason, EndReport, FinalState};
use l1_protocol::frame::{FrameKind, Severity};
use l1_protocol::memory_map::{BOOT_INFORMATION, GUEST_ACPI_TABLES, IMAGE_BASE};
use shadow::ept::Composition;
use shadow::mode::{Requested, ShadowingMode};
use shadow::shadowing::{Fields, Served};
use vmcs::access::VmcsAccess as _;
use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::Field;
use vmcs::msr;
use xxhash_rust::xxh64::xxh64;
use zerocopy::{FromBytes, IntoBytes};

use crate::channel::{Channel, Text};
use crate::cpuid::Features;
use crate::device::acpi;
use crate::ept;
use crate::exit::End;
use crate::exit::msr::fill_bitmap;
use crate::failure;
use crate::fitness::{self, Unfit};
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::hardware::page::Pages;
use crate::hardware::single::SingleProcessor;
use crate::hardware::vmx_state::CurrentVmcs;
use crate::hardware::{descriptor_table, paging, processor, vmx, world_switch};
use crate::history::{self, RECORDER};
use crate::host_link::HostLink;
use crate::nested::regions::{Hardware, MergedBitmap};
use crate::nested::{Constants, Nested};
use crate::nested_profile::nested_profile;
use crate::oracle;
use crate::platform::Platform;
use crate::run::run;
use crate::vcpu::Vcpu;
use crate::verdict;
use crate::vmcs12::{self, Controls, HostState, Structures};

static CHANNEL: SingleProcessor<Channel> = SingleProcessor::new(Channel::new());
static VMXON_REGION: Pages<1> = Pages::new();
static VMCS12: Pages<1> = Pages::new();
static IO_BITMAPS: Pages<2> = Pages::new();
static MSR_BITMAP: Pages<1> = Pages::new();
static EPT12: Pages<{ ept::TABLES }> = Pages::new();
static EPT13: Pages<EPT13_TABLES> = Pages::new();
static MERGED_MSR_BITMAP: Pages<1> = Pages::new();
/// The VMREAD bitmap and the VMWRITE bitmap.
static FIELD_BITMAPS: Pages<2> = Pages::new();

/// Tables that EPT13 may use; when they are used up it is emptied and fills again.
const EPT13_TABLES: usize = 256;

/// The most bytes of text in the last frame.
const END_TEXT: usize = 4096;

const CPUID_VMX: u32 = 1 << 5;
const CPUID_XSAVE: u32 = 1 << 26;

/// Where the image goes after its first instructions. `address` is where the boot information lies; `prepare_heap` is
/// called once the image's own bytes have been checked, as it changes some of them.
pub fn start(address: u64, prepare_heap: impl FnOnce()) -> ! {
    let tsc_at_start = processor::time_stamp_counter();
    let handover = read_handover(address);
    let Some(channel) = CHANNEL.take() else { processor::stop() };
    let information = match handover {
        Ok(information) => information,
        Err((machine, problem)) => {
            channel.open(machine);
            end_with_text(channel, EndReason::DamagedHandover, format_args!("{problem}"))
        }
    };
    prepare_heap();
    failure::set_machine(information.machine);
    channel.open(information.machine);
    // SAFETY: called once, in 64-bit mode at CPL 0, with everything mapped one to one; the boot information is checked.
    let bases = unsafe { descriptor_table::load() };
    // SAFETY: as above.
    if let Err(error) = unsafe { paging::load(&information) } {
        panic!("L1's page tables: {error}");
    }
    let capabilities = match read_capabilities() {
        Ok(capabilities) => capabilities,
        Err(unfit) => end_with_text(channel, EndReason::UnfitMachine, format_args!("{unfit}")),
    };
    // Also of a processor that L1 cannot use: there they are asked for most.
    if information.report_capabilities != REPORT_NOTHING {
        send_capabilities(channel, FrameKind::Capabilities, &capabilities);
    }
    if let Err(unfit) = enter_vmx_operation(&capabilities) {
        end_with_text(channel, EndReason::UnfitMachine, format_args!("{unfit}"));
    }
    if information.mode == MODE_ORACLE {
        let regions = oracle::Regions { vmcs: VMCS12.address(0), vmxon: VMXON_REGION.address(0) };
        // SAFETY: VMX operation was entered; the region holds the revision identifier and is used for nothing else.
        let end = unsafe { oracle::run(channel, &information, &capabilities, &host_state(bases), regions) };
        match end {
            Ok(cases) => end_with_text(channel, EndReason::OracleDone, format_args!("{cases} cases")),
            Err(problem) => end_with_text(channel, EndReason::Bug, format_args!("{problem}")),
        }
    }
    let mode = match shadowing(&capabilities, information.shadowing) {
        Ok(mode) => {
            channel.message(Severity::Information, format_args!("shadowing: {mode}"));
            mode
        }
        Err(problem) => end_with_text(channel, EndReason::UnfitMachine, format_args!("{problem}")),
    };
    if information.trace_mode == TRACE_OFF {
        host_guest::<false>(channel, &information, &capabilities, bases, tsc_at_start, mode)
    } else {
        host_guest::<true>(channel, &information, &capabilities, bases, tsc_at_start, mode)
    }
}

/// A fixed structure and the rest of the bytes are what they were when the host put them together.
fn read_handover(address: u64) -> Result<BootInformation, (u32, Problem)> {
    if address != BOOT_INFORMATION {
        return Err((MACHINE_BOCHS, Problem::Address(address)));
    }
    // SAFETY: the address is the fixed one and mapped; the page holds plain bytes that nobody writes any more.
    let bytes = unsafe { memory(address, size_of::<BootInformation>() as u64) };
    let information = BootInformation::read_from_bytes(bytes).map_err(|_| (MACHINE_BOCHS, Problem::Address(address)))?;
    information.check().map_err(|error| (information.machine, Problem::Information(error)))?;
    let pieces = [
        ("image", IMAGE_BASE, information.image_size, information.image_checksum),
        ("guest", information.payload_address, information.payload_size, information.payload_checksum),
    ];
    for (what, start, size, stated) in pieces {
        // SAFETY: the check has shown that the range lies in L1's memory; nothing writes to it while it is read: the
        // image's own .data is not written before this.
        let found = xxh64(unsafe { memory(start, size) }, 0);
        if found != stated {
            return Err((information.machine, Problem::Checksum { what, stated, found }));
        }
    }
    Ok(information)
}

/// What is wrong with what the host handed over.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Problem {
    #[error("boot information expected at {BOOT_INFORMATION:#x}, not at {0:#x}")]
    Address(u64),
    #[error("{0}")]
    Information(l1_protocol::boot::BootInformationError),
    #[error("checksum of the {what} is {found:#x}, it should be {stated:#x}: it did not arrive whole")]
    Checksum { what: &'static str, stated: u64, found: u64 },
}

/// Bytes of the machine's memory.
///
/// # Safety
/// The range must be mapped and must not be written while the slice lives.
unsafe fn memory(start: u64, size: u64) -> &'static [u8] {
    // SAFETY: by this function's contract.
    unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(start as usize), size as usize) }
}

/// Checks that the processor has VMX and allows VMXON, and reads what its VMX supports.
fn read_capabilities() -> Result<Capabilities, Unfit> {
    let features = raw_cpuid::CpuId::with_cpuid_fn(native_cpuid).get_feature_info();
    if !features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_vmx) || processor::cpuid(1, 0).ecx & CPUID_VMX == 0 {
        return Err(Unfit::NoVmx);
    }
    // SAFETY: IA32_FEATURE_CONTROL and the capability MSRs that `Capabilities::read` asks for exist on a processor with
    // VMX; setting the lock with VMXON allowed takes nothing away that was there.
    unsafe {
        let current = processor::read_msr(msr::IA32_FEATURE_CONTROL);
        if let Some(value) = fitness::feature_control_to_write(current)? {
            processor::write_msr(msr::IA32_FEATURE_CONTROL, value);
        }
        Ok(Capabilities::read(|number| Some(processor::read_msr(number)))?)
    }
}

fn send_capabilities(channel: &mut Channel, kind: FrameKind, capabilities: &Capabilities) {
    let entries: Vec<u8> =
        capabilities.iter().flat_map(|(number, value)| number.to_le_bytes().into_iter().chain(value.to_le_bytes())).collect();
    channel.frame(kind, &[&entries]);
}

/// Checks the capabilities, prepares CR0, CR4 and XCR0, and executes VMXON.
fn enter_vmx_operation(capabilities: &Capabilities) -> Result<(), Unfit> {
    fitness::check(capabilities)?;
    let (cr0, cr4) = (capabilities.cr0_fixed(), capabilities.cr4_fixed());
    let new_cr4 = (processor::read_cr4() | vmcs12::CR4_VMXE | cr4.required) & cr4.allowed;
    let has_xsave = processor::cpuid(1, 0).ecx & CPUID_XSAVE != 0;
    let revision = capabilities.basic().vmcs_revision_identifier();
    // SAFETY: the fixed bits keep L1's mode as it is; XCR0 = 1 is its value after reset; the region is a page of L1's own that
    // holds the revision identifier.
    unsafe {
        // Caches on: VM entry and exit leave CD and NW alone, so what L1 has is what the guest runs with.
        let caches_off = vmcs12::CR0_CD | vmcs12::CR0_NW;
        processor::write_cr0((processor::read_cr0() & !caches_off | cr0.required) & cr0.allowed);
        if has_xsave {
            processor::set_extended_control(1);
        }
        // Without OSXSAVE: see `vmcs12::host_cr4`.
        processor::write_cr4(new_cr4 & !vmcs12::CR4_OSXSAVE);
        VMXON_REGION.get()[0][0] = revision.into();
        VMCS12.get()[0][0] = revision.into();
        if let Err(failure) = vmx::vmxon(VMXON_REGION.address(0)) {
            panic!("VMXON failed: {failure:?}");
        }
    }
    Ok(())
}

fn native_cpuid(leaf: u32, subleaf: u32) -> raw_cpuid::CpuIdResult {
    let result = processor::cpuid(leaf, subleaf);
    raw_cpuid::CpuIdResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

fn shadowing(capabilities: &Capabilities, requested: u32) -> Result<ShadowingMode, shadow::mode::Unavailable> {
    let requested = match requested {
        SHADOWING_AUTO => Requested::Auto,
        SHADOWING_HARDWARE => Requested::Hardware,
        _ => Requested::Software,
    };
    ShadowingMode::choose(requested, capabilities)
}

/// Hosts the guest to its end. With `RECORD` its exits are written down.
fn host_guest<const RECORD: bool>(
    channel: &'static mut Channel,
    information: &BootInformation,
    capabilities: &Capabilities,
    bases: descriptor_table::Bases,
    tsc_at_start: u64,
    mode: ShadowingMode,
) -> ! {
    let mut memory = GuestMemory::new(guest_memory(information));
    for segment in information.used_segments() {
        // SAFETY: the check of the boot information has shown that the segment lies in the payload.
        let bytes = unsafe { self::memory(information.payload_address + segment.payload_offset, segment.length) };
        memory.write(GuestPhysical(segment.guest_address), bytes);
    }
    let tables = GUEST_ACPI_TABLES;
    memory.write(GuestPhysical(tables), &acpi::tables(tables as u32));

    // SAFETY: VMX operation was entered; VMCS12 holds the revision identifier and is used for nothing else.
    let loaded = unsafe { CurrentVmcs::<RECORD>::load(VMCS12.address(0)) };
    let mut platform = match loaded {
        Ok(platform) => platform,
        Err(failure) => panic!("VMCLEAR or VMPTRLD of vmcs12 failed: {failure:?}"),
    };
    if information.report_capabilities == REPORT_FIELDS {
        let encodings: Vec<u8> = platform.fields().flat_map(u16::to_le_bytes).collect();
        channel.frame(FrameKind::Fields, &[&encodings]);
    }
    let controls = Controls::new(capabilities, information.intercepts);
    let secondary = controls.secondary;
    let mut features = Features::new(
        &mut platform,
        secondary.contains(SecondaryProcessorBased::ENABLE_INVPCID),
        secondary.contains(SecondaryProcessorBased::ENABLE_RDTSCP),
    );
    features.offer_vmx(capabilities, nested_profile(information));
    if let Some(offered) = features.offered.as_ref().filter(|_| information.report_capabilities != REPORT_NOTHING) {
        send_capabilities(channel, FrameKind::OfferedCapabilities, offered);
    }
    let structures = build_structures(capabilities, information);
    let Some(recorder) = RECORDER.take() else { panic!("the recorder is taken twice") };
    let mut link = HostLink::new(channel, information.machine);
    let host = host_state(bases);
    vmcs12::set_up(&mut platform, capabilities, &controls, &host, &structures, information, &features);
    let mut vcpu = Vcpu::new(platform, memory, &mut link, features, *capabilities, controls, information);
    // The context stays where it is until the end of the run.
    let host_stack_pointer = ptr::from_ref(&vcpu.context).addr() as u64;
    vcpu.platform.write(Field::HOST_RSP, host_stack_pointer);
    if let Some(offered) = features.offered {
        let host = HostState { rsp: host_stack_pointer, ..host };
        vcpu.nested = Some(prepare_nested(&mut vcpu, offered, host, &structures, information, mode));
    }

    let entry_check_ticks = if information.report_capabilities == REPORT_NOTHING {
        0
    } else {
        let environment = verdict::environment(&mut vcpu.platform, &features);
        verdict::check_ticks(&mut vcpu.platform, capabilities, &environment)
    };
    let tsc_at_first_entry = processor::time_stamp_counter();
    let mut exits = 0;
    if information.trace_mode == TRACE_STREAM {
        recorder.start_stream();
    }
    let end = run::<RECORD, _>(&mut vcpu, recorder, &mut exits);
    let counts = vcpu.platform.access_counts();
    let counters = Counters {
        exits,
        vmreads: counts.vmreads,
        vmwrites: counts.vmwrites,
        vmptrlds: counts.vmptrlds,
        vmclears: counts.vmclears,
        lost_records: if recorder.streams() { recorder.ring.lost() } else { 0 },
        tsc_at_start,
        tsc_at_first_entry,
        tsc_at_end: processor::time_stamp_counter(),
        entry_check_ticks,
    };
    let text = end_text(&mut vcpu, end);
    let state = final_state(&mut vcpu);
    let channel = &mut *link.channel;
    if end.reason.exit_status() as u8 != 0 && !recorder.streams() {
        history::send_last(recorder, channel);
    }
    report(channel, end, counters, &state, text.bytes())
}

/// VMX for L2: the regions and tables that L1 needs for it.
fn prepare_nested<const RECORD: bool>(
    vcpu: &mut Vcpu<'_, CurrentVmcs<RECORD>>,
    offered: Capabilities,
    host: HostState,
    structures: &Structures,
    information: &BootInformation,
    mode: ShadowingMode,
) -> Box<Nested> {
    let own = vcpu.capabilities.ept_vpid();
    let width = vcpu.features.physical_address_width;
    let revision = vcpu.capabilities.basic().vmcs_revision_identifier();
    // SAFETY: called once, before L2 runs; shadow VMCSs are prepared only where the processor offers shadowing.
    let prepared = unsafe { vcpu.platform.prepare_nested(revision, mode == ShadowingMode::Hardware) };
    if let Err(failure) = prepared {
        panic!("VMCLEAR of a region for nesting failed: {failure:?}");
    }
    let rules = shadow::ept::Rules::new(offered.ept_vpid(), width);
    // SAFETY: called once; nothing else refers to these pages, and the processor does not use them yet.
    let (tables, bitmap) = unsafe { (EPT13.get(), &mut MERGED_MSR_BITMAP.get()[0]) };
    let composition = match Composition::new(tables, EPT13.address(0), own, rules) {
        Ok(composition) => composition,
        Err(error) => panic!("EPT of L3: {error}"),
    };
    let constants = Constants {
        host,
        io_bitmaps: [structures.io_bitmap_a, structures.io_bitmap_b],
        ept_pointer: structures.ept_pointer,
        exception_bitmap: information.exception_intercepts,
        memory_base: information.guest_memory_base,
    };
    let bitmap = MergedBitmap { address: MERGED_MSR_BITMAP.address(0), words: bitmap };
    let hardware = (mode == ShadowingMode::Hardware).then(|| {
        let fields = match information.shadow_fields {
            SHADOW_FIELDS_ALL => Fields::All,
            SHADOW_FIELDS_NONE => Fields::None,
            _ => Fields::Hot,
        };
        let served = Served::new(fields, &offered, &vcpu.capabilities);
        // SAFETY: called once; nothing else refers to these pages, and the processor does not use them yet.
        let [vmread, vmwrite] = unsafe { FIELD_BITMAPS.get() };
        served.fill(vmread, vmwrite);
        vcpu.platform.write(Field::VMREAD_BITMAP, FIELD_BITMAPS.address(0));
        vcpu.platform.write(Field::VMWRITE_BITMAP, FIELD_BITMAPS.address(1));
        Hardware::new(served)
    });
    let looks_ahead = mode == ShadowingMode::Software && information.look_ahead == LOOK_AHEAD_ON;
    let mut nested = Nested::new(offered, width, composition, bitmap, constants, hardware, vcpu.controls);
    nested.look_ahead = looks_ahead.then(Box::default);
    Box::new(nested)
}

/// L2's memory, as L1 maps it.
fn guest_memory(information: &BootInformation) -> &'static mut [u8] {
    let start = ptr::with_exposed_provenance_mut(information.guest_memory_base as usize);
    // SAFETY: the range is mapped writable, belongs to L2 alone, and only the returned slice refers to it; L2 itself
    // writes to it only while L1 does not run.
    unsafe { core::slice::from_raw_parts_mut(start, information.guest_memory_size as usize) }
}

fn build_structures(capabilities: &Capabilities, information: &BootInformation) -> Structures {
    // SAFETY: called once; nothing else refers to these pages, and the processor does not use them yet.
    let ept_pointer = unsafe {
        IO_BITMAPS.get().as_flattened_mut().fill(!0);
        fill_bitmap(&mut MSR_BITMAP.get()[0]);
        ept::build(EPT12.get(), EPT12.address(0), capabilities, information)
    };
    let ept_pointer = match ept_pointer {
        Ok(pointer) => pointer,
        Err(error) => panic!("EPT of L2: {error}"),
    };
    // SAFETY: in VMX operation; `fitness` has checked that INVEPT is offered. Nothing was cached yet if all is well.
    let _ = unsafe { vmx::invept_all() };
    Structures {
        io_bitmap_a: IO_BITMAPS.address(0),
        io_bitmap_b: IO_BITMAPS.address(1),
        msr_bitmap: MSR_BITMAP.address(0),
        ept_pointer,
    }
}

fn host_state(bases: descriptor_table::Bases) -> HostState {
    HostState {
        cr0: processor::read_cr0(),
        cr3: processor::read_cr3(),
        cr4: processor::read_cr4(),
        // SAFETY: both MSRs exist on every processor with VMX and 64-bit mode.
        efer: unsafe { processor::read_msr(msr::IA32_EFER) },
        // SAFETY: as above.
        pat: unsafe { processor::read_msr(msr::IA32_PAT) },
        code_selector: descriptor_table::CODE_SELECTOR,
        data_selector: descriptor_table::DATA_SELECTOR,
        task_selector: descriptor_table::TASK_SELECTOR,
        task_base: bases.task_state,
        gdtr_base: bases.global,
        idtr_base: bases.interrupt,
        // Written once the context has its place.
        rsp: 0,
        rip: world_switch::exit_address(),
    }
}

fn final_state(vcpu: &mut Vcpu<'_, impl Platform>) -> FinalState {
    let general = vcpu.context.general;
    let mut read = |field| vcpu.platform.read(field);
    FinalState {
        rax: general[0],
        rcx: general[1],
        rdx: general[2],
        rbx: general[3],
        rsp: read(Field::GUEST_RSP),
        rbp: general[5],
        rsi: general[6],
        rdi: general[7],
        r8: general[8],
        r9: general[9],
        r10: general[10],
        r11: general[11],
        r12: general[12],
        r13: general[13],
        r14: general[14],
        r15: general[15],
        rip: read(Field::GUEST_RIP),
        rflags: read(Field::GUEST_RFLAGS),
        cr0: read(Field::GUEST_CR0),
        cr2: processor::read_cr2(),
        cr3: read(Field::GUEST_CR3),
        cr4: read(Field::GUEST_CR4),
        efer: read(Field::GUEST_IA32_EFER),
        cs: read(Field::GUEST_CS_SELECTOR),
        cs_base: read(Field::GUEST_CS_BASE),
        ss: read(Field::GUEST_SS_SELECTOR),
        ds: read(Field::GUEST_DS_SELECTOR),
        es: read(Field::GUEST_ES_SELECTOR),
        fs_base: read(Field::GUEST_FS_BASE),
        gs_base: read(Field::GUEST_GS_BASE),
        gdtr_base: read(Field::GUEST_GDTR_BASE),
        idtr_base: read(Field::GUEST_IDTR_BASE),
        interruptibility: read(Field::GUEST_INTERRUPTIBILITY_STATE),
        activity: read(Field::GUEST_ACTIVITY_STATE),
    }
}

/// What is said about the end of a run; of an entry that failed, also which rules it broke.
fn end_text(vcpu: &mut Vcpu<'_, impl Platform>, end: End) -> Text<END_TEXT> {
    let mut text = Text::new();
    // Text cuts what does not fit and never fails.
    let _ = write!(text, "{}", end.text);
    if end.reason == EndReason::EntryFailed {
        if !text.bytes().is_empty() {
            let _ = writeln!(text);
        }
        let environment = verdict::environment(&mut vcpu.platform, &vcpu.features);
        let _ = verdict::explain(&mut vcpu.platform, &vcpu.capabilities, &environment, &mut text);
    }
    text
}

fn report(channel: &mut Channel, end: End, counters: Counters, state: &FinalState, text: &[u8]) -> ! {
    let report = EndReport { reason: end.reason as u32, has_state: 1, value: end.value, counters, state: *state };
    end_with_report(channel, &report, text)
}

fn end_with_text(channel: &mut Channel, reason: EndReason, text: core::fmt::Arguments) -> ! {
    let mut buffer = Text::<END_TEXT>::new();
    // Text cuts what does not fit and never fails.
    let _ = core::fmt::write(&mut buffer, text);
    end_with_report(channel, &EndReport { reason: reason as u32, ..EndReport::default() }, buffer.bytes())
}

fn end_with_report(channel: &mut Channel, report: &EndReport, text: &[u8]) -> ! {
    channel.frame(FrameKind::End, &[report.as_bytes(), text]);
    channel.end_machine()
}
