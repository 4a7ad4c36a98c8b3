//! What KVM's `dump_vmcs()` calls the fields, a row a number.
//!
//! Source: the output of Linux 6.1, arch/x86/kvm/vmx/vmx.c, and what later versions add to it (CET, #VE). The numbers are padded with zeros, so that one with fewer digits than
//! its row says was cut off.

use vmcs::field::Field;

/// The parts of a dump: one key means another field in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// From `*** Guest State ***` on.
    Guest,
    /// From `*** Host State ***` on.
    Host,
    /// From `*** Control State ***` on.
    Control,
}

/// A number in a dump.
#[derive(Debug)]
pub struct Row {
    /// Where it stands.
    pub section: Section,
    /// What the line begins with, like `CS:`; empty if the key says it all.
    pub label: &'static str,
    /// What stands before the `=`.
    pub key: &'static str,
    /// The fields that it holds, separated by `:` or `|`, with the least number of digits; empty if another row says the same.
    pub fields: &'static [(Field, usize)],
}

/// The line of a segment register: selector, access rights, limit, base.
macro_rules! segment {
    ($label:literal $selector:ident $rights:ident $limit:ident $base:ident) => {
        [
            Row { section: Section::Guest, label: $label, key: "sel", fields: &[(Field::$selector, 4)] },
            Row { section: Section::Guest, label: $label, key: "attr", fields: &[(Field::$rights, 5)] },
            Row { section: Section::Guest, label: $label, key: "limit", fields: &[(Field::$limit, 8)] },
            Row { section: Section::Guest, label: $label, key: "base", fields: &[(Field::$base, 16)] },
        ]
    };
}

macro_rules! rows {
    ($($section:ident $label:literal $key:literal $([$field:ident $digits:literal])*;)*) => {
        &[$(Row { section: Section::$section, label: $label, key: $key, fields: &[$((Field::$field, $digits)),*] },)*]
    };
}

/// The rows of segment registers.
#[rustfmt::skip]
const SEGMENTS: &[[Row; 4]] = &[
    segment!("ES:" GUEST_ES_SELECTOR GUEST_ES_ACCESS_RIGHTS GUEST_ES_LIMIT GUEST_ES_BASE),
    segment!("CS:" GUEST_CS_SELECTOR GUEST_CS_ACCESS_RIGHTS GUEST_CS_LIMIT GUEST_CS_BASE),
    segment!("SS:" GUEST_SS_SELECTOR GUEST_SS_ACCESS_RIGHTS GUEST_SS_LIMIT GUEST_SS_BASE),
    segment!("DS:" GUEST_DS_SELECTOR GUEST_DS_ACCESS_RIGHTS GUEST_DS_LIMIT GUEST_DS_BASE),
    segment!("FS:" GUEST_FS_SELECTOR GUEST_FS_ACCESS_RIGHTS GUEST_FS_LIMIT GUEST_FS_BASE),
    segment!("GS:" GUEST_GS_SELECTOR GUEST_GS_ACCESS_RIGHTS GUEST_GS_LIMIT GUEST_GS_BASE),
    segment!("LDTR:" GUEST_LDTR_SELECTOR GUEST_LDTR_ACCESS_RIGHTS GUEST_LDTR_LIMIT GUEST_LDTR_BASE),
    segment!("TR:" GUEST_TR_SELECTOR GUEST_TR_ACCESS_RIGHTS GUEST_TR_LIMIT GUEST_TR_BASE),
];

/// All other rows.
#[rustfmt::skip]
const OTHERS: &[Row] = rows! {
    Guest "CR0:" "actual" [GUEST_CR0 16];
    Guest "CR0:" "shadow" [CR0_READ_SHADOW 16];
    Guest "CR0:" "gh_mask" [CR0_GUEST_HOST_MASK 16];
    Guest "CR4:" "actual" [GUEST_CR4 16];
    Guest "CR4:" "shadow" [CR4_READ_SHADOW 16];
    Guest "CR4:" "gh_mask" [CR4_GUEST_HOST_MASK 16];
    Guest "" "CR3" [GUEST_CR3 16];
    Guest "" "PDPTR0" [GUEST_PDPTE0 16];
    Guest "" "PDPTR1" [GUEST_PDPTE1 16];
    Guest "" "PDPTR2" [GUEST_PDPTE2 16];
    Guest "" "PDPTR3" [GUEST_PDPTE3 16];
    Guest "" "RSP" [GUEST_RSP 16];
    Guest "" "RIP" [GUEST_RIP 16];
    Guest "" "RFLAGS" [GUEST_RFLAGS 8];
    Guest "" "DR7" [GUEST_DR7 16];
    Guest "" "Sysenter RSP" [GUEST_IA32_SYSENTER_ESP 16];
    Guest "" "CS:RIP" [GUEST_IA32_SYSENTER_CS 4] [GUEST_IA32_SYSENTER_EIP 16];
    Guest "GDTR:" "limit" [GUEST_GDTR_LIMIT 8];
    Guest "GDTR:" "base" [GUEST_GDTR_BASE 16];
    Guest "IDTR:" "limit" [GUEST_IDTR_LIMIT 8];
    Guest "IDTR:" "base" [GUEST_IDTR_BASE 16];
    Guest "" "EFER" [GUEST_IA32_EFER 16];
    Guest "" "PAT" [GUEST_IA32_PAT 16];
    Guest "" "DebugCtl" [GUEST_IA32_DEBUGCTL 16];
    Guest "" "DebugExceptions" [GUEST_PENDING_DEBUG_EXCEPTIONS 16];
    Guest "" "PerfGlobCtl" [GUEST_IA32_PERF_GLOBAL_CTRL 16];
    Guest "" "BndCfgS" [GUEST_IA32_BNDCFGS 16];
    Guest "" "Interruptibility" [GUEST_INTERRUPTIBILITY_STATE 8];
    Guest "" "ActivityState" [GUEST_ACTIVITY_STATE 8];
    Guest "" "InterruptStatus" [GUEST_INTERRUPT_STATUS 4];
    Guest "" "S_CET" [GUEST_IA32_S_CET 16];
    Guest "" "SSP" [GUEST_SSP 16];
    Guest "" "SSP TABLE" [GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR 16];

    Host "" "RIP" [HOST_RIP 16];
    Host "" "RSP" [HOST_RSP 16];
    Host "" "CS" [HOST_CS_SELECTOR 4];
    Host "" "SS" [HOST_SS_SELECTOR 4];
    Host "" "DS" [HOST_DS_SELECTOR 4];
    Host "" "ES" [HOST_ES_SELECTOR 4];
    Host "" "FS" [HOST_FS_SELECTOR 4];
    Host "" "GS" [HOST_GS_SELECTOR 4];
    Host "" "TR" [HOST_TR_SELECTOR 4];
    Host "" "FSBase" [HOST_FS_BASE 16];
    Host "" "GSBase" [HOST_GS_BASE 16];
    Host "" "TRBase" [HOST_TR_BASE 16];
    Host "" "GDTBase" [HOST_GDTR_BASE 16];
    Host "" "IDTBase" [HOST_IDTR_BASE 16];
    Host "" "CR0" [HOST_CR0 16];
    Host "" "CR3" [HOST_CR3 16];
    Host "" "CR4" [HOST_CR4 16];
    Host "" "Sysenter RSP" [HOST_IA32_SYSENTER_ESP 16];
    Host "" "CS:RIP" [HOST_IA32_SYSENTER_CS 4] [HOST_IA32_SYSENTER_EIP 16];
    Host "" "EFER" [HOST_IA32_EFER 16];
    Host "" "PAT" [HOST_IA32_PAT 16];
    Host "" "PerfGlobCtl" [HOST_IA32_PERF_GLOBAL_CTRL 16];
    Host "" "S_CET" [HOST_IA32_S_CET 16];
    Host "" "SSP" [HOST_SSP 16];
    Host "" "SSP TABLE" [HOST_IA32_INTERRUPT_SSP_TABLE_ADDR 16];

    Control "" "CPUBased" [PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS 8];
    Control "" "SecondaryExec" [SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS 8];
    Control "" "TertiaryExec" [TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS 16];
    Control "" "PinBased" [PIN_BASED_VM_EXECUTION_CONTROLS 8];
    Control "" "EntryControls" [VM_ENTRY_CONTROLS 8];
    Control "" "ExitControls" [PRIMARY_VM_EXIT_CONTROLS 8];
    Control "" "ExceptionBitmap" [EXCEPTION_BITMAP 8];
    Control "" "PFECmask" [PAGE_FAULT_ERROR_CODE_MASK 8];
    Control "" "PFECmatch" [PAGE_FAULT_ERROR_CODE_MATCH 8];
    Control "VMEntry:" "intr_info" [VM_ENTRY_INTERRUPTION_INFORMATION 8];
    Control "VMEntry:" "errcode" [VM_ENTRY_EXCEPTION_ERROR_CODE 8];
    Control "VMEntry:" "ilen" [VM_ENTRY_INSTRUCTION_LENGTH 8];
    Control "VMExit:" "intr_info" [VM_EXIT_INTERRUPTION_INFORMATION 8];
    Control "VMExit:" "errcode" [VM_EXIT_INTERRUPTION_ERROR_CODE 8];
    Control "VMExit:" "ilen" [VM_EXIT_INSTRUCTION_LENGTH 8];
    Control "" "reason" [EXIT_REASON 8];
    Control "" "qualification" [EXIT_QUALIFICATION 16];
    Control "IDTVectoring:" "info" [IDT_VECTORING_INFORMATION 8];
    Control "IDTVectoring:" "errcode" [IDT_VECTORING_ERROR_CODE 8];
    Control "" "TSC Offset" [TSC_OFFSET 16];
    Control "" "TSC Multiplier" [TSC_MULTIPLIER 16];
    // Said by InterruptStatus already.
    Control "" "SVI|RVI";
    Control "" "TPR Threshold" [TPR_THRESHOLD 2];
    Control "" "APIC-access addr" [APIC_ACCESS_ADDRESS 16];
    Control "" "virt-APIC addr" [VIRTUAL_APIC_ADDRESS 16];
    Control "" "PostedIntrVec" [POSTED_INTERRUPT_NOTIFICATION_VECTOR 2];
    Control "" "EPT pointer" [EPT_POINTER 16];
    Control "" "PLE Gap" [PLE_GAP 8];
    Control "" "Window" [PLE_WINDOW 8];
    Control "" "Virtual processor ID" [VIRTUAL_PROCESSOR_IDENTIFIER 4];
    Control "" "VE info address" [VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS 16];
};

/// Whether lines may begin with this.
#[must_use]
pub fn is_label(word: &str) -> bool {
    word.ends_with(':') && rows().any(|row| row.label == word)
}

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SEGMENTS.iter().flatten().chain(OTHERS)
}

/// The row for a key that ends `words`, of which the first may be anything; `label` is what the line, or one before it, began with.
#[must_use]
pub fn find(section: Section, label: &str, words: &[&str]) -> Option<&'static Row> {
    let rank = |row: &&'static Row| {
        let length = row.key.split(' ').count();
        let begin = words.len().checked_sub(length)?;
        if !words.iter().skip(begin).copied().eq(row.key.split(' ')) {
            return None;
        }
        let before = begin.checked_sub(1).and_then(|index| words.get(index));
        match row.label {
            "" => Some((1, length)),
            own if before == Some(&own) => Some((2, length)),
            own if own == label => Some((0, length)),
            _ => None,
        }
    };
    rows()
        .filter(|row| row.section == section)
        .filter_map(|row| Some((rank(&row)?, row)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, row)| row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcs::field::Width;

    #[test]
    fn no_field_and_no_key_stands_twice() {
        let mut fields: Vec<Field> = rows().flat_map(|row| row.fields).map(|(field, _)| *field).collect();
        let count = fields.len();
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(fields.len(), count);
        for row in rows() {
            let twins = rows().filter(|other| (other.section, other.label, other.key) == (row.section, row.label, row.key));
            assert_eq!(twins.count(), 1, "{row:?}");
            let mut words = vec![row.label];
            words.extend(row.key.split(' '));
            assert!(find(row.section, "", &words).is_some_and(|found| std::ptr::eq(found, row)), "{row:?}");
        }
    }

    #[test]
    fn the_digits_hold_every_value_but_where_kernel_pads_less() {
        for (field, digits) in rows().flat_map(|row| row.fields) {
            let full = match field.width() {
                Width::Bits16 => 4,
                Width::Bits32 => 8,
                Width::Bits64 | Width::Natural => 16,
            };
            assert!(*digits <= full, "{field}");
        }
    }

    #[test]
    fn the_longest_key_and_the_nearest_label_win() {
        let field =
            |label, words: &[&str]| find(Section::Guest, label, words).and_then(|row| row.fields.first()).map(|row| row.0);
        assert_eq!(field("", &["kvm_intel:", "RSP"]), Some(Field::GUEST_RSP));
        assert_eq!(field("", &["Sysenter", "RSP"]), Some(Field::GUEST_IA32_SYSENTER_ESP));
        assert_eq!(field("CS:", &["limit"]), Some(Field::GUEST_CS_LIMIT));
        assert_eq!(field("CS:", &["DS:", "limit"]), Some(Field::GUEST_DS_LIMIT));
        assert_eq!(field("", &["limit"]), None);
        assert_eq!(field("", &[]), None);
    }
}
