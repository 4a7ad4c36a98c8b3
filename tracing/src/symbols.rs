//! Functions of the guest by address.
//!
//! The host fills the table from the guest's ELF file, which may be anybody's: overlapping, empty and absurd symbols
//! are sorted out when the table is made, names are made fit to print, and a lookup is a binary search whatever the
//! file says.

use crate::nested::LEVEL_L2;

/// A symbol without a size (assembly labels) reaches to the next symbol, but not further than this many bytes.
const UNSIZED_REACH: u64 = 4096;
/// Longest name kept, in characters.
const NAME_MAXIMUM: usize = 200;

/// Functions of the guest, none overlapping another.
#[derive(Debug, Clone, Default)]
pub struct SymbolTable {
    names: Vec<String>,
    spans: Vec<Span>,
    /// Whether L3 runs the same functions at the same addresses.
    nested: bool,
}

/// The bytes from `start` to before `end` belong to the function `name`, which starts at `function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
    function: u64,
    name: usize,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'a> {
    /// Name of the function, demangled.
    pub function: &'a str,
    /// Bytes from its start.
    pub offset: u64,
}

impl core::fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}+{:#x}", self.function, self.offset)
    }
}

impl SymbolTable {
    /// A table of (address, size in bytes, name as the ELF file has it).
    ///
    /// Where functions overlap, the one that starts last wins; of several at one address the one with the greatest
    /// size, then the first by name. Rust names lose their hash.
    pub fn new(symbols: impl IntoIterator<Item = (u64, u64, String)>) -> Self {
        let mut symbols: Vec<_> = symbols.into_iter().filter(|(_, _, name)| !name.is_empty()).collect();
        symbols.sort_by(|a, b| (a.0, b.1, &a.2).cmp(&(b.0, a.1, &b.2)));
        symbols.dedup_by_key(|(address, _, _)| *address);

        let mut spans = Spans::default();
        for (name, (address, size, _)) in symbols.iter().enumerate() {
            let next = symbols.get(name + 1).map_or(u64::MAX, |(next, _, _)| *next);
            spans.open(*address, *size, next, name);
        }
        Self { spans: spans.finish(), names: symbols.iter().map(|(_, _, name)| printable(name)).collect(), nested: false }
    }

    /// The same table for a guest hypervisor whose L3 guests are functions of its own program, at the addresses they
    /// have there. Without this, addresses of L3 have no names: another program would be named wrongly.
    #[must_use]
    pub fn with_nested_guests(self) -> Self {
        Self { nested: true, ..self }
    }

    /// Whether the table is about the guest of this level.
    #[must_use]
    pub const fn covers(&self, level: u8) -> bool {
        level <= LEVEL_L2 || self.nested
    }

    /// The function that contains `address` of the guest of this level.
    #[must_use]
    pub fn lookup_at(&self, level: u8, address: u64) -> Option<Location<'_>> {
        if self.covers(level) { self.lookup(address) } else { None }
    }

    /// The function that contains `address`.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<Location<'_>> {
        let behind = self.spans.partition_point(|span| span.start <= address);
        let span = self.spans.get(behind.checked_sub(1)?).filter(|span| address < span.end)?;
        Some(Location { function: self.names.get(span.name)?, offset: address - span.function })
    }

    /// Whether the table knows no function at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// Cuts functions, given in order of their addresses, into spans that do not overlap.
#[derive(Default)]
struct Spans {
    done: Vec<Span>,
    /// Functions that have begun and not ended; the last one owns the bytes from its `start` on.
    open: Vec<Span>,
}

impl Spans {
    fn open(&mut self, address: u64, size: u64, next: u64, name: usize) {
        self.close_until(address);
        let end = match (size, self.open.last_mut()) {
            (0, outer) => {
                let reach = next.min(address.saturating_add(UNSIZED_REACH));
                outer.map_or(reach, |outer| reach.min(outer.end))
            }
            (size, _) => address.saturating_add(size),
        };
        if let Some(outer) = self.open.last_mut() {
            self.done.push(Span { end: address, ..*outer });
        }
        self.open.push(Span { start: address, end, function: address, name });
    }

    /// Ends the functions that end at or before `address`, and gives what lies behind them to the function around.
    fn close_until(&mut self, address: u64) {
        while let Some(span) = self.open.pop_if(|span| span.end <= address) {
            self.done.push(span);
            // Functions that overlap without nesting may have ended before; theirs is nothing any more.
            while self.open.pop_if(|outer| outer.end <= span.end).is_some() {}
            if let Some(outer) = self.open.last_mut() {
                outer.start = span.end;
            }
        }
    }

    fn finish(mut self) -> Vec<Span> {
        self.close_until(u64::MAX);
        self.done.retain(|span| span.start < span.end);
        self.done
    }
}

/// `name` demangled, without the hash, without anything that could upset a terminal or a line-based file.
fn printable(name: &str) -> String {
    let demangled = format!("{:#}", rustc_demangle::demangle(name));
    let fit = |c: char| if c.is_ascii_graphic() || c.is_alphanumeric() || c == ' ' { c } else { '?' };
    let mut printable: String = demangled.chars().take(NAME_MAXIMUM).map(fit).collect();
    if demangled.chars().nth(NAME_MAXIMUM).is_some() {
        printable.push('…');
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(symbols: &[(u64, u64, &str)]) -> SymbolTable {
        SymbolTable::new(symbols.iter().map(|(address, size, name)| (*address, *size, (*name).to_owned())))
    }

    fn place(table: &SymbolTable, address: u64) -> Option<String> {
        table.lookup(address).map(|location| location.to_string())
    }

    #[test]
    fn finds_the_function_around_an_address() {
        let table = table(&[(0x2000, 0x10, "second"), (0x1000, 0x20, "first")]);
        assert_eq!(place(&table, 0xfff), None);
        assert_eq!(place(&table, 0x1000).as_deref(), Some("first+0x0"));
        assert_eq!(place(&table, 0x101f).as_deref(), Some("first+0x1f"));
        assert_eq!(place(&table, 0x1020), None);
        assert_eq!(place(&table, 0x200f).as_deref(), Some("second+0xf"));
        assert_eq!(place(&table, u64::MAX), None);
        assert!(!table.is_empty() && SymbolTable::default().is_empty());
    }

    #[test]
    fn labels_without_size_reach_to_the_next_symbol() {
        let table = table(&[(0x1000, 0, "start"), (0x1010, 0, "loop"), (0x1100, 0x10, "after")]);
        assert_eq!(place(&table, 0x100f).as_deref(), Some("start+0xf"));
        assert_eq!(place(&table, 0x10ff).as_deref(), Some("loop+0xef"));
        assert_eq!(place(&table, 0x1110), None);
    }

    #[test]
    fn the_last_label_does_not_claim_all_memory() {
        let table = table(&[(0x1000, 0, "start")]);
        assert_eq!(place(&table, 0x1fff).as_deref(), Some("start+0xfff"));
        assert_eq!(place(&table, 0x2000), None);
    }

    #[test]
    fn inner_functions_win_and_outer_ones_go_on_behind_them() {
        let table = table(&[(0x1000, 0x100, "outer"), (0x1010, 0x10, "inner"), (0x1040, 0, "label")]);
        assert_eq!(place(&table, 0x100f).as_deref(), Some("outer+0xf"));
        assert_eq!(place(&table, 0x1010).as_deref(), Some("inner+0x0"));
        assert_eq!(place(&table, 0x1020).as_deref(), Some("outer+0x20"));
        assert_eq!(place(&table, 0x10ff).as_deref(), Some("label+0xbf"));
        assert_eq!(place(&table, 0x1100), None);
    }

    #[test]
    fn of_several_names_one_is_chosen_the_same_way_always() {
        let table = table(&[(0x1000, 0x10, "b"), (0x1000, 0x10, "a"), (0x1000, 0, "c"), (0x1000, 0x20, "")]);
        assert_eq!(place(&table, 0x1008).as_deref(), Some("a+0x8"));
    }

    #[test]
    fn rust_names_are_demangled_without_hash() {
        let table = table(&[
            (0x1000, 0x10, "_ZN5guest4main17h0123456789abcdefE"),
            (0x2000, 0x10, "_RNvCs1234_7mycrate3foo"),
            (0x3000, 0x10, "memcpy"),
        ]);
        assert_eq!(place(&table, 0x1000).as_deref(), Some("guest::main+0x0"));
        assert_eq!(place(&table, 0x2000).as_deref(), Some("mycrate::foo+0x0"));
        assert_eq!(place(&table, 0x3000).as_deref(), Some("memcpy+0x0"));
    }

    #[test]
    fn names_are_made_fit_to_print() {
        let long = "x".repeat(1000);
        let table = table(&[(0x1000, 0x10, "a\nb\u{1b}[31m"), (0x2000, 0x10, &long)]);
        assert_eq!(table.lookup(0x1000).map(|location| location.function), Some("a?b?[31m"));
        assert_eq!(table.lookup(0x2000).map(|location| location.function.chars().count()), Some(NAME_MAXIMUM + 1));
    }

    proptest! {
        /// A lookup gives the function that starts last among those that contain the address.
        #[test]
        fn agrees_with_a_search_through_all(
            symbols in prop::collection::btree_map(0_u64..60, 1_u64..30, 0..12),
            address in 0_u64..100,
        ) {
            let table = SymbolTable::new(symbols.iter().map(|(start, size)| (*start, *size, format!("f{start}"))));
            let expected = symbols.iter().rfind(|(start, size)| (**start..**start + **size).contains(&address));
            prop_assert_eq!(
                table.lookup(address).map(|location| (location.function.to_owned(), location.offset)),
                expected.map(|(start, _)| (format!("f{start}"), address - start))
            );
        }

        #[test]
        fn absurd_symbols_give_a_table(
            symbols in prop::collection::vec((any::<u64>(), any::<u64>(), ".{0,40}"), 0..20),
            address in any::<u64>(),
        ) {
            let starts: Vec<u64> = symbols.iter().map(|symbol| symbol.0).collect();
            let table = SymbolTable::new(symbols);
            for address in starts.into_iter().chain([address, 0, u64::MAX]) {
                prop_assert!(table.lookup(address).is_none_or(|location| location.offset <= address));
            }
        }
    }
}
