//! The host program's library: reads an L2 guest, and what else a command line says.
//!
//! What always holds: what a user or a file supplies is checked here, and every refusal is an error that names the
//! offence; L1 sees only what has passed.

pub mod duration;
pub mod loader;
pub mod size;
