//! The text that KVM's `dump_vmcs()` writes to the kernel log, as people paste it.
//!
//! Whatever stands before a key doesn't matter: time stamps, `kvm_intel:`, a host name, the `>` of a quotation. So a line is not matched
//! as a whole; every `key = number` is looked up in [`rows`] by the words that end the key and by the section and the label before it.
//! Lines that a mail program broke are read too. A log may hold several dumps.

mod line;
mod rows;

use vmcs::field::Field;

use super::{DUMPS, Dump, DumpError, Format, MsrEntry};
use crate::command::explain::number::Hex;
use line::{Token, excerpt, number, tokens, without_escapes};
use rows::{Row, Section, find, is_label};

/// Keys have at most so many words, labels included.
const WORDS: usize = 4;

/// Lines of a dump that hold no number of a field.
const NO_FIELD: [&str; 2] = ["ve_info:", "dump_invalid_vmcs"];

/// Headings of the sections.
const SECTIONS: [(&str, Section); 3] =
    [("*** Guest State ***", Section::Guest), ("*** Host State ***", Section::Host), ("*** Control State ***", Section::Control)];

/// The lists of MSRs, as KVM calls them, with the field that counts their entries.
const LISTS: [(&str, Field); 3] = [
    ("guest autoload", Field::VM_ENTRY_MSR_LOAD_COUNT),
    ("guest autostore", Field::VM_EXIT_MSR_STORE_COUNT),
    ("host autoload", Field::VM_EXIT_MSR_LOAD_COUNT),
];

/// Reads every dump of a log.
///
/// # Errors
/// [`DumpError::Unrecognized`] if there is none.
pub fn read(text: &str) -> Result<Vec<Dump>, DumpError> {
    let mut reader = Reader::default();
    for (index, line) in text.lines().enumerate() {
        // One more than is explained, so that it can be said that there are more.
        if reader.dumps.len() > DUMPS {
            break;
        }
        reader.line(index + 1, &without_escapes(line));
    }
    reader.finish();
    if reader.dumps.is_empty() { Err(DumpError::Unrecognized) } else { Ok(reader.dumps) }
}

/// Where the reader stands.
#[derive(Default)]
struct Reader {
    dumps: Vec<Dump>,
    current: Option<Dump>,
    section: Option<Section>,
    label: String,
    /// The row whose number comes on the next line.
    awaited: Option<&'static Row>,
    /// The list of MSRs that is being read, and the MSR whose value comes next.
    list: Option<&'static str>,
    msr: Option<u64>,
    /// Lines that were not understood since the last one that was: they are part of the dump only if more of it follows.
    pending: Vec<(usize, String)>,
}

impl Reader {
    /// Ends the dump that is being read, if there is one.
    fn finish(&mut self) {
        if let Some(mut dump) = self.current.take() {
            // Linux 6.0 and newer print TertiaryExec, and every list of MSRs that isn't empty: one that isn't there has no entry.
            if dump.get(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS).is_some() {
                for (list, count) in LISTS {
                    let entries = dump.msr_lists.get(list).map_or(0, Vec::len);
                    dump.note(None, count, entries as u64);
                }
            }
            if !dump.is_empty() {
                self.dumps.push(dump);
            }
        }
        *self = Self { dumps: std::mem::take(&mut self.dumps), ..Self::default() };
    }

    fn begin(&mut self) -> &mut Dump {
        self.finish();
        self.current.insert(Dump::new(Format::Kvm))
    }

    fn line(&mut self, number: usize, line: &str) {
        if let Some((_, processor)) = line.split_once("last attempted VM-entry on CPU ") {
            let digits: String = processor.chars().take_while(char::is_ascii_digit).collect();
            self.begin().processor = digits.parse().ok();
            return;
        }
        if let Some((_, section)) = SECTIONS.iter().find(|(heading, _)| line.contains(heading)) {
            // A log of a kernel that doesn't name the CPU, or whose line with it is lost.
            if self.current.is_none() || (*section == Section::Guest && self.section.is_some()) {
                self.begin();
            }
            self.section = Some(*section);
            self.label.clear();
            self.list = None;
            self.understood();
            return;
        }
        let Some(section) = self.section else { return };
        if let Some((list, _)) = LISTS.iter().find(|(name, _)| line.contains(&format!("MSR {name}:"))) {
            self.list = Some(list);
            self.understood();
            return;
        }
        if NO_FIELD.iter().any(|text| line.contains(text)) {
            return;
        }
        self.numbers(number, line, section);
    }

    /// What was not understood so far lies within the dump, so it is missed.
    fn understood(&mut self) {
        for (number, problem) in std::mem::take(&mut self.pending) {
            if let Some(dump) = &mut self.current {
                dump.remark(Some(number), problem);
            }
        }
    }

    /// Reads every `key = number` of a line.
    fn numbers(&mut self, number: usize, line: &str, section: Section) {
        let tokens = tokens(line);
        let mut words: Vec<&str> = Vec::new();
        let mut problems = Vec::new();
        let mut read = 0;
        let mut tokens = tokens.into_iter().peekable();
        if let Some(row) = self.awaited.take() {
            while tokens.next_if(|token| matches!(token, Token::Word(word) if word.bytes().all(|byte| byte == b'>'))).is_some() {}
            if let Some(Token::Word(word)) = tokens.next_if(|token| matches!(token, Token::Word(_))) {
                read += usize::from(self.value(number, row, word, true, line, &mut problems));
            }
        }
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) => {
                    if is_label(word) {
                        word.clone_into(&mut self.label);
                    }
                    if words.len() == WORDS {
                        words.remove(0);
                    }
                    words.push(word);
                }
                Token::Equals => {
                    let row = find(section, &self.label, &words);
                    let value = tokens.next_if(|token| matches!(token, Token::Word(_)));
                    let last = tokens.peek().is_none();
                    match (row, value) {
                        (Some(row), Some(Token::Word(value))) => {
                            read += usize::from(self.value(number, row, value, last, line, &mut problems));
                        }
                        (Some(row), _) => self.awaited = Some(row),
                        (None, Some(Token::Word(value))) if self.msr_entry(words.last().copied(), value) => read += 1,
                        (None, _) => {
                            problems.push(format!("`{}` is not known", excerpt(words.last().copied().unwrap_or_default())))
                        }
                    }
                    if row.is_some_and(|row| row.label.is_empty()) {
                        self.label.clear();
                    }
                    words.clear();
                }
            }
        }
        if read > 0 {
            self.understood();
            for problem in problems {
                if let Some(dump) = &mut self.current {
                    dump.remark(Some(number), problem);
                }
            }
        } else if !line.trim().is_empty() && self.awaited.is_none() {
            self.pending.push((number, format!("not understood: {}", excerpt(line.trim()))));
        }
    }

    /// Notes the number of a row; whether it could be read.
    fn value(&mut self, line: usize, row: &Row, text: &str, last: bool, whole: &str, problems: &mut Vec<String>) -> bool {
        let Some(dump) = &mut self.current else { return false };
        if row.fields.is_empty() {
            return true;
        }
        // The register's value, but not the field's: the VMCS doesn't load it.
        let elsewhere = whole.contains("(effective)") || whole.contains("(autoload)");
        if elsewhere && row.fields.iter().any(|(field, _)| *field == Field::GUEST_IA32_EFER) {
            return true;
        }
        let parts: Vec<&str> = text.split([':', '|']).collect();
        let mut numbers = Vec::new();
        for (part, (field, digits)) in parts.iter().zip(row.fields) {
            match number(part) {
                Some((_, count)) if last && count < *digits => {
                    problems.push(format!("{field}: `{}` has {count} digits of {digits}, the line is cut off", excerpt(part)));
                    return false;
                }
                Some((value, _)) => numbers.push((*field, value)),
                None => {
                    problems.push(format!("{field}: `{}` is not a hexadecimal number", excerpt(part)));
                    return false;
                }
            }
        }
        if parts.len() != row.fields.len() {
            problems.push(format!("{}: `{}` does not have {} parts", row.key, excerpt(text), row.fields.len()));
            return false;
        }
        for (field, value) in numbers {
            dump.note(Some(line), field, value);
        }
        true
    }

    /// Notes half an entry of a list of MSRs, if it is one.
    fn msr_entry(&mut self, key: Option<&str>, text: &str) -> bool {
        let (Some(list), Some((value, _)), Some(dump)) = (self.list, number(text), &mut self.current) else { return false };
        match (key, self.msr) {
            (Some("msr"), _) => self.msr = Some(value),
            (Some("value"), Some(msr)) => {
                dump.msr_lists.entry(list).or_default().push(MsrEntry { msr: Hex(msr), value: Hex(value) });
                self.msr = None;
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests;
