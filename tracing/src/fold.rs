//! Folding of what repeats, line by line, with bounded memory.
//!
//! Two steps, both greedy, so that equal input gives equal text however long it is. First, equal lines in a row become
//! one run with a count. Second, as soon as the last [`BLOCK_MAXIMUM`] or fewer runs equal the runs before them, they
//! become a block; the shortest block that fits is taken. Blocks are not folded into greater blocks.

use std::collections::VecDeque;
use std::io::{self, Write};

/// The most runs a block has.
pub(crate) const BLOCK_MAXIMUM: usize = 8;

/// Equal lines in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    line: String,
    count: u64,
}

impl Run {
    fn write(&self, output: &mut impl Write, indentation: &str) -> io::Result<()> {
        match self.count {
            1 => writeln!(output, "{indentation}{}", self.line),
            count => writeln!(output, "{indentation}{count} times: {}", self.line),
        }
    }
}

/// A block that has been seen at least twice.
#[derive(Debug)]
struct Block {
    runs: Vec<Run>,
    count: u64,
    /// How many runs of the next repetition have been seen.
    matched: usize,
}

/// Folds lines and writes the text.
#[derive(Debug)]
pub(crate) struct Folder<W> {
    output: W,
    /// The run that may still grow.
    current: Option<Run>,
    /// Runs that may still become part of a block: fewer than two blocks of the greatest size.
    window: VecDeque<Run>,
    block: Option<Block>,
}

impl<W: Write> Folder<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, current: None, window: VecDeque::new(), block: None }
    }

    /// Takes the next line, without its line end.
    pub(crate) fn push(&mut self, line: &str) -> io::Result<()> {
        if let Some(run) = self.current.as_mut().filter(|run| run.line == line) {
            run.count += 1;
            return Ok(());
        }
        match self.current.replace(Run { line: line.to_owned(), count: 1 }) {
            Some(finished) => self.take(finished),
            None => Ok(()),
        }
    }

    /// Writes what is still held back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if let Some(run) = self.current.take() {
            self.take(run)?;
        }
        self.end_block()?;
        self.write_window(self.window.len())?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn take(&mut self, run: Run) -> io::Result<()> {
        if let Some(block) = &mut self.block {
            if block.runs.get(block.matched) == Some(&run) {
                block.matched += 1;
                if block.matched == block.runs.len() {
                    block.matched = 0;
                    block.count += 1;
                }
                return Ok(());
            }
            self.end_block()?;
        }
        self.window.push_back(run);
        self.find_block()
    }

    /// Makes a block of the end of the window if it repeats what is before it, else lets go of what is too old. Runs next
    /// to each other always differ, so a block has two at least.
    fn find_block(&mut self) -> io::Result<()> {
        let runs = self.window.make_contiguous();
        let repeats = |size: &usize| {
            let Some(start) = runs.len().checked_sub(2 * size) else { return false };
            let (first, second) = runs[start..].split_at(*size);
            first == second
        };
        if let Some(size) = (2..=BLOCK_MAXIMUM).find(repeats) {
            self.write_window(self.window.len() - 2 * size)?;
            let runs = self.window.drain(..).take(size).collect();
            self.block = Some(Block { runs, count: 2, matched: 0 });
        } else if self.window.len() >= 2 * BLOCK_MAXIMUM {
            self.write_window(1)?;
        }
        Ok(())
    }

    /// Writes the block; what was seen of a repetition that did not come to its end goes back into the window.
    fn end_block(&mut self) -> io::Result<()> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        writeln!(self.output, "{} times:", block.count)?;
        for run in &block.runs {
            run.write(&mut self.output, "  ")?;
        }
        self.window.extend(block.runs.drain(..block.matched));
        Ok(())
    }

    fn write_window(&mut self, count: usize) -> io::Result<()> {
        self.window.drain(..count).try_for_each(|run| run.write(&mut self.output, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn folded<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
        let mut folder = Folder::new(Vec::new());
        for line in lines {
            folder.push(line).expect("memory takes everything");
        }
        String::from_utf8(folder.finish().expect("memory takes everything")).expect("lines are text")
    }

    fn letters(text: &str) -> String {
        folded(text.split("").filter(|letter| !letter.is_empty()))
    }

    #[test]
    fn single_lines_stay() {
        assert_eq!(letters(""), "");
        assert_eq!(letters("abc"), "a\nb\nc\n");
    }

    #[test]
    fn equal_lines_become_a_run() {
        assert_eq!(letters("abbbc"), "a\n3 times: b\nc\n");
    }

    #[test]
    fn blocks_are_found_and_may_hold_runs() {
        assert_eq!(letters("xababab"), "x\n3 times:\n  a\n  b\n");
        assert_eq!(letters("aabaabaabc"), "3 times:\n  2 times: a\n  b\nc\n");
        assert_eq!(letters("abcdefghabcdefgh").lines().next(), Some("2 times:"));
    }

    #[test]
    fn a_repetition_cut_short_is_shown_after_the_block() {
        assert_eq!(letters("abcabcabx"), "2 times:\n  a\n  b\n  c\na\nb\nx\n");
        assert_eq!(letters("abcabcab"), "2 times:\n  a\n  b\n  c\na\nb\n");
    }

    #[test]
    fn what_was_cut_short_can_begin_another_block() {
        assert_eq!(letters("abcabcababab"), "2 times:\n  a\n  b\n  c\n3 times:\n  a\n  b\n");
    }

    #[test]
    fn blocks_of_nine_are_too_long() {
        assert!(!letters("abcdefghiabcdefghi").contains("times"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut folder = Folder::new(io::sink());
        for number in 0..10_000 {
            folder.push(&number.to_string()).expect("a sink takes everything");
            assert!(folder.window.len() < 2 * BLOCK_MAXIMUM);
        }
    }

    /// The lines that a folded text stands for.
    fn unfolded(text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut block: Option<(u64, Vec<String>)> = None;
        let close = |block: &mut Option<(u64, Vec<String>)>, lines: &mut Vec<String>| {
            if let Some((count, body)) = block.take() {
                (0..count).for_each(|_| lines.extend_from_slice(&body));
            }
        };
        for line in text.lines() {
            let run = |line: &str| match line.split_once(" times: ") {
                Some((count, line)) => vec![line.to_owned(); count.parse().expect("a count")],
                None => vec![line.to_owned()],
            };
            if let Some(inner) = line.strip_prefix("  ") {
                block.as_mut().expect("indented lines follow a block's head").1.extend(run(inner));
            } else {
                close(&mut block, &mut lines);
                match line.strip_suffix(" times:") {
                    Some(count) => block = Some((count.parse().expect("a count"), Vec::new())),
                    None => lines.extend(run(line)),
                }
            }
        }
        close(&mut block, &mut lines);
        lines
    }

    proptest! {
        #[test]
        fn folding_loses_nothing(lines in prop::collection::vec("[abc]", 0..300)) {
            prop_assert_eq!(unfolded(&folded(lines.iter().map(String::as_str))), lines);
        }
    }
}
