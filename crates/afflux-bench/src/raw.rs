//! Raw loops: what the disk and the loopback give without anything of ours or of Kafka's.
//!
//! * [`Raw`] overwrites a file of zeros, one write at a time, synced or not.
//! * [`send_file`] hands a file to a socket (`sendfile`) whose other end throws it away.

use std::{
    fs::File,
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::sample::Durations;

/// How much is overwritten before it begins again.
const FILE_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// A file of zeros that is written over and over.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    at: u64,
}

impl Raw {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        Ok(Self { file: filled(path, FILE_BYTES)?, at: 0 })
    }

    /// Megabytes a second, for a time.
    pub(crate) fn round(&mut self, bytes: usize, length: Duration, synced: bool) -> Result<f64> {
        let start = Instant::now();
        let mut writes = 0;
        self.each(bytes, length, synced, |_| writes += 1)?;
        Ok((writes * bytes) as f64 / 1e6 / start.elapsed().as_secs_f64())
    }

    /// How long each synced write takes, for a time.
    pub(crate) fn syncs(&mut self, bytes: usize, length: Duration) -> Result<Durations> {
        let mut durations = Durations::default();
        self.each(bytes, length, true, |took| durations.push(took))?;
        Ok(durations)
    }

    fn each(
        &mut self,
        bytes: usize,
        length: Duration,
        synced: bool,
        mut done: impl FnMut(Duration),
    ) -> Result<()> {
        let group = vec![b'r'; bytes];
        let start = Instant::now();
        while start.elapsed() < length {
            if self.at + bytes as u64 > FILE_BYTES {
                self.at = 0;
            }
            let before = Instant::now();
            self.file.write_all_at(&group, self.at)?;
            if synced {
                self.file.sync_data()?;
            }
            done(before.elapsed());
            self.at += bytes as u64;
        }
        Ok(())
    }
}

/// A file of so many zeros, synced.
pub(crate) fn filled(path: &Path, bytes: u64) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let file = file.with_context(|| path.display().to_string())?;
    let zeros = vec![0; CHUNK_BYTES];
    for at in (0..bytes).step_by(CHUNK_BYTES) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Megabytes a second of a file through a socket, over and over for a time, once at least.
pub(crate) fn send_file(file: &File, bytes: u64, length: Duration) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen on the loopback")?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let start = Instant::now();
    let receiving = thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut received = 0;
        loop {
            match receiver.read(&mut buffer) {
                Ok(0) => return Ok(received),
                Ok(more) => received += more as u64,
                Err(error) => return Err(error),
            }
        }
    });
    let mut sent = 0;
    loop {
        let mut at = 0;
        while at < bytes {
            let more = (bytes - at).min(CHUNK_BYTES as u64) as usize;
            let taken = rustix::fs::sendfile(&sender, file, Some(&mut at), more)?;
            ensure!(taken > 0, "the file is shorter than {bytes} bytes");
            sent += taken as u64;
        }
        if start.elapsed() >= length {
            break;
        }
    }
    drop(sender);
    let received = receiving.join().expect("reading does not panic")?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(received == sent, "{sent} bytes were sent and {received} came");
    Ok(sent as f64 / 1e6 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_through_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let file = filled(&dir.path().join("raw"), 3 << 20).unwrap();
        assert!(send_file(&file, 3 << 20, Duration::ZERO).unwrap() > 0.0);
        assert!(send_file(&file, 4 << 20, Duration::ZERO).is_err(), "it is not that long");
    }
}
