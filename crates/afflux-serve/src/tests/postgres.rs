//! The Postgres protocol as raw messages over loopback: what no polite client does.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{http::PATIENCE, served, served_with};
use crate::Serving;

/// A client that sends what it is told to.
struct Client {
    socket: TcpStream,
    process: [u8; 4],
    secret: [u8; 4],
}

type Message = (char, Vec<u8>);

impl Client {
    async fn connect(serving: &Serving) -> Self {
        Self::connect_with(serving, b"\0\x03\0\0user\0ada\0\0").await
    }

    async fn connect_with(serving: &Serving, startup: &[u8]) -> Self {
        let socket = TcpStream::connect(serving.postgres_address()).await.unwrap();
        let mut client = Self { socket, process: [0; 4], secret: [0; 4] };
        client.packet(startup).await;
        for (tag, body) in client.until_ready().await {
            if tag == 'K' {
                client.process.copy_from_slice(&body[..4]);
                client.secret.copy_from_slice(&body[4..]);
            }
        }
        client
    }

    async fn packet(&mut self, body: &[u8]) {
        let length = (body.len() as u32 + 4).to_be_bytes();
        self.socket.write_all(&[&length, body].concat()).await.unwrap();
    }

    async fn send(&mut self, tag: u8, body: &[u8]) {
        let length = (body.len() as u32 + 4).to_be_bytes();
        self.socket.write_all(&[&[tag][..], &length, body].concat()).await.unwrap();
    }

    async fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(b'Q', format!("{text}\0").as_bytes()).await;
        self.until_ready().await
    }

    async fn receive(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        timeout(PATIENCE, self.socket.read_exact(&mut head)).await.unwrap().ok()?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        timeout(PATIENCE, self.socket.read_exact(&mut body)).await.unwrap().ok()?;
        Some((char::from(head[0]), body))
    }

    async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.receive().await {
            let ready = message.0 == 'Z';
            messages.push(message);
            if ready {
                break;
            }
        }
        messages
    }
}

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|(tag, _)| *tag).collect()
}

/// A field of the first error.
fn error_field(messages: &[Message], field: char) -> String {
    let (_, body) = messages.iter().find(|(tag, _)| *tag == 'E').expect("an error");
    let text = String::from_utf8_lossy(body);
    let mut fields = text.split('\0').filter(|part| part.starts_with(field));
    fields.next().map_or(String::new(), |part| part[1..].to_owned())
}

#[tokio::test]
async fn simple_queries_run_their_statements_in_turn() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    let check = async |client: &mut Client, text: &str, expected: &str| {
        let answer = client.query(text).await;
        assert_eq!(tags(&answer), expected, "{text}: {answer:?}");
    };
    check(&mut client, "SELECT 1", "TDCZ").await;
    check(
        &mut client,
        "SELECT 1; SELECT * FROM carriers; SET application_name = 'x'",
        "TDCTDDCSCZ",
    )
    .await;
    check(&mut client, "", "IZ").await;
    check(&mut client, " ;; ", "IZ").await;
    check(&mut client, "SELECT 1; SELECT 1/0; SELECT 2", "TDCTEZ").await;
    check(&mut client, "DROP MATERIALIZED VIEW carriers", "NCZ").await;
    let answer = client.query("SELECT é,\n nosuch FROM (SELECT 1 AS é) t").await;
    assert_eq!(error_field(&answer, 'C'), "42703");
    assert_eq!(error_field(&answer, 'P'), "12");
}

#[tokio::test]
async fn a_failed_transaction_waits_for_its_end() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    let status = |answer: &[Message]| char::from(answer.last().unwrap().1[0]);
    assert_eq!(status(&client.query("BEGIN").await), 'T');
    assert_eq!(status(&client.query("SELECT 1/0").await), 'E');
    let answer = client.query("SELECT 1").await;
    assert_eq!((error_field(&answer, 'C').as_str(), status(&answer)), ("25P02", 'E'));
    let answer = client.query("COMMIT").await;
    assert_eq!((answer[0].1.as_slice(), status(&answer)), (&b"ROLLBACK\0"[..], 'I'));
    assert_eq!(tags(&client.query("SELECT 1").await), "TDCZ");
}

#[tokio::test]
async fn after_an_error_everything_is_skipped_to_the_sync() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    client.send(b'P', b"\0SELECT nosuch\0\0\0").await;
    client.send(b'B', b"\0\0\0\0\0\0\0\0").await;
    client.send(b'E', b"\0\0\0\0\0").await;
    client.send(b'S', b"").await;
    assert_eq!(tags(&client.until_ready().await), "EZ");
    client.send(b'P', b"\0SELECT $1::bigint + 1\0\0\0").await;
    client.send(b'D', b"S\0").await;
    client.send(b'B', b"\0\0\0\0\0\x01\0\0\0\x0241\0\x01\0\x01").await;
    client.send(b'E', b"\0\0\0\0\0").await;
    client.send(b'S', b"").await;
    let answer = client.until_ready().await;
    assert_eq!(tags(&answer), "1tT2DCZ");
    assert_eq!(answer[4].1, [0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 42]);
}

#[tokio::test]
async fn portals_are_taken_in_parts() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    client.send(b'P', b"s\0SELECT * FROM generate_series(1, 5)\0\0\0").await;
    client.send(b'B', b"p\0s\0\0\0\0\0\0\0").await;
    for _ in 0..4 {
        client.send(b'E', b"p\0\0\0\0\x02").await;
    }
    client.send(b'S', b"").await;
    assert_eq!(tags(&client.until_ready().await), "12DDsDDsDCCZ");
    client.send(b'E', b"p\0\0\0\0\x02").await;
    client.send(b'S', b"").await;
    let answer = client.until_ready().await;
    assert_eq!(error_field(&answer, 'C'), "34000");
}

#[tokio::test]
async fn wrong_counts_and_names_are_errors_not_faults() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    let mut check = async |messages: &[(u8, &[u8])], sqlstate: &str| {
        for (tag, body) in messages {
            client.send(*tag, body).await;
        }
        client.send(b'S', b"").await;
        let answer = client.until_ready().await;
        assert_eq!(error_field(&answer, 'C'), sqlstate, "{messages:?}");
    };
    let parse: (u8, &[u8]) = (b'P', b"\0SELECT $1\0\0\x01\0\0\0\x14");
    check(&[parse, (b'B', b"\0\0\0\0\0\0\0\0")], "08P01").await;
    check(&[parse, (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\x011\0\0")], "08P01").await;
    check(&[parse, (b'B', b"\0\0\0\0\0\x01\0\0\0\x011\0\x02\0\0\0\0")], "08P01").await;
    check(&[parse, (b'B', b"\0\0\0\0\0\x01\0\0\0\x01x\0\0")], "22P02").await;
    check(&[(b'P', b"\0SELECT $1\0\0\x01\0\x01\x86\x9f")], "0A000").await;
    check(&[(b'P', b"\0SELECT 1; SELECT 2\0\0\0")], "42601").await;
    check(&[(b'B', b"\0nosuch\0\0\0\0\0\0\0")], "26000").await;
    check(&[(b'D', b"Pnosuch\0")], "34000").await;
    check(&[(b'F', b"")], "08P01").await;
}

#[tokio::test]
async fn statements_without_text_are_not_free() {
    let (_node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    let name = "n".repeat(1_000_000);
    for number in 0..20 {
        client.send(b'P', format!("{number}{name}\0\0\0\0").as_bytes()).await;
    }
    client.send(b'S', b"").await;
    assert_eq!(error_field(&client.until_ready().await, 'C'), "53000");
}

#[tokio::test]
async fn what_is_no_message_ends_the_session_with_the_reason() {
    let (_node, serving) = served_with(|options| options.message_bytes_max = 1_000).await;
    let check = async |bytes: &[u8]| {
        let mut client = Client::connect(&serving).await;
        client.socket.write_all(bytes).await.unwrap();
        let answer = client.until_ready().await;
        assert_eq!((tags(&answer).as_str(), error_field(&answer, 'S').as_str()), ("E", "FATAL"));
    };
    check(b"Q\x7f\xff\xff\xff").await;
    check(b"Q\0\0\x03\xe9").await;
    check(b"Q\0\0\0\x00").await;
    check(b"B\0\0\0\x05x").await;
    let mut socket = TcpStream::connect(serving.postgres_address()).await.unwrap();
    socket.write_all(b"\0\0\0\x08\0\x02\0\0").await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&b'E'));
}

#[tokio::test]
async fn encryption_is_declined_and_newer_protocols_negotiated() {
    let (_node, serving) = served().await;
    let mut socket = TcpStream::connect(serving.postgres_address()).await.unwrap();
    socket.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'N');
    let mut client = Client { socket, process: [0; 4], secret: [0; 4] };
    client.packet(b"\0\x03\0\x02user\0ada\0_pq_.x\0y\0\0").await;
    let answer = client.until_ready().await;
    assert!(tags(&answer).starts_with("vR"), "{answer:?}");
}

#[tokio::test]
async fn cancel_requests_stop_what_runs() {
    let (node, serving) = served().await;
    let mut client = Client::connect(&serving).await;
    node.get_stuck();
    client.send(b'Q', b"SELECT * FROM carriers\0").await;
    let cancel = async |secret: &[u8]| {
        let mut other = TcpStream::connect(serving.postgres_address()).await.unwrap();
        let body = [&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e], &client.process[..], secret].concat();
        other.write_all(&body).await.unwrap();
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
    };
    // The statement may not have begun when the request comes: as often as it takes.
    cancel(b"what").await;
    let mut byte = [0];
    while timeout(Duration::from_millis(20), client.socket.peek(&mut byte)).await.is_err() {
        cancel(&client.secret).await;
    }
    let answer = client.until_ready().await;
    assert_eq!(error_field(&answer, 'C'), "57014");
    assert_eq!(tags(&client.query("SELECT 1").await), "TDCZ");
}

#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let (node, serving) = served_with(|options| options.connections_max = 1).await;
    let mut client = Client::connect(&serving).await;
    let before = std::sync::Arc::strong_count(&node);
    node.get_stuck();
    client.send(b'Q', b"SELECT * FROM carriers\0").await;
    let mut turned_away = TcpStream::connect(serving.postgres_address()).await.unwrap();
    let mut answer = Vec::new();
    turned_away.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("53300"));
    drop(client);
    // Its statement would wait for ever; the one connection becomes free all the same.
    let connected = timeout(PATIENCE, async {
        loop {
            let mut socket = TcpStream::connect(serving.postgres_address()).await.unwrap();
            socket.write_all(b"\0\0\0\x12\0\x03\0\0user\0ada\0\0").await.unwrap();
            let mut tag = [0];
            if socket.read(&mut tag).await.unwrap_or(0) == 1 && tag == *b"R" {
                return;
            }
        }
    });
    connected.await.unwrap();
    assert!(std::sync::Arc::strong_count(&node) <= before);
}
