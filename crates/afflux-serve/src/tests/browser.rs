//! The page in a headless browser: rows that come, change and go show without a reload.

use std::path::Path;

use afflux_env::Env;

use super::{chromium::Browser, fake::FakeNode, http::PATIENCE, rows, served};

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
