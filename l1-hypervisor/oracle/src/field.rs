//! Fields that belong together.

use vmcs::field::Field;

/// The fields of a segment register.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is what it is named after")]
pub struct Segment {
    pub selector: Field,
    pub base: Field,
    pub limit: Field,
    pub rights: Field,
}

macro_rules! segments {
    ($($selector:ident $base:ident $limit:ident $rights:ident;)*) => {
        /// ES, CS, SS, DS, FS, GS, LDTR and TR, in the order of their encodings.
        pub const SEGMENTS: &[Segment] = &[$(Segment {
            selector: Field::$selector, base: Field::$base, limit: Field::$limit, rights: Field::$rights,
        },)*];
    };
}

segments! {
    GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_ACCESS_RIGHTS;
    GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_ACCESS_RIGHTS;
    GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_ACCESS_RIGHTS;
    GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_ACCESS_RIGHTS;
    GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_ACCESS_RIGHTS;
    GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_ACCESS_RIGHTS;
    GUEST_LDTR_SELECTOR GUEST_LDTR_BASE GUEST_LDTR_LIMIT GUEST_LDTR_ACCESS_RIGHTS;
    GUEST_TR_SELECTOR GUEST_TR_BASE GUEST_TR_LIMIT GUEST_TR_ACCESS_RIGHTS;
}

/// Number of CS in [`SEGMENTS`].
pub const CS: usize = 1;
/// Number of SS in [`SEGMENTS`].
pub const SS: usize = 2;
/// Number of LDTR in [`SEGMENTS`].
pub const LDTR: usize = 6;
/// Number of TR in [`SEGMENTS`].
pub const TR: usize = 7;

/// The words of controls.
pub const CONTROLS: &[Field] = &[
    Field::PIN_BASED_VM_EXECUTION_CONTROLS,
    Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::PRIMARY_VM_EXIT_CONTROLS,
    Field::VM_ENTRY_CONTROLS,
    Field::VM_FUNCTION_CONTROLS,
];
