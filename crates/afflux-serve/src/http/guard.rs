//! Which requests may come in: none that a web page elsewhere has made.
//!
//! A browser runs pages of any origin on the same machine as the node, so that a loopback address
//! protects nothing by itself. Two checks on every request do:
//!
//! 1. **Host** must name this node: a loopback name, the address that the connection came in on,
//!    or a name that the node was told. A page whose own name has been rebound to this address
//!    sends that name (421).
//! 2. **Origin**, if there is one, must be the origin of this node's own pages; and where a browser says that a page of another site asks (`Sec-Fetch-Site`), the
//!    answer is no unless the user is following a link (403).
//!
//! Clients that are no browsers send no `Origin` and pass.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, StatusCode, header};

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// Checks a request's headers. `bound` is the listener's address, `hosts` are names of the node,
/// without port: `afflux.example.com`.
pub(super) fn check(
    headers: &HeaderMap,
    bound: SocketAddr,
    hosts: &[String],
) -> Result<(), Refusal> {
    let host = single(headers, &header::HOST)?.ok_or_else(|| Refusal {
        status: StatusCode::BAD_REQUEST,
        message: "the request has no Host header".to_owned(),
        hint: "send one, as HTTP/1.1 asks for",
    })?;
    if !is_own_host(host, bound, hosts) {
        return Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            message: format!("this node does not answer for \"{}\"", host.escape_debug()),
            hint: "use the address that the node printed, or tell it the name with --http-host",
        });
    }
    if let Some(origin) = single(headers, &header::ORIGIN)? {
        if !is_own_origin(origin, host) {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                message: format!("pages of \"{}\" may not use this node", origin.escape_debug()),
                hint: "open the node's own page, or ask it from a program",
            });
        }
        return Ok(());
    }
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let elsewhere = matches!(says("sec-fetch-site"), Some("cross-site" | "same-site"));
    if elsewhere && says("sec-fetch-mode") != Some("navigate") {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            message: "a page of another site may not use this node".to_owned(),
            hint: "open the node's own page",
        });
    }
    Ok(())
}

/// A header's value, if it is there once.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &header::HeaderName,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let bad = |what: &str| Refusal {
        status: StatusCode::BAD_REQUEST,
        message: format!("the {name} header {what}"),
        hint: "send it once, in ASCII",
    };
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| bad("is not text")),
        (Some(_), Some(_)) => Err(bad("occurs twice")),
    }
}

fn is_own_host(host: &str, bound: SocketAddr, hosts: &[String]) -> bool {
    let Some(name) = without_port(host) else { return false };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        return true;
    }
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match literal.parse::<IpAddr>() {
        // An address can not be rebound. Bound to all of them, the node answers for each.
        Ok(address) => {
            address.is_loopback() || address == bound.ip() || bound.ip().is_unspecified()
        }
        Err(_) => false,
    }
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`.
fn without_port(host: &str) -> Option<&str> {
    let end = match host.find(']') {
        Some(bracket) if host.starts_with('[') => bracket + 1,
        Some(_) => return None,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let port_is_good = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    (port_is_good && !name.is_empty()).then_some(name)
}

/// Whether a page comes from the very host and port that it asks.
fn is_own_origin(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn check_headers(bound: &str, headers: &[(&str, &str)], expected: u16) {
        let hosts = ["afflux.example.com".to_owned()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let outcome = check(&map, bound.parse().unwrap(), &hosts);
        let status = outcome.as_ref().err().map_or(200, |refusal| refusal.status.as_u16());
        assert_eq!(status, expected, "{headers:?} at {bound}: {outcome:?}");
    }

    #[test]
    fn hosts_are_this_node_s_or_refused() {
        let check = |host: &str, expected| {
            check_headers("127.0.0.1:8080", &[("host", host)], expected);
        };
        check("localhost", 200);
        check("localhost:8080", 200);
        check("LOCALHOST:9", 200);
        check("localhost.:8080", 200);
        check("127.0.0.1:8080", 200);
        check("127.1.2.3", 200);
        check("[::1]:8080", 200);
        check("[::1]", 200);
        check("afflux.example.com", 200);
        check("AFFLUX.example.com:443", 200);
        check("evil.example.com:8080", 421);
        check("localhost.evil.example.com", 421);
        check("127.0.0.1.evil.example.com", 421);
        check("192.168.1.5:8080", 421);
        check("0.0.0.0:8080", 421);
        check("", 421);
        check(":8080", 421);
        check("localhost:99999", 421);
        check("localhost:8080:1", 421);
        check("localhost@evil", 421);
        check("[::1", 421);
        check("::1", 421);
        check_headers("127.0.0.1:8080", &[], 400);
        check_headers("127.0.0.1:8080", &[("host", "localhost"), ("host", "evil")], 400);
        check_headers("127.0.0.1:8080", &[("host", "h\u{e9}")], 400);
    }

    #[test]
    fn a_bound_address_is_a_host() {
        check_headers("192.168.1.5:8080", &[("host", "192.168.1.5:8080")], 200);
        check_headers("192.168.1.5:8080", &[("host", "192.168.1.6:8080")], 421);
        check_headers("0.0.0.0:8080", &[("host", "192.168.1.6:8080")], 200);
        check_headers("0.0.0.0:8080", &[("host", "evil.example.com:8080")], 421);
        check_headers("[::]:8080", &[("host", "[fd00::1]:8080")], 200);
    }

    #[test]
    fn origins_are_this_node_s_or_refused() {
        let check = |host: &str, origin: &str, expected| {
            check_headers("127.0.0.1:8080", &[("host", host), ("origin", origin)], expected);
        };
        check("localhost:8080", "http://localhost:8080", 200);
        check("127.0.0.1:8080", "http://127.0.0.1:8080", 200);
        check("afflux.example.com", "https://afflux.example.com", 200);
        check("localhost:8080", "https://dash.example.com", 403);
        check("localhost:8080", "http://localhost:3000", 403);
        check("localhost:8080", "http://127.0.0.1:8080", 403);
        check("localhost:8080", "http://evil.example.com", 403);
        check("localhost:8080", "null", 403);
        check("localhost:8080", "", 403);
        check("localhost:8080", "file://", 403);
        check("evil.example.com", "http://evil.example.com", 421);
    }

    #[test]
    fn pages_elsewhere_can_only_link_here() {
        let check = |site: &str, mode: &str, expected| {
            let headers =
                [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            check_headers("127.0.0.1:8080", &headers, expected);
        };
        check("same-origin", "cors", 200);
        check("none", "navigate", 200);
        check("cross-site", "navigate", 200);
        check("cross-site", "no-cors", 403);
        check("same-site", "no-cors", 403);
        check("cross-site", "cors", 403);
    }
}
