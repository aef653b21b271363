//! The page in a headless browser: rows that come, change and go show without a reload.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use afflux_env::Env;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{fake::FakeNode, http::PATIENCE, rows, served};

/// A browser that ends with its test.
struct Browser {
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
    async fn open(url: &str) -> Self {
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
        let port = tokio::time::timeout(PATIENCE, port).await.unwrap().unwrap();
        Self { child, _profile: profile, port }
    }

    /// A connection to the page's debugger: a web socket, spoken just well enough.
    async fn page(&self) -> Page {
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

struct Page {
    socket: BufReader<TcpStream>,
    next: u64,
}

impl Page {
    async fn call(&mut self, method: &str, params: serde_json::Value) -> serde_json::Value {
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

    async fn evaluate(&mut self, expression: &str) -> serde_json::Value {
        let params = serde_json::json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        self.call("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// Waits in the page until the table's text is as expected.
    async fn until_table(&mut self, expected: &str) {
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

    async fn screenshot(&mut self, file: &Path) {
        let answer = self.call("Page.captureScreenshot", serde_json::json!({})).await;
        std::fs::write(file, answer["data"].as_str().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn the_page_shows_changes_as_they_come() {
    let (node, serving) = served().await;
    let url = format!("http://{}/views/carriers", serving.http_address());
    let browser = Browser::open(&url).await;
    let mut page = browser.page().await;
    page.until_table("AA 7 1.5; UA 3 null").await;
    assert_eq!(page.evaluate("document.getElementById('state').textContent").await, "live");

    node.change(
        "carriers",
        rows(&[("UA", 3, None), ("UA", 9, Some(2.25)), ("AS", 1, Some(-3.0))]),
        vec![-1, 1, 1],
    );
    page.until_table("AA 7 1.5; AS 1 -3; UA 9 2.25").await;
    let highlighted =
        "[...document.querySelectorAll('td.changed')].map((c) => c.textContent).join()";
    assert_eq!(page.evaluate(highlighted).await, "9,2.25");

    page.evaluate("[...document.querySelectorAll('th button')][1].click()").await;
    page.until_table("UA 9 2.25; AA 7 1.5; AS 1 -3").await;
    if let Some(folder) = std::env::var_os("AFFLUX_TEST_SCREENSHOTS") {
        page.screenshot(&Path::new(&folder).join("view.png.base64")).await;
    }
    node.change("carriers", rows(&[("UA", 9, Some(2.25))]), vec![-1]);
    page.until_table("AA 7 1.5; AS 1 -3").await;

    page.evaluate(
        "(() => { const f = document.getElementById('filter'); f.value = 'as';
            f.dispatchEvent(new Event('input')); })()",
    )
    .await;
    page.until_table("AS 1 -3").await;
}

/// What of a page is hard to read: text whose contrast with what is behind it is below 4.5 (WCAG
/// 2.1, AA), also while it is highlighted, and a page that is wider than its window.
const FAULTS: &str = r#"(() => {
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parsed = (text) => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const contrast = (a, b) => {
        const [x, y] = [light(a), light(b)].sort((x, y) => y - x);
        return (x + 0.05) / (y + 0.05);
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const colour = parsed(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const sample = document.body.appendChild(document.createElement("i"));
    sample.style.background = "var(--flash)";
    const flash = parsed(getComputedStyle(sample).backgroundColor);
    sample.remove();
    const faults = [];
    for (const element of document.body.querySelectorAll("*")) {
        const own = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
        const text = own.map((node) => node.textContent).join("").trim();
        if (!text || !element.checkVisibility()) continue;
        const colour = parsed(getComputedStyle(element).color);
        const grounds = element.tagName === "TD" ? [behind(element), flash] : [behind(element)];
        for (const ground of grounds) {
            const found = contrast(colour, ground);
            if (found < 4.5) faults.push(`${text}: ${found.toFixed(2)}`);
        }
    }
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) faults.push(`${wide} of ${innerWidth} pixels`);
    return faults.join("; ");
})()"#;

#[tokio::test]
async fn the_pages_are_legible_by_day_and_by_night_and_on_a_phone() {
    let (node, serving) = served().await;
    node.ddl(
        "CREATE MATERIALIZED VIEW a_view_whose_name_is_of_rather_many_words_and_does_not_end AS \
         SELECT carrier FROM carriers",
    );
    let at = |path: &str| format!("http://{}{path}", serving.http_address());
    let browser = Browser::open(&at("/")).await;
    let mut page = browser.page().await;
    for (width, theme) in [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")] {
        let features = serde_json::json!([{ "name": "prefers-color-scheme", "value": theme }]);
        page.call("Emulation.setEmulatedMedia", serde_json::json!({ "features": features })).await;
        let metrics = serde_json::json!({
            "width": width, "height": 640, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        page.call("Emulation.setDeviceMetricsOverride", metrics).await;
        for (name, path) in
            [("list", "/"), ("view", "/views/carriers"), ("missing", "/views/nothing")]
        {
            page.call("Page.navigate", serde_json::json!({ "url": at(path) })).await;
            if name == "view" {
                page.until_table("AA 7 1.5; UA 3 null").await;
            }
            let ready = format!(
                "document.readyState === 'complete' && location.pathname === '{path}' \
                 && matchMedia('(prefers-color-scheme: {theme})').matches"
            );
            while page.evaluate(&ready).await != true {}
            if let Some(folder) = std::env::var_os("AFFLUX_TEST_SCREENSHOTS") {
                let file = format!("{name}-{theme}-{width}.png.base64");
                page.screenshot(&Path::new(&folder).join(file)).await;
            }
            assert_eq!(page.evaluate(FAULTS).await, "", "{path} at {width}, {theme}");
        }
    }
}

/// The node stops and another takes its port, with another past.
#[tokio::test]
async fn the_page_comes_back_after_the_node() {
    let (node, serving) = served().await;
    let address = serving.http_address();
    let browser = Browser::open(&format!("http://{address}/views/carriers")).await;
    let mut page = browser.page().await;
    page.until_table("AA 7 1.5; UA 3 null").await;
    tokio::time::timeout(PATIENCE, serving.shutdown()).await.unwrap();
    drop(node);
    let node = FakeNode::new();
    node.ddl(super::SETUP);
    node.change("carriers", rows(&[("DL", 2, Some(0.5))]), vec![1]);
    node.change("carriers", rows(&[("HA", 1, Some(0.25))]), vec![1]);
    node.trim();
    let options = crate::ServeOptions {
        postgres: "127.0.0.1:0".parse().unwrap(),
        http: address,
        ..crate::ServeOptions::default()
    };
    let env: Env = afflux_env::real::env();
    let _serving = crate::start(&env, node, options).await.unwrap();
    page.until_table("DL 2 0.5; HA 1 0.25").await;
}
