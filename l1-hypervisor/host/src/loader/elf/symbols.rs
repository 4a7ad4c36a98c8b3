//! The symbols of an ELF file, for traces that name places in the guest.

use super::super::GuestSymbol;
use super::super::error::Offence;
use super::malformed;
use object::elf;
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, SectionHeader, Sym};

/// The most bytes of a symbol's name that are kept. A file could otherwise name each of many symbols by the whole of a
/// long string table.
const SYMBOL_NAME_MAXIMUM: usize = 1024;

/// Functions, objects and labels; a file without a symbol table has none.
pub fn read<Header: FileHeader<Endian = LittleEndian>>(header: &Header, file: &[u8]) -> Result<Vec<GuestSymbol>, Offence> {
    let sections = header.sections(LittleEndian, file).map_err(malformed)?;
    let table = sections.symbols(LittleEndian, file, elf::SHT_SYMTAB).map_err(malformed)?;
    if table.is_empty() {
        return Ok(Vec::new());
    }
    let strings = sections.section(table.string_section()).map_err(malformed)?;
    let strings = strings.data(LittleEndian, file).map_err(malformed)?;
    let mut symbols = Vec::new();
    for symbol in table.iter() {
        let named = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_OBJECT | elf::STT_NOTYPE);
        let placed = !symbol.is_undefined(LittleEndian) && !symbol.is_common(LittleEndian) && !symbol.is_absolute(LittleEndian);
        if symbol.st_name(LittleEndian) == 0 || !named || !placed {
            continue;
        }
        let name = strings.get(symbol.st_name(LittleEndian) as usize..);
        let name = name.ok_or_else(|| Offence::ElfMalformed("a symbol's name lies outside the string table".to_owned()))?;
        let name = &name[..name.len().min(SYMBOL_NAME_MAXIMUM)];
        let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
        let (address, size) = (symbol.st_value(LittleEndian).into(), symbol.st_size(LittleEndian).into());
        symbols.push(GuestSymbol { address, size, name: String::from_utf8_lossy(name).into_owned() });
    }
    symbols.sort();
    Ok(symbols)
}

#[cfg(test)]
mod tests {
    use super::super::super::test_support::{ElfFile, load, options};
    use super::*;

    #[test]
    fn symbols_are_read_in_order() {
        let mut file = ElfFile::class_64();
        file.symbols = vec![("later", 0x10_0800), ("main", 0x10_0000)];
        let symbol = |name: &str, address| GuestSymbol { address, size: 16, name: name.to_owned() };
        let guest = file.build();
        let expected = vec![symbol("main", 0x10_0000), symbol("later", 0x10_0800)];
        assert_eq!(load(&guest, &options()).expect("valid").symbols, expected);
        // The bytes of a built-in guest lie at any address.
        let shifted = [&[0], guest.as_slice()].concat();
        assert_eq!(load(&shifted[1..], &options()).expect("valid").symbols, expected);
    }

    #[test]
    fn a_long_string_table_is_not_copied_for_each_symbol() {
        let name: &'static str = String::leak("x".repeat(1 << 20));
        let file = ElfFile { symbols: vec![(name, 0x10_0000)], ..ElfFile::class_64() };
        assert_eq!(load(&file.build(), &options()).expect("valid").symbols[0].name.len(), SYMBOL_NAME_MAXIMUM);
    }

    #[test]
    fn a_symbol_without_a_name_in_the_file_is_refused() {
        let mut file = ElfFile { symbols: vec![("main", 0x10_0000)], ..ElfFile::class_64() }.build();
        let name = file.windows(5).rposition(|bytes| bytes == b"main\0").expect("there");
        // The symbol before the string table: its st_name is its first field, the table begins a byte before the name.
        file[name - 1 - 24..name - 1 - 20].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        assert!(matches!(load(&file, &options()), Err(Offence::ElfMalformed(_))));
    }
}
