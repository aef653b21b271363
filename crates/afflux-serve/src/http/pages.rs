//! The pages: a list of views, and a view that updates itself. Files of this crate, nothing from
//! elsewhere, no build step.

use std::{fmt::Write, sync::Arc};

use afflux_catalog::ObjectKind;
use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::Http;

const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/view.js");
const FAVICON: &str = include_str!("../../assets/icon.svg");
const PAGE: &str = include_str!("../../assets/page.html");
const VIEW: &str = include_str!("../../assets/view.html");

pub(super) async fn asset(Path(file): Path<String>) -> Response {
    let (content_type, text) = match file.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "view.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", FAVICON),
        _ => return (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    };
    // A newer build has newer files under the same names.
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text)
        .into_response()
}

pub(super) async fn views(State(http): State<Arc<Http>>) -> Html<String> {
    let node = http.queries.node();
    let (catalog, pipelines) = (node.catalog(), node.pipelines());
    let mut body = String::from("<h1>Views</h1>\n");
    let views: Vec<_> = catalog
        .objects()
        .filter_map(|object| match &object.kind {
            ObjectKind::View(view) => Some((object, view.plan.columns())),
            _ => None,
        })
        .collect();
    if views.is_empty() {
        body.push_str(
            "<p class=\"note\">There are no views yet. Create one with \
             <code>CREATE MATERIALIZED VIEW … AS SELECT …</code>, for example in psql.</p>\n",
        );
    } else {
        body.push_str("<ul class=\"views\">\n");
    }
    for (object, columns) in &views {
        let pipeline = pipelines.iter().find(|pipeline| pipeline.view == object.name);
        let state = pipeline.map_or("starting", |pipeline| pipeline.state);
        let rows = pipeline.map_or(String::new(), |pipeline| match pipeline.rows {
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows"),
        });
        let names: Vec<_> = columns.iter().map(|column| escaped(&column.name)).collect();
        // Writing to a string does not fail.
        let _ = write!(
            body,
            "<li><a href=\"/views/{}\"><span class=\"name\">{}</span>\
             <span class=\"state {}\">{state}</span><span class=\"count\">{rows}</span>\
             <span class=\"columns\">{}</span></a></li>",
            in_path(&object.name),
            escaped(&object.name),
            state.replace(' ', "-"),
            names.join(", "),
        );
    }
    if !views.is_empty() {
        body.push_str("</ul>\n");
    }
    Html(page("Views", &body, ""))
}

pub(super) async fn view(State(http): State<Arc<Http>>, Path(name): Path<String>) -> Response {
    let catalog = http.queries.node().catalog();
    let view = catalog.find(&name).and_then(|object| match &object.kind {
        ObjectKind::View(view) => Some((object, view)),
        _ => None,
    });
    let Some((object, view)) = view else {
        let body = format!(
            "<h1>No such view</h1>\n<p class=\"note\">There is no view called \
             <code>{}</code>. <a href=\"/\">All views</a></p>\n",
            escaped(&name)
        );
        return (StatusCode::NOT_FOUND, Html(page("No such view", &body, ""))).into_response();
    };
    // The script reads these: names, types, and which columns identify a row.
    let columns: Vec<_> = view
        .plan
        .columns()
        .iter()
        .map(|column| {
            let data_type = &column.column_type.0;
            serde_json::json!({ "name": column.name, "numeric": data_type.is_numeric() })
        })
        .collect();
    let shape = serde_json::json!({
        "name": object.name, "columns": columns, "key": view.plan.key,
    });
    let body = VIEW
        .replace("{{shape}}", &escaped(&shape.to_string()))
        .replace("{{sql}}", &escaped(&object.sql))
        .replace("{{name}}", &escaped(&object.name));
    let script = "<script src=\"/assets/view.js\" defer></script>";
    Html(page(&object.name, &body, script)).into_response()
}

fn page(title: &str, body: &str, head: &str) -> String {
    PAGE.replace("{{title}}", &escaped(title)).replace("{{head}}", head).replace("{{body}}", body)
}

/// Text in HTML, also within attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Keeps what is inserted from being taken for a place to insert at.
            '{' => out.push_str("&#123;"),
            c => out.push(c),
        }
    }
    out
}

/// Text as one segment of a path.
fn in_path(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_break_out_of_the_page() {
        assert_eq!(escaped("<a href='\"&{{sql}}"), "&lt;a href=&#39;&quot;&amp;&#123;&#123;sql}}");
        assert_eq!(in_path("a b/\"é"), "a%20b%2F%22%C3%A9");
    }
}
