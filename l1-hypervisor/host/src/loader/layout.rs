//! Where the pieces of a guest lie in its memory.
//!
//! What always holds: every piece lies in the guest's RAM, no two overlap, and none lies between 640 KiB and 1 MiB,
//! where there is no RAM up to 0xe0000 and the ACPI tables that L1 writes from there.

use super::GuestSegment;
use super::error::Offence;
use l1_protocol::boot::SEGMENTS;
use l1_protocol::memory_map::{GUEST_HOLE_START, PAGE_SIZE};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// First byte of extended memory.
pub const EXTENDED_MEMORY: u64 = 0x10_0000;
/// End of the low memory that guests are told of: a PC's extended BIOS data area lies above.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;

/// The pieces of a guest while they are put together.
#[derive(Debug)]
pub struct Layout<'a> {
    memory: u64,
    /// Everything taken, by its start; the ranges do not overlap.
    taken: BTreeMap<u64, Taken>,
    segments: Vec<GuestSegment<'a>>,
}

#[derive(Debug)]
struct Taken {
    end: u64,
    what: String,
}

impl<'a> Layout<'a> {
    /// Of a guest with `memory` bytes, with nothing in it yet.
    pub fn new(memory: u64) -> Self {
        // Never named in a message: what reaches into it has an error of its own.
        let taken = BTreeMap::from([(GUEST_HOLE_START, Taken { end: EXTENDED_MEMORY, what: String::new() })]);
        Self { memory, taken, segments: Vec::new() }
    }

    /// Bytes of the guest's memory.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Checks that memory reaches up to `end`, for a message that says how much is needed in all.
    pub fn require(&self, what: &str, end: u64) -> Result<(), Offence> {
        if end <= self.memory { Ok(()) } else { Err(Offence::Memory { what: what.to_owned(), end, memory: self.memory }) }
    }

    /// Takes `length` bytes at `address`, which stay zero.
    pub fn reserve(&mut self, what: &str, address: u64, length: u64) -> Result<(), Offence> {
        if length == 0 {
            return Ok(());
        }
        let end = address.saturating_add(length);
        self.require(what, end)?;
        if address < EXTENDED_MEMORY && end > GUEST_HOLE_START {
            return Err(Offence::Hole { what: what.to_owned(), range: address..end });
        }
        if let Some((start, other)) = self.obstacle(&(address..end)) {
            let other_range = start..other.end;
            return Err(Offence::Overlap { what: what.to_owned(), range: address..end, other: other.what.clone(), other_range });
        }
        self.taken.insert(address, Taken { end, what: what.to_owned() });
        Ok(())
    }

    /// Takes `length` bytes at `address`, which begin with `bytes`; the rest stays zero.
    pub fn add(&mut self, what: &str, address: u64, bytes: impl Into<Cow<'a, [u8]>>, length: u64) -> Result<(), Offence> {
        let bytes = bytes.into();
        self.reserve(what, address, length.max(bytes.len() as u64))?;
        if !bytes.is_empty() {
            self.segments.push(GuestSegment { guest_address: address, bytes });
        }
        Ok(())
    }

    /// Takes all of `bytes` at `address`.
    pub fn add_all(&mut self, what: &str, address: u64, bytes: impl Into<Cow<'a, [u8]>>) -> Result<(), Offence> {
        self.add(what, address, bytes, 0)
    }

    /// The highest address in `within` where `size` bytes are free, a multiple of `alignment`.
    pub fn highest(&self, within: Range<u64>, size: u64, alignment: u64) -> Option<u64> {
        let mut end = within.end.min(self.memory);
        loop {
            let start = end.checked_sub(size)? / alignment * alignment;
            if start < within.start {
                return None;
            }
            match self.obstacle(&(start..start + size)) {
                Some((obstacle, _)) => end = obstacle,
                None => return Some(start),
            }
        }
    }

    /// The lowest address in `within` where `size` bytes are free, a multiple of `alignment`.
    pub fn lowest(&self, within: Range<u64>, size: u64, alignment: u64) -> Option<u64> {
        let mut start = within.start;
        loop {
            start = start.checked_next_multiple_of(alignment)?;
            let end = start.checked_add(size).filter(|end| *end <= within.end.min(self.memory))?;
            match self.obstacle(&(start..end)) {
                Some((_, obstacle)) => start = obstacle.end,
                None => return Some(start),
            }
        }
    }

    /// End of the highest range taken.
    pub fn end(&self) -> u64 {
        self.taken.last_key_value().map_or(0, |(_, taken)| taken.end)
    }

    /// The highest range taken that overlaps `range`. Ranges do not overlap each other, so it is the last that starts
    /// before `range` ends, or none.
    fn obstacle(&self, range: &Range<u64>) -> Option<(u64, &Taken)> {
        let (start, taken) = self.taken.range(..range.end).next_back()?;
        (taken.end > range.start).then_some((*start, taken))
    }

    /// The pieces by ascending address. Neighbours with no more than a page between them become one, because L1 takes
    /// few pieces and memory is zero where no piece lies.
    pub fn into_segments(mut self) -> Result<Vec<GuestSegment<'a>>, Offence> {
        self.segments.sort_by_key(|segment| segment.guest_address);
        let mut merged: Vec<GuestSegment<'a>> = Vec::new();
        for segment in self.segments {
            let gap = merged.last().map(|last| segment.guest_address - last.end()).filter(|gap| *gap <= PAGE_SIZE);
            match (merged.last_mut(), gap) {
                (Some(last), Some(gap)) => {
                    let bytes = last.bytes.to_mut();
                    bytes.resize(bytes.len() + gap as usize, 0);
                    bytes.extend_from_slice(&segment.bytes);
                }
                _ => merged.push(segment),
            }
        }
        if merged.len() <= SEGMENTS { Ok(merged) } else { Err(Offence::TooManySegments { count: merged.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 16 << 20;

    #[test]
    fn what_overlaps_or_lies_outside_is_refused() {
        let mut layout = Layout::new(MEMORY);
        layout.add("a", 0x1000, vec![1; 0x1000], 0x2000).expect("free");
        layout.add_all("behind a", 0x3000, vec![1; 0x10]).expect("free");
        let overlap = layout.add_all("b", 0x2fff, vec![2; 1]);
        let expected =
            Offence::Overlap { what: "b".into(), range: 0x2fff..0x3000, other: "a".into(), other_range: 0x1000..0x3000 };
        assert_eq!(overlap, Err(expected));
        assert!(matches!(layout.reserve("around a", 0xfff, 0x4000), Err(Offence::Overlap { .. })));
        assert!(matches!(layout.reserve("hole", 0x9_ffff, 2), Err(Offence::Hole { .. })));
        assert!(matches!(layout.reserve("tables", 0xf_ffff, 1), Err(Offence::Hole { .. })));
        assert!(matches!(layout.reserve("above", MEMORY, 1), Err(Offence::Memory { .. })));
        assert!(matches!(layout.reserve("wraps", u64::MAX, 2), Err(Offence::Memory { .. })));
        layout.reserve("nothing, anywhere", u64::MAX, 0).expect("nothing needs no place");
    }

    #[test]
    fn free_places_are_found_around_what_is_taken() {
        let mut layout = Layout::new(MEMORY);
        layout.reserve("low", 0x9_0000, 0x8000).expect("free");
        assert_eq!(layout.highest(0..LOW_MEMORY_END, 0x4000, 16), Some(0x9_bc00));
        assert_eq!(layout.highest(0..LOW_MEMORY_END, 0x8000, 16), Some(0x8_8000));
        assert_eq!(layout.highest(0x8_8001..LOW_MEMORY_END, 0x8000, 16), None);
        assert_eq!(layout.highest(0..u64::MAX, MEMORY, 1), None);
        assert_eq!(layout.lowest(0x9_0000..MEMORY, 0x4000, 0x1000), Some(0x9_8000));
        assert_eq!(layout.lowest(0x9_0000..MEMORY, 0x9000, 0x1000), Some(EXTENDED_MEMORY));
        assert_eq!(layout.lowest(0x9_0000..MEMORY, MEMORY, 0x1000), None);
    }

    #[test]
    fn neighbours_become_one_and_the_count_is_limited() {
        let mut layout = Layout::new(MEMORY);
        for address in [0x3000, 0x1000, 0x6000] {
            layout.add_all("piece", address, vec![7; 0x1000]).expect("free");
        }
        let segments = layout.into_segments().expect("few");
        assert_eq!(
            segments.iter().map(|s| (s.guest_address, s.bytes.len())).collect::<Vec<_>>(),
            [(0x1000, 0x3000), (0x6000, 0x1000)]
        );
        assert_eq!(segments[0].bytes[0xfff..0x1001], [7, 0]);

        let mut layout = Layout::new(MEMORY);
        for index in 0..=SEGMENTS as u64 {
            layout.add_all("piece", EXTENDED_MEMORY + index * 0x2000, vec![7; 1]).expect("free");
        }
        assert_eq!(layout.into_segments(), Err(Offence::TooManySegments { count: 33 }));
    }
}
