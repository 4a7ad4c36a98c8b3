//! The host program's library: machines, guest loaders, runs, the command line.
//!
//! What always holds: what a user or a file supplies is checked here, and every refusal is an error that names the
//! offence; L1 sees only what has passed. Nothing here decides what the hypervisor decides.

pub mod built_in;
pub mod command;
pub mod command_line;
pub mod duration;
pub mod frames;
pub mod handover;
pub mod loader;
pub mod logging;
pub mod machine;
pub mod oracle;
pub mod self_nesting;
pub mod session;
pub mod size;
