//! The processors that Bochs can be, by short names.

/// A processor model of Bochs 2.7 that has VMX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// What users type.
    pub name: &'static str,
    /// What Bochs calls it.
    pub bochs: &'static str,
    /// What to expect of it, in a few words.
    pub description: &'static str,
}

/// The models, oldest first.
pub const MODELS: &[Model] = &[
    Model { name: "penryn", bochs: "core2_penryn_t9600", description: "VMX without EPT: L1 refuses it" },
    Model { name: "lynnfield", bochs: "corei5_lynnfield_750", description: "EPT without unrestricted guest: L1 refuses it" },
    Model { name: "arrandale", bochs: "corei5_arrandale_m520", description: "EPT, unrestricted guest, no VMCS shadowing" },
    Model { name: "sandy-bridge", bochs: "corei7_sandy_bridge_2600k", description: "EPT, no VMCS shadowing" },
    Model { name: "ivy-bridge", bochs: "corei7_ivy_bridge_3770k", description: "EPT, no VMCS shadowing" },
    Model { name: "haswell", bochs: "corei7_haswell_4770", description: "VMCS shadowing, VM functions (the default)" },
    Model { name: "broadwell", bochs: "broadwell_ult", description: "VMCS shadowing, PML" },
    Model { name: "skylake-x", bochs: "corei7_skylake_x", description: "VMCS shadowing, PML, AVX-512" },
    Model { name: "cannonlake", bochs: "corei3_cnl", description: "VMCS shadowing" },
    Model { name: "icelake", bochs: "corei7_icelake_u", description: "VMCS shadowing" },
    Model { name: "tigerlake", bochs: "tigerlake", description: "VMCS shadowing, CET" },
];

/// The model used where the user names none.
pub const DEFAULT: &str = "haswell";

/// The model with the name `name`: its short name, in any case and with `_` for `-`, or Bochs's own name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Model> {
    let short = name.to_ascii_lowercase().replace('_', "-");
    MODELS.iter().find(|model| model.name == short || model.bochs.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_names_are_found() {
        for name in ["haswell", "Haswell", "corei7_haswell_4770"] {
            assert_eq!(find(name).map(|model| model.bochs), Some("corei7_haswell_4770"));
        }
        assert_eq!(find("skylake_x").map(|model| model.name), Some("skylake-x"));
        assert_eq!(find("zen"), None);
        assert!(find(DEFAULT).is_some());
    }
}
