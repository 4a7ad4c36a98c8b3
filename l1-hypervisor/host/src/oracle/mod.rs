//! The oracle: what a processor of Bochs says about VM entries, compared with what `vmcs::entry_check` says.
//!
//! What always holds: a difference counts as explained only through a named [`exceptions::Exception`], and the library knows nothing
//! of those.

pub mod exceptions;
pub mod judge;
pub mod scene;
pub mod stream;
pub mod summary;
