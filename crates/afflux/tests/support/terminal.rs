//! A command on a terminal of its own: what it draws is read, and keys are typed.

use std::{
    fs::File,
    io::{self, Read, Write},
    process::{Child, Command},
};

use nix::pty::{Winsize, openpty};

/// Ctrl-C, as the terminal sends it to whoever reads single keys.
pub const CTRL_C: &str = "\x03";
/// Ctrl-D.
pub const CTRL_D: &str = "\x04";

/// A terminal with a command on it.
pub struct Terminal {
    child: Child,
    keys: File,
    /// All that was drawn.
    pub drawn: String,
    /// How much of that was waited for.
    passed: usize,
}

impl Terminal {
    /// Starts a command on a terminal of 100 columns.
    pub fn run(mut command: Command) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let end = || pty.slave.try_clone().expect("a file");
        command.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("the command starts");
        // `command` and `pty.slave` end here: the command alone holds its side open.
        Self { child, keys: File::from(pty.master), drawn: String::new(), passed: 0 }
    }

    /// Types.
    pub fn keys(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Waits until something is drawn, behind what was waited for before.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        loop {
            if let Some(at) = self.drawn[self.passed..].find(text) {
                self.passed += at + text.len();
                return;
            }
            assert!(self.read(), "it ended without {text:?}: {}", self.drawn);
        }
    }

    /// Waits for the end, and gives the exit status and all that was drawn.
    pub fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().expect("it ends").code(), std::mem::take(&mut self.drawn))
    }

    /// Takes in more of what is drawn; not at the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.keys.read(&mut bytes) {
            Ok(read) => {
                self.drawn.push_str(&String::from_utf8_lossy(&bytes[..read]));
                read > 0
            }
            // Nobody holds the other side any more.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => panic!("the terminal: {error}"),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
