//! The processor itself: the only part of the image with `unsafe` code.
//!
//! What always holds:
//! - one processor, interrupts off (RFLAGS.IF = 0) from the first instruction to the last; only exceptions, NMIs and
//!   machine checks can interrupt, each on a stack of its own, and none of them returns;
//! - every function that can be called wrongly is `unsafe` or takes a type that proves the precondition.

pub mod descriptor_table;
pub mod exception;
pub mod page;
pub mod paging;
pub mod port;
pub mod processor;
pub mod single;
pub mod vmx;
pub mod vmx_state;
pub mod world_switch;
