use super::rows::rows;
use super::*;
use proptest::prelude::*;

const BROKEN_GUEST: &str = include_str!("../../tests/dumps/kvm-broken-guest.txt");
const GARBLED: &str = include_str!("../../tests/dumps/kvm-garbled.txt");

fn one(text: &str) -> Dump {
    let mut dumps = read(text).expect("a dump");
    assert_eq!(dumps.len(), 1);
    dumps.remove(0)
}

#[test]
fn a_dump_in_a_log_is_read_whole() {
    let dump = one(BROKEN_GUEST);
    assert_eq!(dump.processor, Some(3));
    assert!(dump.remarks.is_empty(), "{:?}", dump.remarks);
    assert_eq!(dump.iter().count(), 114);
    for (field, value) in [
        (Field::GUEST_CR0, 0x8005_0033),
        (Field::CR0_GUEST_HOST_MASK, 0xffff_ffff_fffe_fff7),
        (Field::GUEST_IA32_SYSENTER_EIP, 0xffff_ffff_81c0_1590),
        (Field::GUEST_CS_ACCESS_RIGHTS, 0xe09b),
        (Field::GUEST_IDTR_LIMIT, 0xfff),
        (Field::HOST_CR3, 0x1_0d2f_2004),
        (Field::HOST_TR_SELECTOR, 0x40),
        (Field::EXIT_REASON, 0x8000_0021),
        (Field::VM_EXIT_INSTRUCTION_LENGTH, 3),
        (Field::VIRTUAL_APIC_ADDRESS, 0x1_0e5f_1000),
        (Field::VIRTUAL_PROCESSOR_IDENTIFIER, 1),
        (Field::VM_ENTRY_MSR_LOAD_COUNT, 1),
        (Field::VM_EXIT_MSR_STORE_COUNT, 0),
    ] {
        assert_eq!(dump.get(field), Some(value), "{field}");
    }
    let list = [MsrEntry { msr: Hex(0x600), value: Hex(0xffff_fe00_000a_7000) }];
    assert_eq!(dump.msr_lists.get("host autoload").map(Vec::as_slice), Some(list.as_slice()));
}

#[test]
fn what_is_garbled_is_named_and_the_rest_is_read() {
    let dump = one(GARBLED);
    assert_eq!(dump.get(Field::GUEST_IA32_SYSENTER_EIP), Some(0xffff_ffff_81c0_1590), "a broken line");
    assert_eq!(dump.get(Field::VIRTUAL_APIC_ADDRESS), Some(0x1_0e5f_1000), "a line broken after the sign");
    for field in
        [Field::GUEST_CR3, Field::GUEST_RIP, Field::GUEST_CS_LIMIT, Field::GUEST_IA32_DEBUGCTL, Field::PRIMARY_VM_EXIT_CONTROLS]
    {
        assert_eq!(dump.get(field), None, "{field}");
    }
    let lines: Vec<_> = dump.remarks.iter().map(|remark| remark.line).collect();
    assert_eq!(lines, [Some(7), Some(11), Some(12), Some(24)], "{:?}", dump.remarks);
}

#[test]
fn several_dumps_are_kept_apart() {
    let text = format!("{BROKEN_GUEST}{}", BROKEN_GUEST.replace("0xffffffff81a02f40", "0x0000000000001000"));
    let rips: Vec<_> = read(&text).expect("two").iter().map(|dump| dump.get(Field::GUEST_RIP)).collect();
    assert_eq!(rips, [Some(0xffff_ffff_81a0_2f40), Some(0x1000)]);
    // Without the line that names the CPU.
    let headless: String = text.lines().filter(|line| !line.contains("attempted")).map(|line| format!("{line}\n")).collect();
    assert_eq!(read(&headless).expect("two").len(), 2);
}

#[test]
fn an_efer_that_is_not_the_fields_is_left_out() {
    for remark in ["(effective)", "(autoload)"] {
        let dump = one(&BROKEN_GUEST.replacen("0x0000000000000d01", &format!("0x0000000000000d01 {remark}"), 1));
        assert_eq!(dump.get(Field::GUEST_IA32_EFER), None);
        assert_eq!(dump.get(Field::HOST_IA32_EFER), Some(0xd01));
        assert!(dump.remarks.is_empty());
    }
}

#[test]
fn counts_of_lists_are_known_only_from_kernels_that_print_them() {
    let dump = one(&BROKEN_GUEST.replace(" TertiaryExec=0x0000000000000000", ""));
    assert_eq!(dump.get(Field::VM_ENTRY_MSR_LOAD_COUNT), None);
}

#[test]
fn unknown_keys_in_a_line_are_named() {
    let dump = one("*** Guest State ***\nCR3 = 0x0000000000001000 CR9 = 0x5\n");
    assert_eq!(dump.remarks.first().map(|remark| (remark.line, remark.problem.as_str())), Some((Some(2), "`CR9` is not known")));
    assert!(read("*** Guest State ***\n").is_err() && read("CR3 = 0x1\n").is_err());
}

/// A dump with these values, written by the rows.
fn written(values: &[u64], prefix: &str) -> (String, Vec<(Field, u64)>) {
    let mut text = String::new();
    let mut expected = Vec::new();
    for (heading, section) in SECTIONS {
        text.push_str(&format!("{prefix}{heading}\n"));
        for (row, value) in rows().zip(values).filter(|(row, _)| row.section == section) {
            let numbers: Vec<String> = row
                .fields
                .iter()
                .map(|(field, digits)| {
                    let value = value & field.width().mask();
                    expected.push((*field, value));
                    format!("{value:0digits$x}")
                })
                .collect();
            let sign = if value % 2 == 0 { "=" } else { " = 0x" };
            let number = if numbers.is_empty() { "00|00".to_owned() } else { numbers.join(":") };
            let sign = if numbers.len() == 1 { sign } else { "=" };
            text.push_str(&format!("{prefix}{}  {}{sign}{number}\n", row.label, row.key));
        }
    }
    expected.sort_unstable();
    (text, expected)
}

proptest! {
    #[test]
    fn what_the_rows_write_is_read_back(
        values in proptest::collection::vec(any::<u64>(), rows().count()),
        prefix in prop::sample::select(vec!["", "[  1.2] kvm_intel: ", "> Nov 22 17:25:51 host kernel: [1.2][T7] ", "\u{1b}[33mkvm_intel: \u{1b}[0m"]),
    ) {
        let (text, expected) = written(&values, prefix);
        let dump = one(&text);
        prop_assert!(dump.remarks.is_empty(), "{:?}", dump.remarks);
        let counts: Vec<Field> = LISTS.iter().map(|(_, count)| *count).collect();
        let read: Vec<_> = dump.iter().filter(|(field, _)| !counts.contains(field)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_damage_panics(damage in proptest::collection::vec((0..BROKEN_GUEST.len(), any::<char>()), 1..20)) {
        let mut letters: Vec<char> = BROKEN_GUEST.chars().collect();
        for (place, letter) in damage {
            letters[place] = letter;
        }
        let _ = read(&letters.into_iter().collect::<String>());
    }
}
