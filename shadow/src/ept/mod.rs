//! Nested EPT: EPT13, which really translates L3's physical addresses, composed from EPT12 and EPT23.
//!
//! EPT23 belongs to the guest hypervisor L2, lies in L2's memory and maps L3's physical addresses to L2's. EPT12 is L1's and maps
//! L2's to the machine's. EPT13 does both in one walk. It begins empty and is filled on demand: each EPT violation of L3 ends in a
//! walk of EPT23 ([`Rules::translate`]) that tells whose violation it is, and if it is nobody's, in one more entry of EPT13
//! ([`Composition::fault`]).
//!
//! What always holds:
//! - EPT13 grants nothing that EPT23 or EPT12 doesn't: permissions are ANDed over all levels of both, a page is as small as the
//!   smaller of the two, and an address that EPT12 doesn't map is never mapped.
//! - EPT13 behaves like a TLB of EPT23: an entry may be missing at any time, and one that exists is what EPT23 said at some time
//!   since L2's last INVEPT. That is what the SDM lets a processor cache, so L2 cannot tell the difference.
//! - Nothing that L2 writes into EPT23 can make L1 read outside L2's memory, loop, or map a table of EPT13 itself.
//! - Each entry of EPT23 is read once a walk, and what was checked is what is used.
//!
//! | file | what |
//! |---|---|
//! | `entry` | what one entry of EPT23 says, and when it is misconfigured |
//! | `access` | accesses, permissions and the qualification of EPT violations |
//! | `outer` | L2's memory and EPT12, as a trait |
//! | `walk` | the walk of EPT23, with accessed and dirty flags |
//! | `page_modification_log` | L2's page-modification log |
//! | `pool` | the pages that EPT13 is made of |
//! | `roots` | which EPTP23 has which root of EPT13 |
//! | `composition` | the whole: find a root, fill, invalidate |
//!
//! Sources: SDM 3C 28.3 "The Extended Page Table Mechanism (EPT)" and 28.4 "Caching Translation Information".

mod access;
mod composition;
mod entry;
mod outer;
mod page_modification_log;
mod pool;
mod roots;
mod walk;

#[cfg(test)]
mod tests;

pub use access::{Access, Fault, Permissions};
pub use composition::{Composition, Outcome};
pub use entry::Rules;
pub use outer::{MemoryType, Outer, OuterMemory};
pub use page_modification_log::PageModificationLog;
pub use pool::{MINIMUM_TABLES, TooFewTables};
pub use roots::ROOTS;
pub use walk::Translation;
