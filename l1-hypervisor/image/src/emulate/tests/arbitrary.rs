//! Whatever the guest's code, registers and tables are: no panic, bounded work, and an error changes no register.

use super::*;
use proptest::prelude::*;

fn mode() -> impl Strategy<Value = Bitness> {
    prop_oneof![Just(Bitness::Bits16), Just(Bitness::Bits32), Just(Bitness::Bits64)]
}

/// Values near what is mapped and near the ends, and any others.
fn value() -> impl Strategy<Value = u64> {
    let near =
        prop_oneof![Just(0), Just(DATA), Just(DEVICE), Just(DEVICE + 4096), Just(DEVICE + 8192), Just(1 << 47), Just(1 << 32)];
    prop_oneof![(near, -20_i64..20).prop_map(|(near, offset)| u64::wrapping_add_signed(near, offset)), any::<u64>()]
}

/// Any bytes, and bytes that are likely an emulated instruction.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let prefixes =
        prop::collection::vec(prop::sample::select(vec![0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x36, 0x64, 0x65, 0x48, 0x41]), 0..4);
    let opcodes: Vec<Vec<u8>> = (0x00..=0x3f)
        .chain(0x80..=0x8e)
        .chain(0xa0..=0xaf)
        .chain([0xc6, 0xc7, 0xf6, 0xf7, 0xfe, 0xff])
        .map(|opcode| vec![opcode])
        .chain(
            [0xa3, 0xab, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xba, 0xbb, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3].map(|opcode| vec![0x0f, opcode]),
        )
        .chain([0xf0, 0xf1].map(|opcode| vec![0x0f, 0x38, opcode]))
        .collect();
    let likely = (prefixes, prop::sample::select(opcodes), any::<[u8; 15]>())
        .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest.to_vec()].concat());
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 15), 3 => likely]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]
    #[test]
    fn nothing_panics(
        mode in mode(),
        code in code(),
        general in prop::collection::vec(value(), 16),
        (rsp, rflags) in (value(), any::<u64>()),
        segment_bases in prop::collection::vec(value(), 6),
        rip in prop_oneof![3 => Just(CODE), 1 => Just(CODE + 4090), 1 => value()],
        paging in any::<[bool; 3]>(),
    ) {
        let mut guest = Guest::new(mode);
        guest.general.copy_from_slice(&general);
        (guest.rsp, guest.rflags, guest.rip) = (rsp, rflags, rip);
        guest.segment_bases.copy_from_slice(&segment_bases);
        guest.segment_bases[1] = 0;
        let [on, physical_extension, write_protect] = paging;
        if mode != Bitness::Bits64 {
            guest.paging.cr0 = u64::from(on) << 31 | u64::from(write_protect) << 16;
            guest.paging.cr4 = u64::from(physical_extension) << 5;
            guest.paging.efer = 0;
            guest.paging.pdptes = [TABLES | 1; 4];
        }
        let before = (guest.general, guest.rsp, guest.rflags);
        let result = guest.run(&code);
        let repeated = code.iter().any(|byte| matches!(byte, 0xf2 | 0xf3));
        if result.is_err() && !repeated {
            prop_assert_eq!((guest.general, guest.rsp, guest.rflags), before);
            prop_assert!(guest.device.log.is_empty(), "a failed instruction reached the device");
        }
        prop_assert!(guest.device.log.len() <= 2 * string::BYTES_PER_CALL);
    }
}
