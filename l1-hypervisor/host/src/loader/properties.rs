//! Whatever a guest file and the options say, loading ends, does not panic, and keeps what [`super`] promises: the
//! helper [`load`] checks that.

use super::test_support::{ElfFile, Load, linux_file, linux_header, load, multiboot_header, options};
use super::{GuestFormat, Initrd, LoadOptions, Offence};
use l1_protocol::guest::{NOTE_OWNER, NOTE_START_MODE};
use proptest::prelude::*;

/// A valid file of each format.
fn valid_files() -> Vec<(GuestFormat, Vec<u8>)> {
    let long_mode = ElfFile {
        loads: vec![Load { memory_size: 0x8000, ..Load::at(0x10_0000, [0xf4; 64]) }, Load::at(0x20_0000, [1; 64])],
        notes: vec![(NOTE_OWNER, NOTE_START_MODE, vec![2, 0, 0, 0])],
        symbols: vec![("main", 0x10_0000), ("more", 0x10_0010)],
        ..ElfFile::class_64()
    };
    let real_mode = ElfFile {
        entry: 0x1_0000,
        loads: vec![Load::at(0x1_0000, [0xf4; 64])],
        notes: vec![(NOTE_OWNER, NOTE_START_MODE, vec![0; 4])],
        ..ElfFile::class_64()
    };
    let multiboot = ElfFile { symbols: vec![("start", 0x10_0000)], ..ElfFile::multiboot(&multiboot_header(3, [0; 5])) };
    let addresses = [0x20_0000, 0x20_0000, 0x20_0020, 0x20_1000, 0x20_0010];
    vec![
        (GuestFormat::Elf64, long_mode.build()),
        (GuestFormat::Elf64, real_mode.build()),
        (GuestFormat::Multiboot, multiboot.build()),
        (GuestFormat::Multiboot, [multiboot_header(0x1_0000, addresses), vec![0xf4; 64]].concat()),
        (GuestFormat::Linux, linux_file(linux_header(0x200), 0x200)),
        (GuestFormat::Flat, vec![0xf4; 512]),
    ]
}

#[test]
fn formats_are_told_apart_by_content() {
    for (format, file) in valid_files() {
        assert_eq!(load(&file, &options()).map(|guest| guest.format), Ok(format));
    }
    assert_eq!(load(&[], &options()), Err(Offence::Empty));
    let boot_sector = [vec![0xf4; 510], vec![0x55, 0xaa]].concat();
    assert_eq!(load(&boot_sector, &options()).map(|guest| guest.format), Ok(GuestFormat::Flat));
}

/// Values at which arithmetic on addresses and sizes goes wrong.
fn interesting_value() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 0x1000, 0x7c00, 0x9000, 0x9_ffff, 0xa_0000, 0x10_0000, 32 << 20, 0x7fff_ffff, 0xffff_ffff, 1 << 63];
    prop_oneof![any::<u64>(), prop::sample::select(edges.to_vec()), prop::sample::select(vec![u64::MAX, u64::MAX - 0xfff])]
}

/// Some bytes of a file overwritten by a value of 1, 2, 4 or 8 bytes.
fn mutation() -> impl Strategy<Value = (prop::sample::Index, usize, u64)> {
    (any::<prop::sample::Index>(), prop::sample::select(vec![1, 2, 4, 8]), interesting_value())
}

/// Most fields that matter lie in the first bytes of a file; offsets are drawn from as many of them as this.
fn mutate(file: &mut [u8], mutations: &[(prop::sample::Index, usize, u64)], head: usize) {
    for (place, width, value) in mutations {
        let offset = place.index(file.len().min(head));
        let width = (*width).min(file.len() - offset);
        file[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_loaded_or_refused(file in prop::collection::vec(any::<u8>(), 0..2048), memory in interesting_value()) {
        let _ = load(&file, &LoadOptions { memory_size: memory, ..options() });
    }

    #[test]
    fn mutated_files_are_loaded_or_refused(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..4),
        head in prop::sample::select(vec![64, 256, 0x280, usize::MAX]),
        length in prop::option::of(any::<prop::sample::Index>()),
        initrd in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
        command_line in "[a-z ]{0,8}",
        memory in interesting_value(),
        load_at in prop::option::of(interesting_value()),
    ) {
        let files = valid_files();
        let (format, mut file) = files[which.index(files.len())].clone();
        mutate(&mut file, &mutations, head);
        if let Some(length) = length {
            file.truncate(length.index(file.len() + 1));
        }
        let initrd = initrd.as_deref().map(|bytes| Initrd { file_name: "initrd", bytes });
        let plain = options();
        let _ = load(&file, &plain);
        // Options that the format takes, so that they do not hide what lies behind them.
        let takes_initrd = matches!(format, GuestFormat::Linux | GuestFormat::Multiboot);
        let takes_line = format != GuestFormat::Flat;
        let _ = load(&file, &LoadOptions {
            initrd: initrd.filter(|_| takes_initrd),
            command_line: if takes_line { &command_line } else { "" },
            load_at: load_at.filter(|_| !takes_line),
            ..plain
        });
        let _ = load(&file, &LoadOptions { memory_size: memory, initrd, ..plain });
    }

    #[test]
    fn segments_anywhere_are_loaded_or_refused(
        segments in prop::collection::vec((interesting_value(), interesting_value(), 0usize..64), 1..5),
        entry in interesting_value(),
        which in any::<prop::sample::Index>(),
    ) {
        let loads: Vec<Load> = segments.iter().map(|(address, size, bytes)| {
            let load = Load::at(*address, vec![1; *bytes]);
            Load { memory_size: (size >> which.index(64)).max(*bytes as u64), ..load }
        }).collect();
        let entry = if entry % 2 == 0 { loads[which.index(loads.len())].physical_address } else { entry };
        let _ = load(&ElfFile { entry, loads, ..ElfFile::class_64() }.build(), &options());
    }
}
