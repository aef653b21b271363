//! A headless Chromium, spoken to through its debugger: pages are opened, asked and drawn.
//!
//! Nothing of Afflux is known here; tests of other crates take this file by its path.
#![allow(dead_code, unreachable_pub, reason = "each of those who take it uses a part of it")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// How long a browser may take to start.
const STARTED_WITHIN: Duration = Duration::from_mins(1);

/// A browser that ends with its test.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    port: u16,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file());
    found.expect("there is no chromium: run `cargo xtask test`, which says how to get it")
}

impl Browser {
    /// Opens a page. The browser writes the port of its debugger into its profile.
    pub async fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--remote-debugging-port=0", "--window-size=1200,700"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        // It says `DevTools listening on ws://127.0.0.1:PORT/…` once it does.
        let port = tokio::task::spawn_blocking(move || {
            use std::io::BufRead;
            let mut lines = std::io::BufReader::new(stderr).lines().map_while(Result::ok);
            let line = lines.find(|line| line.contains("DevTools listening on"));
            // Keeps the pipe open and empty for as long as the browser writes.
            std::thread::spawn(move || lines.count());
            let line = line.expect("the browser starts");
            let address = line.split("ws://").nth(1).and_then(|rest| rest.split('/').next());
            address.unwrap().rsplit(':').next().unwrap().parse().unwrap()
        });
        let port = tokio::time::timeout(STARTED_WITHIN, port).await.unwrap().unwrap();
        Self { child, _profile: profile, port }
    }

    /// A connection to the page's debugger: a web socket, spoken just well enough.
    pub async fn page(&self) -> Page {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = "GET /json/list HTTP/1.1\r\nhost: localhost\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut reader = BufReader::new(socket);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).await.unwrap();
            let line = line.to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await.unwrap();
        let targets: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let page = targets.as_array().unwrap().iter().find(|target| target["type"] == "page");
        let url = page.unwrap()["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
        let path = url.splitn(4, '/').nth(3).unwrap().to_owned();
        let mut socket =
            BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
        let request = format!(
            "GET /{path} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
             connection: upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            socket.read_line(&mut line).await.unwrap();
        }
        Page { socket, next: 1 }
    }
}

/// A page, by the browser's debugger.
pub struct Page {
    socket: BufReader<TcpStream>,
    next: u64,
}

impl Page {
    pub async fn call(&mut self, method: &str, params: serde_json::Value) -> serde_json::Value {
        let id = self.next;
        self.next += 1;
        let text = serde_json::json!({ "id": id, "method": method, "params": params }).to_string();
        // One text frame, masked with zeros.
        let mut frame = vec![0x81, 0x80 | 0x7e];
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.socket.write_all(&frame).await.unwrap();
        loop {
            let answer: serde_json::Value = serde_json::from_slice(&self.frame().await).unwrap();
            if answer["id"] == id {
                return answer["result"].clone();
            }
        }
    }

    async fn frame(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let first = self.socket.read_u8().await.unwrap();
            let length = match self.socket.read_u8().await.unwrap() {
                126 => u64::from(self.socket.read_u16().await.unwrap()),
                127 => self.socket.read_u64().await.unwrap(),
                length => u64::from(length),
            };
            let from = body.len();
            body.resize(from + length as usize, 0);
            self.socket.read_exact(&mut body[from..]).await.unwrap();
            if first & 0x80 != 0 {
                return body;
            }
        }
    }

    pub async fn evaluate(&mut self, expression: &str) -> serde_json::Value {
        let params = serde_json::json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        self.call("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// Waits in the page until the table's text is as expected.
    pub async fn until_table(&mut self, expected: &str) {
        let expression = format!(
            "new Promise((resolve) => {{
                const text = () => [...document.querySelectorAll('tbody tr')]
                    .map((row) => [...row.cells].map((cell) => cell.textContent).join(' '))
                    .join('; ');
                const look = () => {{
                    if (text() === {expected:?}) resolve(text()); else requestAnimationFrame(look);
                }};
                setTimeout(() => resolve(text()), 30000);
                look();
            }})"
        );
        // A page that is still being opened forgets what it was asked.
        let mut text = serde_json::Value::Null;
        while text.is_null() {
            text = self.evaluate(&expression).await;
        }
        assert_eq!(text, expected);
    }

    pub async fn screenshot(&mut self, file: &Path) {
        let answer = self.call("Page.captureScreenshot", serde_json::json!({})).await;
        std::fs::write(file, answer["data"].as_str().unwrap()).unwrap();
    }
}
