//! temporary, until the emulator is merged
use crate::guest_memory::{GuestMemory};
use crate::guest_paging::{PageFault, PagingState};
#[derive(Debug, Clone, Copy)] pub enum Bitness { Bits16, Bits32, Bits64 }
#[derive(Debug)] pub struct Unclaimed;
#[derive(Debug)] pub struct InstructionState<'a> { pub general: &'a mut [u64; 16], pub rsp: &'a mut u64, pub rip: u64, pub rflags: &'a mut u64, pub segment_bases: [u64; 6], pub mode: Bitness }
#[derive(Debug)] pub enum Outcome { Completed { next_rip: u64 }, Repeat }
#[derive(Debug)] pub enum EmulationError { PageFault(PageFault), GeneralProtection, Undecodable, Unsupported { mnemonic: &'static str } }
pub fn emulate(_: InstructionState<'_>, _: &mut GuestMemory<'_>, _: &PagingState, _: &mut Unclaimed) -> Result<Outcome, EmulationError> { Err(EmulationError::Unsupported { mnemonic: "temporary" }) }
