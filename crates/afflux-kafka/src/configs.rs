//! Settings: `DescribeConfigs`, `AlterConfigs`, `IncrementalAlterConfigs`, `ListConfigResources`.
//!
//! What topics can be set to is declared in `afflux_log::settings`; this module only speaks
//! Kafka's words for it. Each resource of a request succeeds or fails by itself and as a whole.
//! The node's own (`settings`) come from its command line: they can be read here, not changed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use afflux_log::settings::{
    AlterError, SETTINGS, Setting, SettingError, SettingType, Settings, setting,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        ListConfigResourcesRequest, ListConfigResourcesResponse,
        alter_configs_response::AlterConfigsResourceResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{
            DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
        },
        incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse,
        list_config_resources_response::ConfigResource,
    },
    protocol::StrBytes,
};

use crate::{
    Options,
    broker::{Broker, Context, NODE, Refusal, blocking, repeated, text},
    code,
    settings::SETTINGS as SETTINGS_OF_NODE,
};

/// A resource that is a topic.
const TOPIC: i8 = 2;
/// A resource that is a node.
const BROKER: i8 = 4;

/// Where a value comes from: it was set for the topic.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// Where a value comes from: the node was started with it.
const SOURCE_STATIC: i8 = 4;
/// Where a value comes from: it is the default.
pub(crate) const SOURCE_DEFAULT: i8 = 5;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Text by name, as it is set.
type Values = BTreeMap<String, String>;

fn type_number(kind: SettingType) -> i8 {
    match kind {
        SettingType::Boolean => 1,
        SettingType::Text => 2,
        SettingType::Int => 3,
        SettingType::Long => 5,
        SettingType::Double => 6,
        SettingType::List => 7,
    }
}

/// Says what is set, and where that comes from.
pub(crate) fn describe(
    broker: &Arc<Broker>,
    _context: &Context,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let (synonyms, docs) = (request.include_synonyms, request.include_documentation);
    let results = request.resources.into_iter().map(|asked| {
        let found = match asked.resource_type {
            TOPIC => broker.known_topic(&asked.resource_name).map(|topic| {
                let all =
                    SETTINGS.iter().map(|setting| entry(&topic.settings, setting, synonyms, docs));
                all.collect()
            }),
            BROKER if asked.resource_name.is_empty() => Ok(Vec::new()),
            BROKER => node(&asked.resource_name).map(|()| node_settings(broker, synonyms, docs)),
            other => Err(unsupported(other)),
        };
        let result = DescribeConfigsResult::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone());
        match found {
            Ok(entries) => result.with_configs(wanted(&asked, entries)),
            Err((error, message)) => {
                result.with_error_code(error.code()).with_error_message(Some(text(&message)))
            }
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

/// Those that were asked for by name; all if none was.
fn wanted(
    asked: &DescribeConfigsResource,
    mut entries: Vec<DescribeConfigsResourceResult>,
) -> Vec<DescribeConfigsResourceResult> {
    if let Some(names) = asked.configuration_keys.as_ref().filter(|names| !names.is_empty()) {
        entries.retain(|entry| names.contains(&entry.name));
    }
    entries
}

fn entry(
    settings: &Settings,
    setting: &'static Setting,
    synonyms: bool,
    docs: bool,
) -> DescribeConfigsResourceResult {
    let value = settings.value(setting);
    let is_set = settings.set().contains_key(setting.name);
    let mut names = Vec::new();
    if is_set && synonyms {
        names.push(synonym(setting.name, value, SOURCE_TOPIC));
    }
    if let Some(name) = setting.broker_name.filter(|_| synonyms) {
        names.push(synonym(name, setting.default, SOURCE_DEFAULT));
    }
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(setting.name))
        .with_value(Some(text(value)))
        .with_config_source(if is_set { SOURCE_TOPIC } else { SOURCE_DEFAULT })
        .with_synonyms(names)
        .with_config_type(type_number(setting.kind))
        .with_documentation(docs.then(|| StrBytes::from_static_str(setting.doc)))
}

fn synonym(name: &'static str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(Some(text(value)))
        .with_source(source)
}

/// What holds for the node: what it was started with, what is so for every node, and the defaults
/// of topics by their names there.
fn node_settings(
    broker: &Broker,
    synonyms: bool,
    docs: bool,
) -> Vec<DescribeConfigsResourceResult> {
    let defaults = Options::default();
    let own = SETTINGS_OF_NODE.iter().map(|setting| {
        let (value, default) = (setting.value(&broker.options), setting.value(&defaults));
        (setting.name, setting.kind, value, Some(default), setting.doc)
    });
    let number = NODE.0.to_string();
    let replicas = Some("1".to_owned());
    let Broker { host, port, .. } = broker;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let advertised = format!("PLAINTEXT://{host}:{port}");
    let fixed = [
        ("node.id", SettingType::Int, number, None, "The node's number."),
        (
            "advertised.listeners",
            SettingType::List,
            advertised,
            None,
            "Where clients are told to connect.",
        ),
        (
            "default.replication.factor",
            SettingType::Int,
            "1".to_owned(),
            replicas,
            "How many nodes have each partition.",
        ),
    ];
    let of_topics = SETTINGS.iter().filter_map(|setting| {
        let value = setting.default.to_owned();
        Some((setting.broker_name?, setting.kind, value.clone(), Some(value), setting.doc))
    });
    let mut entries: Vec<_> = own
        .chain(fixed)
        .chain(of_topics)
        .map(|(name, kind, value, default, doc)| {
            let is_set = default.as_ref() != Some(&value);
            let set = is_set.then(|| synonym(name, &value, SOURCE_STATIC));
            let default = default.map(|default| synonym(name, &default, SOURCE_DEFAULT));
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(text(&value)))
                .with_read_only(true)
                .with_config_source(if is_set { SOURCE_STATIC } else { SOURCE_DEFAULT })
                .with_synonyms(set.into_iter().chain(default).filter(|_| synonyms).collect())
                .with_config_type(type_number(kind))
                .with_documentation(docs.then(|| StrBytes::from_static_str(doc)))
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn node(name: &str) -> Result<(), Refusal> {
    if name == NODE.0.to_string() {
        return Ok(());
    }
    Err((ResponseError::InvalidRequest, format!("there is no node {name}; this is {}", NODE.0)))
}

fn unsupported(kind: i8) -> Refusal {
    (ResponseError::InvalidRequest, format!("resources of type {kind} have no settings here"))
}

/// Lists what has settings: the topics and the node. Version 0 asks for those of clients' metrics
/// alone, which there are none of.
pub(crate) fn list_resources(
    broker: &Arc<Broker>,
    context: &Context,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let kinds = request.resource_types;
    let wanted = |kind: i8| context.version > 0 && (kinds.is_empty() || kinds.contains(&kind));
    let resource = |kind: i8, name: &str| {
        ConfigResource::default().with_resource_type(kind).with_resource_name(text(name))
    };
    let mut resources = Vec::new();
    if wanted(TOPIC) {
        let topics = broker.topics();
        resources.extend(topics.iter().map(|topic| resource(TOPIC, topic.name.as_str())));
    }
    if wanted(BROKER) {
        resources.push(resource(BROKER, &NODE.0.to_string()));
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}

/// What a request does to one resource.
struct Alteration {
    kind: i8,
    name: StrBytes,
    /// Operation, name, value.
    operations: Vec<(i8, StrBytes, Option<StrBytes>)>,
    /// Whether settings that are not named go back to their defaults.
    replaces: bool,
}

/// Replaces all that is set for topics.
pub(crate) async fn alter(
    broker: &Arc<Broker>,
    _context: &Context,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let alterations = request.resources.into_iter().map(|resource| Alteration {
        kind: resource.resource_type,
        name: resource.resource_name,
        operations: resource.configs.into_iter().map(|set| (SET, set.name, set.value)).collect(),
        replaces: true,
    });
    let outcomes = alter_all(broker, alterations.collect(), request.validate_only).await;
    let responses = outcomes.into_iter().map(|(kind, name, outcome)| {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(kind)
            .with_resource_name(name);
        match outcome {
            Ok(()) => response,
            Err((error, message)) => {
                response.with_error_code(error.code()).with_error_message(Some(text(&message)))
            }
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

/// Changes some of what is set for topics.
pub(crate) async fn alter_some(
    broker: &Arc<Broker>,
    _context: &Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let alterations = request.resources.into_iter().map(|resource| Alteration {
        kind: resource.resource_type,
        name: resource.resource_name,
        operations: resource
            .configs
            .into_iter()
            .map(|change| (change.config_operation, change.name, change.value))
            .collect(),
        replaces: false,
    });
    let outcomes = alter_all(broker, alterations.collect(), request.validate_only).await;
    let responses = outcomes.into_iter().map(|(kind, name, outcome)| {
        let response =
            IncrementalResponse::default().with_resource_type(kind).with_resource_name(name);
        match outcome {
            Ok(()) => response,
            Err((error, message)) => {
                response.with_error_code(error.code()).with_error_message(Some(text(&message)))
            }
        }
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

async fn alter_all(
    broker: &Arc<Broker>,
    alterations: Vec<Alteration>,
    validate_only: bool,
) -> Vec<(i8, StrBytes, Result<(), Refusal>)> {
    let twice = repeated(alterations.iter().map(|one| (one.kind, one.name.clone())));
    let mut outcomes = Vec::with_capacity(alterations.len());
    for alteration in alterations {
        let resource = (alteration.kind, alteration.name.clone());
        let outcome = if twice.contains(&resource) {
            Err((ResponseError::InvalidRequest, "a resource can be named once".to_owned()))
        } else {
            alter_one(broker, alteration, validate_only).await
        };
        outcomes.push((resource.0, resource.1, outcome));
    }
    outcomes
}

async fn alter_one(
    broker: &Arc<Broker>,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refusal> {
    match alteration.kind {
        TOPIC if alteration.name.is_empty() => {
            return Err((ResponseError::InvalidRequest, "no topic is named".to_owned()));
        }
        TOPIC => {}
        BROKER if !alteration.name.is_empty() && alteration.name.parse::<i32>().is_err() => {
            let message = format!("{:?} is no node's number", &*alteration.name);
            return Err((ResponseError::InvalidRequest, message));
        }
        BROKER => {
            let message = "the node's settings come from its command line";
            return Err((ResponseError::InvalidConfig, message.to_owned()));
        }
        other => return Err(unsupported(other)),
    }
    check_operations(&alteration)?;
    let topic = broker.changeable_topic(&alteration.name)?;
    if validate_only {
        let settings = altered(&alteration, topic.settings.set());
        return settings.map(drop).map_err(|error| of_setting(&error));
    }
    let name = topic.name.clone();
    let done =
        blocking(&broker.log, move |log| log.alter_topic(&name, |set| altered(&alteration, set)));
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(AlterError::Setting(error))) => Err(of_setting(&error)),
        Ok(Err(AlterError::Append(error))) => Err((code::of_append(&error), error.to_string())),
        Ok(Err(error)) => Err((ResponseError::UnknownTopicOrPartition, error.to_string())),
        Err(error) => Err((ResponseError::UnknownServerError, error.to_string())),
    }
}

/// The code for a setting that is refused.
pub(crate) fn of_setting(error: &SettingError) -> Refusal {
    (ResponseError::InvalidConfig, error.to_string())
}

/// What is wrong with the request itself, whatever is set now.
fn check_operations(alteration: &Alteration) -> Result<(), Refusal> {
    let invalid = |message: String| Err((ResponseError::InvalidRequest, message));
    let mut seen = HashSet::new();
    for (operation, name, value) in &alteration.operations {
        if !seen.insert(name) {
            return invalid(format!("{name:?} is named twice"));
        }
        match *operation {
            SET | APPEND | SUBTRACT if value.is_none() => {
                return invalid(format!("{name:?} has no value"));
            }
            SET | DELETE => {}
            APPEND | SUBTRACT => {
                if setting(name).is_some_and(|setting| setting.kind != SettingType::List) {
                    let message = format!("{} is not a list", &**name);
                    return Err((ResponseError::InvalidConfig, message));
                }
            }
            other => return invalid(format!("operation {other} is not known")),
        }
    }
    Ok(())
}

/// What is set once the operations are done.
fn altered(alteration: &Alteration, set: &Values) -> Result<Settings, SettingError> {
    let mut values = if alteration.replaces { Values::new() } else { set.clone() };
    for (operation, name, value) in &alteration.operations {
        let name = name.to_string();
        let value = value.as_deref().unwrap_or_default();
        let known = setting(&name).ok_or_else(|| SettingError::Unknown(name.clone()))?;
        match *operation {
            SET => {
                values.insert(name, value.to_owned());
            }
            DELETE => {
                values.remove(&name);
            }
            operation => {
                let now = values.get(&name).map_or(known.default, String::as_str);
                let given: Vec<&str> = value.split(',').map(str::trim).collect();
                let mut parts: Vec<&str> = now.split(',').filter(|part| !part.is_empty()).collect();
                parts.retain(|part| !given.contains(part));
                if operation == APPEND {
                    parts.extend(given);
                }
                values.insert(name, parts.join(","));
            }
        }
    }
    Settings::new(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alteration(replaces: bool, operations: &[(i8, &str, Option<&str>)]) -> Alteration {
        let operations = operations.iter();
        let operations = operations.map(|(op, name, value)| (*op, text(name), value.map(text)));
        Alteration { kind: TOPIC, name: text("t"), operations: operations.collect(), replaces }
    }

    #[test]
    fn operations_change_what_is_set() {
        let set = Values::from([("retention.ms".to_owned(), "5".to_owned())]);
        let check = |replaces, operations: &[(i8, &str, Option<&str>)], expected: &str| {
            let found = altered(&alteration(replaces, operations), &set)
                .map_or_else(|error| error.to_string(), |settings| format!("{:?}", settings.set()));
            assert!(found.contains(expected), "{operations:?}: {found}");
        };
        check(false, &[(SET, "retention.bytes", Some("7"))], r#""7", "retention.ms": "5"}"#);
        check(true, &[(SET, "retention.bytes", Some("7"))], r#"{"retention.bytes": "7"}"#);
        check(false, &[(DELETE, "retention.ms", None)], "{}");
        check(
            false,
            &[(APPEND, "cleanup.policy", Some("delete"))],
            r#""cleanup.policy": "delete""#,
        );
        let both = r#""cleanup.policy": "delete,compact""#;
        check(false, &[(APPEND, "cleanup.policy", Some("compact"))], both);
        check(false, &[(SUBTRACT, "cleanup.policy", Some("delete"))], "one or more of");
        check(false, &[(DELETE, "moon.phase", None)], "no setting moon.phase");
    }

    #[test]
    fn malformed_operations_are_refused() {
        let check = |operations: &[(i8, &str, Option<&str>)], expected: ResponseError| {
            let refused = check_operations(&alteration(false, operations));
            assert_eq!(refused.unwrap_err().0, expected, "{operations:?}");
        };
        check(&[(SET, "retention.ms", None)], ResponseError::InvalidRequest);
        check(&[(4, "retention.ms", Some("5"))], ResponseError::InvalidRequest);
        check(&[(APPEND, "retention.ms", Some("5"))], ResponseError::InvalidConfig);
        let twice = [(SET, "retention.ms", Some("5")), (DELETE, "retention.ms", None)];
        check(&twice, ResponseError::InvalidRequest);
    }
}
