//! What a client says that it is, name and version (KIP-511): checked as Apache Kafka does, since
//! both go into logs and metrics, and told in the log.

use kafka_protocol::{ResponseError, messages::ApiVersionsRequest};

use crate::broker::Context;

/// The first version of `ApiVersions` that says it.
const NAMING: i16 = 3;

/// Refuses names that could not stand in a log as they are.
pub(crate) fn check(context: &Context, request: &ApiVersionsRequest) -> Result<(), ResponseError> {
    if context.version < NAMING {
        return Ok(());
    }
    let (name, version) = (&request.client_software_name, &request.client_software_version);
    if !is_legal(name) || !is_legal(version) {
        let peer = context.peer;
        // Escaped: they may hold anything.
        tracing::debug!(%peer, ?name, ?version, "a client has no name of letters, digits, - and .");
        return Err(ResponseError::InvalidRequest);
    }
    tracing::debug!(peer = %context.peer, id = ?context.client, %name, %version, "a client");
    Ok(())
}

/// Letters and digits, with dots and dashes between them.
fn is_legal(text: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_plain)
        && bytes.last().is_some_and(is_plain)
        && bytes.iter().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_letters_digits_dots_and_dashes() {
        for legal in ["a", "7", "librdkafka", "apache-kafka-java", "1.2.3-rc.1", "a--b", "A.Z"] {
            assert!(is_legal(legal), "{legal}");
        }
        for other in ["", "-", ".a", "a.", "a-", "a b", "a_b", "a\n", "ä", "aäb", "a/b"] {
            assert!(!is_legal(other), "{other}");
        }
    }
}
