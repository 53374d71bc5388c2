//! Intents: what is on disk before a call is forwarded, so that a call has its record even when the machine fails.
//!
//! The file begins with `{"offset":N}`: the length of the audit file when this one was begun. Then comes one line for each
//! call, `{…}` with the members of the record that is written if the call never ends. Calls that ended have their line in
//! the audit file behind `N`; the others were interrupted.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    chain::LONGEST_LINE,
    file::{create, explain},
};

/// The open file of intents.
pub(super) struct Intents {
    file: File,
    path: PathBuf,
    len: u64,
    // How long it was when it was begun; what is behind that can be given up once its calls have ended.
    begun: u64,
}

impl Intents {
    /// Where the intents of an audit file stand.
    pub(super) fn path(audit: &Path) -> PathBuf {
        let mut path = audit.as_os_str().to_owned();
        path.push(".intents");
        path.into()
    }

    /// Begins the file anew with the intents that are still open, durably.
    pub(super) fn begin(path: &Path, offset: u64, open: &[u8]) -> io::Result<Self> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let mut file = create(&fresh)?;
        file.set_len(0)?;
        writeln!(file, "{{\"offset\":{offset}}}")?;
        file.write_all(open)?;
        file.sync_data()?;
        fs::rename(&fresh, path).map_err(|error| explain(path, &error))?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(dir)?.sync_all()?;
        }
        let len = file.metadata()?.len();
        Ok(Self { file, path: path.to_owned(), len, begun: len })
    }

    /// Begins anew; on failure the present file stays in use.
    pub(super) fn begin_anew(&mut self, offset: u64, open: &[u8]) -> io::Result<()> {
        *self = Self::begin(&self.path, offset, open)?;
        Ok(())
    }

    /// Puts intents on disk: all of them, or none.
    pub(super) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        // Also cuts off what an earlier failure may have left.
        self.file.set_len(self.len)?;
        self.file.write_all(text)?;
        self.file.sync_data()?;
        self.len += text.len() as u64;
        Ok(())
    }

    /// Bytes since the file was begun.
    pub(super) fn grown(&self) -> u64 {
        self.len - self.begun
    }
}

/// The members of all records whose calls were interrupted.
pub(super) fn interrupted(intents: &Path, audit: &mut File) -> io::Result<Vec<Vec<u8>>> {
    let text = match fs::read(intents) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(explain(intents, &error)),
    };
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let offset = lines.next().and_then(offset).unwrap_or(0);
    let mut open: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in lines {
        // A line without its end is one whose call was never forwarded.
        let members = line.strip_prefix(b"{").and_then(|line| line.strip_suffix(b"}\n"));
        if let Some((id, members)) = members.and_then(|members| Some((decision_id(members)?, members))) {
            open.push((id.to_vec(), members.to_vec()));
        }
    }
    if !open.is_empty() {
        let ended = ended(audit, offset)?;
        open.retain(|(id, _)| !ended.contains(id));
    }
    Ok(open.into_iter().map(|(_, members)| members).collect())
}

fn offset(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"offset\":")?.strip_suffix(b"}\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The calls that have their line in the audit file.
fn ended(audit: &mut File, offset: u64) -> io::Result<HashSet<Vec<u8>>> {
    let from = if offset <= audit.metadata()?.len() { offset } else { 0 };
    audit.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(1 << 16, audit);
    let mut found = HashSet::new();
    let mut line = Vec::new();
    while reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? != 0 {
        // In front of the members stand `seq` and `prev` only, so no text of an agent's.
        let members = line.iter().position(|byte| *byte == b',').map(|at| &line[at + 1..]);
        let members = members.and_then(|rest| rest.iter().position(|byte| *byte == b',').map(|at| &rest[at + 1..]));
        found.extend(members.and_then(decision_id).map(<[u8]>::to_vec));
        line.clear();
    }
    Ok(found)
}

fn decision_id(members: &[u8]) -> Option<&[u8]> {
    let (id, rest) = members.strip_prefix(b"\"decision_id\":\"")?.split_at_checked(36)?;
    rest.starts_with(b"\"").then_some(id)
}
