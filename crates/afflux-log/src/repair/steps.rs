//! The steps of a repair, each made durable before the next: see the module above.

use std::{
    io,
    path::{Path, PathBuf},
};

use afflux_env::{Disk, File, OpenMode};
use afflux_record::frame::frame_bytes;

use super::{plan::Plan, walk::Walk};
use crate::{
    error::OpenError,
    journal::{FIRST_PAGE, Identity, JournalFile, index_path, spare_path, write_whole},
    options::LogOptions,
};

/// Copied at a time.
const COPY_BYTES: u64 = 1 << 20;
/// The report's name in the quarantine.
const REPORT: &str = "REPORT.txt";

/// A repair that was agreed to.
pub(super) struct Steps<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) dir: &'a Path,
    pub(super) journal: u128,
    pub(super) options: &'a LogOptions,
    pub(super) walk: &'a Walk,
    pub(super) plan: &'a Plan,
}

fn name(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

impl Steps<'_> {
    /// Does all of it; where the quarantine is.
    pub(super) fn run(&self, report: &str) -> Result<PathBuf, OpenError> {
        let journal = self.dir.join("journal");
        let quarantine = self.dir.join("quarantine").join(format!("{:016x}", self.plan.to));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::io(&path, error)
        };
        self.disk.create_dir_all(&quarantine).map_err(at(&quarantine))?;
        if let Some(first) = &self.plan.first {
            if let Some((sealed, _)) = self.plan.seal {
                let path = &self.walk.found[sealed].file.path;
                self.copy(path, &quarantine.join(name(path))).map_err(at(path))?;
            }
            let path = quarantine.join(REPORT);
            write_whole(self.disk, &path, report.as_bytes()).map_err(at(&path))?;
            self.begin(&journal, first).map_err(at(&journal))?;
        }
        for found in &self.walk.found[self.plan.aside.clone()] {
            let path = &found.file.path;
            let to = quarantine.join(name(path));
            self.disk.rename(path, &to).map_err(at(path))?;
            self.remove(&index_path(&journal, found.file.base)).map_err(at(path))?;
        }
        // First where they are now, so that they are somewhere.
        self.disk.sync_dir(&quarantine).map_err(at(&quarantine))?;
        self.disk.sync_dir(&journal).map_err(at(&journal))?;
        self.seal(&journal).map_err(at(&journal))?;
        Ok(quarantine)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.remove(to)?;
        let from = self.disk.open(from, OpenMode::Read)?;
        let copy = self.disk.open(to, OpenMode::Create)?;
        let len = from.len()?;
        let mut buf = Vec::new();
        for at in (0..len).step_by(COPY_BYTES as usize) {
            buf.resize(COPY_BYTES.min(len - at) as usize, 0);
            from.read_exact_at(&mut buf, at)?;
            copy.write_all_at(&buf, at)?;
        }
        copy.sync_data()
    }

    /// Makes the file that the journal goes on in, its first frame in it before it has its name.
    fn begin(&self, journal: &Path, first: &[u8]) -> io::Result<()> {
        let room = (FIRST_PAGE + frame_bytes(first.len()) as u64).next_multiple_of(FIRST_PAGE);
        let capacity = self.options.first_file_bytes.min(self.options.file_bytes).max(room * 2);
        let spare = spare_path(journal, 0);
        self.remove(&spare)?;
        JournalFile::make_spare(self.disk, &spare, capacity)?;
        let file = self.disk.open(&spare, OpenMode::Write)?;
        file.write_all_at(first, FIRST_PAGE)?;
        file.sync_data()?;
        let identity = Identity {
            journal: self.journal,
            base: self.plan.to,
            capacity,
            incarnation: self.plan.incarnation,
        };
        JournalFile::put_in_use(self.disk, &spare, journal, identity).map(drop)
    }

    /// Ends the file with the corrupt place in front of it.
    fn seal(&self, journal: &Path) -> io::Result<()> {
        let Some((sealed, seal)) = &self.plan.seal else { return Ok(()) };
        let found = &self.walk.found[*sealed];
        // It would hide the seal.
        self.remove(&index_path(journal, found.file.base))?;
        self.disk.sync_dir(journal)?;
        let file: Box<dyn File> = self.disk.open(&found.file.path, OpenMode::Write)?;
        if let Some(page) = found.page {
            file.set_len(page.capacity)?;
        }
        file.write_all_at(&seal.encode(&[]), self.plan.from - found.file.base)?;
        file.sync_data()
    }
}
