//! Settings: `DescribeConfigs`, `AlterConfigs`, `IncrementalAlterConfigs`, `ListConfigResources`.
//!
//! What topics can be set to is declared in `afflux_log::settings`, what groups can in
//! `settings::of_groups`; this module only speaks Kafka's words for it. Each resource of a request
//! succeeds or fails by itself and as a whole. The node's own (`settings`) come from its command
//! line: they can be read here, not changed.

use std::{collections::HashSet, sync::Arc};

use afflux_log::{
    AttributeError, Attributes,
    settings::{AlterError, SETTINGS, Setting, SettingError, SettingType, Settings, setting},
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
    settings::{
        SETTINGS as SETTINGS_OF_NODE,
        of_groups::{self, GroupSetting},
    },
};

/// A resource that is a topic.
const TOPIC: i8 = 2;
/// A resource that is a node.
const BROKER: i8 = 4;
/// A resource that is a group.
const GROUP: i8 = 32;
/// All that there are in Kafka: loggers and clients' metrics, too, of which there are none here.
const KINDS: [i8; 5] = [TOPIC, BROKER, 8, 16, GROUP];

/// Where a value comes from: it was set for the topic.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// Where a value comes from: the node was started with it.
const SOURCE_STATIC: i8 = 4;
/// Where a value comes from: it is the default.
pub(crate) const SOURCE_DEFAULT: i8 = 5;
/// Where a value comes from: it was set for the group.
const SOURCE_GROUP: i8 = 8;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

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
            GROUP => group(&asked.resource_name).map(|()| {
                let set = broker.log.attributes(&of_groups::owner(&asked.resource_name));
                let settings = of_groups::SETTINGS.into_iter();
                settings.map(|setting| group_entry(broker, &set, setting, synonyms, docs)).collect()
            }),
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

/// A group's setting; below what is set for the group stands what holds for the node.
fn group_entry(
    broker: &Broker,
    set: &Attributes,
    setting: &'static GroupSetting,
    synonyms: bool,
    docs: bool,
) -> DescribeConfigsResourceResult {
    let value = setting.value(&broker.options, set).as_millis().to_string();
    let of_group = set.contains_key(setting.name);
    let mut names: Vec<_> =
        of_group.then(|| synonym(setting.name, &value, SOURCE_GROUP)).into_iter().collect();
    let of_node = SETTINGS_OF_NODE.iter().find(|one| one.name == setting.of_node_name);
    names.extend(of_node.into_iter().flat_map(|one| {
        let (value, default) = (one.value(&broker.options), one.value(&Options::default()));
        node_synonyms(one.name, &value, Some(&default))
    }));
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(setting.name))
        .with_value(Some(text(&value)))
        .with_config_source(names.first().map_or(SOURCE_DEFAULT, |name| name.source))
        .with_synonyms(if synonyms { names } else { Vec::new() })
        .with_config_type(type_number(SettingType::Int))
        .with_documentation(docs.then(|| StrBytes::from_static_str(setting.doc)))
}

/// What holds for the node, if that is not the default, and the default.
fn node_synonyms(
    name: &'static str,
    value: &str,
    default: Option<&str>,
) -> Vec<DescribeConfigsSynonym> {
    let set = (default != Some(value)).then(|| synonym(name, value, SOURCE_STATIC));
    let default = default.map(|default| synonym(name, default, SOURCE_DEFAULT));
    set.into_iter().chain(default).collect()
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
            let names = node_synonyms(name, &value, default.as_deref());
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(text(&value)))
                .with_read_only(true)
                .with_config_source(names.first().map_or(SOURCE_DEFAULT, |name| name.source))
                .with_synonyms(if synonyms { names } else { Vec::new() })
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

fn group(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        return Err((ResponseError::InvalidRequest, "no group is named".to_owned()));
    }
    Ok(())
}

fn unsupported(kind: i8) -> Refusal {
    (ResponseError::InvalidRequest, format!("resources of type {kind} have no settings here"))
}

/// Lists what has settings: the topics, the node, and groups for which something is set. Version 0
/// asks for those of clients' metrics alone, which there are none of.
pub(crate) fn list_resources(
    broker: &Arc<Broker>,
    context: &Context,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let kinds = request.resource_types;
    if !kinds.iter().all(|kind| KINDS.contains(kind)) {
        let error = ResponseError::UnsupportedVersion;
        return ListConfigResourcesResponse::default().with_error_code(error.code());
    }
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
    if wanted(GROUP) {
        let groups = of_groups::groups(&broker.log);
        resources.extend(groups.iter().map(|group| resource(GROUP, group)));
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

/// Replaces all that is set for topics and groups.
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

/// Changes some of what is set for topics and groups.
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
            Err((ResponseError::InvalidRequest, "no topic is named".to_owned()))
        }
        TOPIC => {
            check_operations(&alteration)?;
            alter_topic(broker, alteration, validate_only).await
        }
        BROKER if !alteration.name.is_empty() && alteration.name.parse::<i32>().is_err() => {
            let message = format!("{:?} is no node's number", &*alteration.name);
            Err((ResponseError::InvalidRequest, message))
        }
        BROKER => {
            let message = "the node's settings come from its command line";
            Err((ResponseError::InvalidConfig, message.to_owned()))
        }
        GROUP => {
            group(&alteration.name)?;
            check_operations(&alteration)?;
            alter_group(broker, alteration, validate_only).await
        }
        other => Err(unsupported(other)),
    }
}

async fn alter_topic(
    broker: &Arc<Broker>,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refusal> {
    let topic = broker.changeable_topic(&alteration.name)?;
    let settings = move |set: &Attributes| {
        let default = |name: &str| setting(name).map(|setting| setting.default);
        Settings::new(altered(&alteration, set, default).map_err(SettingError::Unknown)?)
    };
    if validate_only {
        return settings(topic.settings.set()).map(drop).map_err(|error| of_setting(&error));
    }
    let name = topic.name.clone();
    match blocking(&broker.log, move |log| log.alter_topic(&name, settings)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(AlterError::Setting(error))) => Err(of_setting(&error)),
        Ok(Err(AlterError::Append(error))) => Err((code::of_append(&error), error.to_string())),
        Ok(Err(error)) => Err((ResponseError::UnknownTopicOrPartition, error.to_string())),
        Err(error) => Err((ResponseError::UnknownServerError, error.to_string())),
    }
}

async fn alter_group(
    broker: &Arc<Broker>,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Refusal> {
    let owner = of_groups::owner(&alteration.name);
    let asked = Arc::clone(broker);
    let settings = move |set: &Attributes| {
        // There are no lists, to which a default would matter.
        let default = |name: &str| of_groups::setting(name).map(|_| "");
        let set = altered(&alteration, set, default)
            .map_err(|name| format!("groups have no setting {name}"))?;
        of_groups::check(&asked.options, set)
    };
    if validate_only {
        let checked = settings(&broker.log.attributes(&owner));
        return checked.map(drop).map_err(|why| (ResponseError::InvalidConfig, why));
    }
    match blocking(&broker.log, move |log| log.alter_attributes(&owner, settings)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(AttributeError::Refused(why))) => Err((ResponseError::InvalidConfig, why)),
        Ok(Err(AttributeError::Append(error))) => Err((code::of_append(&error), error.to_string())),
        Ok(Err(error)) => Err((ResponseError::PolicyViolation, error.to_string())),
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
                let is_single = match alteration.kind {
                    GROUP => of_groups::setting(name).is_some(),
                    _ => setting(name).is_some_and(|setting| setting.kind != SettingType::List),
                };
                if is_single {
                    let message = format!("{} is not a list", &**name);
                    return Err((ResponseError::InvalidConfig, message));
                }
            }
            other => return invalid(format!("operation {other} is not known")),
        }
    }
    Ok(())
}

/// What is set once the operations are done, unchecked. An error if a name is not known, to which
/// `default` gives what is so where nothing is set.
fn altered(
    alteration: &Alteration,
    set: &Attributes,
    default: impl Fn(&str) -> Option<&'static str>,
) -> Result<Attributes, String> {
    let mut values = if alteration.replaces { Attributes::new() } else { set.clone() };
    for (operation, name, value) in &alteration.operations {
        let name = name.to_string();
        let value = value.as_deref().unwrap_or_default();
        let default = default(&name).ok_or_else(|| name.clone())?;
        match *operation {
            SET => {
                values.insert(name, value.to_owned());
            }
            DELETE => {
                values.remove(&name);
            }
            operation => {
                let now = values.get(&name).map_or(default, String::as_str);
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
    Ok(values)
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
        let set = Attributes::from([("retention.ms".to_owned(), "5".to_owned())]);
        let check = |replaces, operations: &[(i8, &str, Option<&str>)], expected: &str| {
            let default = |name: &str| setting(name).map(|setting| setting.default);
            let found = altered(&alteration(replaces, operations), &set, default)
                .map_err(SettingError::Unknown)
                .and_then(Settings::new)
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
