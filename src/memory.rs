//! How the memory of the process is kept: to itself, and small.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps other processes of the same user out of this one's memory, and its memory out of core files: it holds
/// credentials, keys and the handles of tasks. Nobody but root can trace it, read it, or enter its files through
/// `/proc` from now on.
///
/// A program that it becomes or starts is readable again, as the kernel has it for every new program.
///
/// # Errors
/// The kernel has no such switch.
pub fn keep_private() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Writes no core file, whatever anybody switches on later. Children inherit this.
///
/// # Errors
/// The kernel refuses to lower the limit.
pub fn never_dump() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Asks for no huge pages: they make the resident set several times what is used. Where the kernel has none, nothing is
/// lost.
pub fn keep_small() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
