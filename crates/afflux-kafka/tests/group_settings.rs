//! Settings of groups of the consumer protocol: what each does, who sees it, what survives.

#[path = "support/client.rs"]
mod client;
#[expect(dead_code, reason = "each node is started with options")]
mod support;

use std::{path::Path, time::Duration};

use afflux_kafka::Options;
use client::Client;
use kafka_protocol::{
    ResponseError::{self, *},
    messages::{
        AlterConfigsRequest, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest,
        DescribeConfigsRequest, GroupId, IncrementalAlterConfigsRequest,
        ListConfigResourcesRequest, TopicName,
        alter_configs_request::{
            AlterConfigsResource as ReplaceResource, AlterableConfig as ReplacedConfig,
        },
        describe_configs_request::DescribeConfigsResource,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
    protocol::StrBytes,
};
use support::Server;

const GROUP: i8 = 32;
const SOURCE_STATIC: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;
const SOURCE_GROUP: i8 = 8;
const SESSION: &str = "consumer.session.timeout.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

struct Node {
    client: Client,
    _server: Server,
}

/// A node whose groups may have sessions from 50 milliseconds to an hour, so that a slow machine
/// ends none but the short ones.
fn start(directory: &Path) -> Node {
    let least = Duration::from_millis(10);
    let options = Options {
        group_consumer_heartbeat_min: least,
        group_consumer_session_min: 5 * least,
        group_consumer_session: Duration::from_mins(30),
        group_consumer_session_max: Duration::from_hours(1),
        ..Options::default()
    };
    let server = Server::start_with(directory, options);
    Node { client: Client::connect(&server), _server: server }
}

impl Node {
    fn alter(
        &mut self,
        group: &str,
        operations: &[(i8, &str, Option<&str>)],
        validate_only: bool,
    ) -> Option<ResponseError> {
        let operations = operations.iter().map(|(operation, name, value)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(GROUP)
            .with_resource_name(text(group))
            .with_configs(operations.collect());
        let request = IncrementalAlterConfigsRequest::default()
            .with_validate_only(validate_only)
            .with_resources(vec![resource]);
        ResponseError::try_from_code(self.client.call(1, &request).responses[0].error_code)
    }

    fn set(&mut self, group: &str, name: &str, value: &str) {
        assert_eq!(self.alter(group, &[(0, name, Some(value))], false), None, "{name}={value}");
    }

    /// What is told of a group's setting: its value and source, then those of its synonyms.
    fn shown(&mut self, group: &str, name: &str) -> Vec<(String, i8)> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(GROUP)
            .with_resource_name(text(group))
            .with_configuration_keys(Some(vec![text(name)]));
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true)
            .with_include_documentation(true);
        let found = self.client.call(4, &request).results.remove(0).configs.remove(0);
        assert!(!found.read_only && found.documentation.is_some());
        let value = |value: Option<StrBytes>| value.unwrap().to_string();
        let mut all = vec![(value(found.value), found.config_source)];
        all.extend(found.synonyms.into_iter().map(|one| (value(one.value), one.source)));
        all
    }

    /// The groups that are listed as having settings.
    fn listed(&mut self) -> Vec<String> {
        let request = ListConfigResourcesRequest::default().with_resource_types(vec![GROUP]);
        let found = self.client.call(1, &request).config_resources;
        found.into_iter().map(|one| one.resource_name.to_string()).collect()
    }

    /// A member joins; how often it is told to be heard of.
    fn join(&mut self, group: &str) -> i32 {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text("m"))
            .with_rebalance_timeout_ms(10_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text("t"))]))
            .with_topic_partitions(Some(Vec::new()));
        let beat = self.client.call(1, &request);
        assert_eq!(beat.error_code, 0);
        beat.heartbeat_interval_ms
    }

    fn members(&mut self, group: &str) -> usize {
        let request =
            ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text(group))]);
        self.client.call(1, &request).groups[0].members.len()
    }
}

#[test]
fn members_of_a_group_live_by_its_settings() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = start(directory.path());
    assert_eq!(node.join("steady"), 5_000);
    node.set("brisk", HEARTBEAT, "20");
    node.set("brisk", SESSION, "50");
    assert_eq!(node.join("brisk"), 20);
    while node.members("brisk") > 0 {}
    assert_eq!(node.members("steady"), 1);
    // From the next heartbeat on.
    node.set("steady", HEARTBEAT, "15000");
    assert_eq!(node.join("steady"), 15_000);
    assert_eq!(node.alter("steady", &[(1, HEARTBEAT, None)], false), None);
    assert_eq!(node.join("steady"), 5_000);
}

#[test]
fn what_is_set_is_shown_and_survives() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = start(directory.path());
    let is = |value: &str, source: i8| (value.to_owned(), source);
    let of_node = [is("1800000", SOURCE_STATIC), is("45000", SOURCE_DEFAULT)];
    assert_eq!(node.shown("g", SESSION), [&of_node[..1], &of_node].concat());
    let default = is("5000", SOURCE_DEFAULT);
    assert_eq!(node.shown("g", HEARTBEAT), [default.clone(), default.clone()]);
    assert_eq!(node.alter("g", &[(0, HEARTBEAT, Some("6000"))], true), None);
    assert_eq!((node.shown("g", HEARTBEAT)[0].clone(), node.listed()), (default, Vec::new()));
    node.set("g", SESSION, " 3600000 ");
    node.set("h", HEARTBEAT, "500");
    node.set("h", SESSION, "1000");
    assert_eq!((node.join("g"), node.join("h")), (5_000, 500));
    drop(node);

    let mut node = start(directory.path());
    // Who is not heard of again has but the session of its group.
    while node.members("h") > 0 {}
    assert_eq!(node.members("g"), 1);
    let of_group = [is("3600000", SOURCE_GROUP)];
    assert_eq!(node.shown("g", SESSION), [&of_group[..], &of_group, &of_node].concat());
    assert_eq!(node.listed(), ["g", "h"]);
    assert_eq!(node.alter("h", &[(1, SESSION, None), (1, HEARTBEAT, None)], false), None);
    assert_eq!(node.listed(), ["g"]);
    // The older request replaces all.
    let configs =
        [ReplacedConfig::default().with_name(text(HEARTBEAT)).with_value(Some(text("30")))];
    let resource = ReplaceResource::default()
        .with_resource_type(GROUP)
        .with_resource_name(text("g"))
        .with_configs(configs.into());
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(node.client.call(2, &request).responses[0].error_code, 0);
    assert_eq!(node.shown("g", HEARTBEAT)[0], is("30", SOURCE_GROUP));
    assert_eq!(node.shown("g", SESSION)[0], of_node[0]);
}

#[test]
fn what_a_group_can_not_have_is_refused_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = start(directory.path());
    let mut check = |set: &[(i8, &str, Option<&str>)]| {
        assert_eq!(node.alter("g", set, false), Some(InvalidConfig), "{set:?}");
    };
    check(&[(0, SESSION, Some("49"))]);
    check(&[(0, SESSION, Some("3600001"))]);
    check(&[(0, SESSION, Some("1000")), (0, HEARTBEAT, Some("1000"))]);
    check(&[(0, SESSION, Some("1000"))]);
    check(&[(2, SESSION, Some("1000"))]);
    check(&[(0, "share.session.timeout.ms", Some("50000")), (0, SESSION, Some("60000"))]);
    check(&[(0, "streams.num.standby.replicas", Some("1"))]);
    assert_eq!(node.listed(), Vec::<String>::new());
    // What all groups have together is bounded.
    let long = |number: usize| format!("{number}{}", "g".repeat(30_000));
    let set = [(0, HEARTBEAT, Some("100"))];
    let full = (0..100).find(|number| node.alter(&long(*number), &set, false).is_some()).unwrap();
    assert_eq!(full, 34);
    assert_eq!(node.alter(&long(full), &set, false), Some(PolicyViolation));
    assert_eq!(node.alter(&long(0), &[(1, HEARTBEAT, None)], false), None);
    assert_eq!(node.alter(&long(full), &set, false), None);
}
