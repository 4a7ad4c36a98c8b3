//! Explains why a VMCS cannot be entered: `cargo run -p vmcs --example refused_entry`.
//!
//! A hypervisor would give [`check_all`] its own [`VmcsAccess`](vmcs::access::VmcsAccess) over VMREAD and capabilities read with RDMSR
//! right after VMLAUNCH failed. Here both are filled in by hand, with three mistakes that beginners make.

use vmcs::capability::{Capabilities, MissingMsr};
use vmcs::entry_check::{Environment, check_all};
use vmcs::field::Field;
use vmcs::msr;
use vmcs::software::SoftwareVmcs;

/// A processor with little more than EPT.
fn read_msr(number: u32) -> Option<u64> {
    Some(match number {
        msr::IA32_VMX_BASIC => 0x0058_1000_0000_0001,
        msr::IA32_VMX_PINBASED_CTLS => 0x0000_007f_0000_0016,
        msr::IA32_VMX_PROCBASED_CTLS => 0xf7f9_fffe_0401_e172,
        msr::IA32_VMX_EXIT_CTLS => 0x007f_ffff_0003_6dff,
        msr::IA32_VMX_ENTRY_CTLS => 0x0000_ffff_0000_11ff,
        msr::IA32_VMX_MISC => 0x0004_01e0,
        msr::IA32_VMX_CR0_FIXED0 => 0x8000_0021,
        msr::IA32_VMX_CR0_FIXED1 => 0xffff_ffff,
        msr::IA32_VMX_CR4_FIXED0 => 0x2000,
        msr::IA32_VMX_CR4_FIXED1 => 0x0017_27ff,
        msr::IA32_VMX_VMCS_ENUM => 0x2a,
        msr::IA32_VMX_PROCBASED_CTLS2 => 0x0000_00ff_0000_0000,
        msr::IA32_VMX_EPT_VPID_CAP => 0x0f01_0611_4141,
        _ => return None,
    })
}

fn main() -> Result<(), MissingMsr> {
    let capabilities = Capabilities::read(read_msr)?;
    let mut vmcs = SoftwareVmcs::new();
    // `adjust` sets the bits that must be 1 and tells what cannot be had.
    let adjusted = capabilities.primary().adjust(1 << 31 | 1 << 28);
    println!("primary controls: {:#x}, missing {:#x}, forced {:#x}", adjusted.value, adjusted.missing, adjusted.forced);
    vmcs.set(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, adjusted.value);
    vmcs.set(Field::PIN_BASED_VM_EXECUTION_CONTROLS, capabilities.pin_based().adjust(0).value);
    vmcs.set(Field::PRIMARY_VM_EXIT_CONTROLS, capabilities.primary_exit().adjust(1 << 9).value);
    vmcs.set(Field::VM_ENTRY_CONTROLS, capabilities.entry().adjust(1 << 9).value);
    vmcs.set(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 0x82);
    vmcs.set(Field::MSR_BITMAP, 0x1000);
    // Mistake: write-back memory type, but page-walk length 1.
    vmcs.set(Field::EPT_POINTER, 0x2006);
    // Mistake: a link pointer of 0 instead of all ones, and a null TR.
    vmcs.set(Field::VMCS_LINK_POINTER, 0);

    let mut count = 0;
    check_all(&mut vmcs, &capabilities, &Environment::new(39), |violation| {
        count += 1;
        println!("{violation}");
    });
    println!("{count} rules are broken; the processor reports the first");
    Ok(())
}
