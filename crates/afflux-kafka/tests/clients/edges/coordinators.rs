//! What is asked wrongly of groups and transactions.

use super::*;

/// A producer's id and epoch.
type Who = (i64, i16);

/// A commit by who is in no group.
pub(super) fn commit(group_id: &str, name: &str, offset: i64) -> OffsetCommitRequest {
    let at = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let of = OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![at]);
    OffsetCommitRequest::default()
        .with_group_id(group(group_id))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![of])
}

pub(super) fn begin(of: &str, timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id(of)))
        .with_transaction_timeout_ms(timeout_ms)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
}

impl Asked {
    pub(super) fn classic_groups(&mut self) {
        let join = |of: &str, member: &str| {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]));
            JoinGroupRequest::default()
                .with_group_id(group(of))
                .with_member_id(text(member))
                .with_session_timeout_ms(10_000)
                .with_rebalance_timeout_ms(10_000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol])
        };
        let mut check = |what: &str, request: &JoinGroupRequest| {
            self.ask(what, 9, request);
        };
        check("no group", &join("", ""));
        check("a member that is not", &join("edges-join", "who"));
        check("no name yet", &join("edges-join", ""));
        check("a session too short", &join("edges-join", "").with_session_timeout_ms(1));
        check("a session too long", &join("edges-join", "").with_session_timeout_ms(i32::MAX));
        check("no protocol", &join("edges-join", "").with_protocols(Vec::new()));
        check("no kind", &join("edges-join", "").with_protocol_type(text("")));
        let member = self.connection.call(9, &join("edges-live", "")).member_id;
        let joined = self.connection.call(9, &join("edges-live", &member));
        let other = join("edges-live", "").with_protocol_type(text("connect"));
        self.ask("another kind", 9, &other);
        let mut other = join("edges-live", "");
        other.protocols[0].name = text("sticky");
        self.ask("another protocol", 9, &other);
        let sync = |of: &str, who: &str, generation: i32| {
            SyncGroupRequest::default()
                .with_group_id(group(of))
                .with_member_id(text(who))
                .with_generation_id(generation)
        };
        let beat = |of: &str, who: &str, generation: i32| {
            HeartbeatRequest::default()
                .with_group_id(group(of))
                .with_member_id(text(who))
                .with_generation_id(generation)
        };
        let leave = |of: &str, who: &str| {
            let one = MemberIdentity::default().with_member_id(text(who));
            LeaveGroupRequest::default().with_group_id(group(of)).with_members(vec![one])
        };
        let now = joined.generation_id;
        for (what, of, who, generation) in [
            ("no group", "", "who", 1),
            ("no such group", "edges-none", "who", 1),
            ("no such member", "edges-live", "who", now),
            ("no member", "edges-live", "", now),
            ("an older generation", "edges-live", &*member, now - 1),
            ("a newer generation", "edges-live", &*member, now + 1),
        ] {
            self.ask(what, 5, &sync(of, who, generation));
            self.ask(what, 4, &beat(of, who, generation));
            let commit = commit(of, TOPIC, 1).with_member_id(text(who));
            self.ask(what, 8, &commit.with_generation_id_or_member_epoch(generation));
        }
        let sync = sync("edges-live", &member, now);
        let other = sync.clone().with_protocol_type(Some(text("connect")));
        self.ask("another kind", 5, &other.with_protocol_name(Some(text("range"))));
        let other = sync.clone().with_protocol_type(Some(text("consumer")));
        self.ask("another protocol", 5, &other.with_protocol_name(Some(text("sticky"))));
        let usual = sync.with_protocol_type(Some(text("consumer")));
        self.ask("as it is", 5, &usual.with_protocol_name(Some(text("range"))));
        let named = beat("edges-live", &member, now).with_group_instance_id(Some(text("named")));
        self.ask("a configured name that is not", 4, &named);
        self.ask("alone, while there are members", 8, &commit("edges-live", TOPIC, 1));
        for (what, of, who) in [
            ("no group", "", "who"),
            ("no such group", "edges-none", "who"),
            ("no such member", "edges-live", "who"),
        ] {
            self.ask(what, 5, &leave(of, who));
            let older = LeaveGroupRequest::default().with_group_id(group(of));
            self.ask(what, 2, &older.with_member_id(text(who)));
        }
        for of in ["", "edges-none", "edges-live"] {
            let what = format!("{of:?}");
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group(of)]);
            self.ask(&what, 2, &request);
            for version in [5, 6] {
                let request = DescribeGroupsRequest::default().with_groups(vec![group(of)]);
                self.ask(&what, version, &request);
            }
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(of)]);
            self.ask(&what, 1, &request);
        }
        let twice = vec![group("edges-none"), group("edges-none")];
        self.ask("twice", 2, &DeleteGroupsRequest::default().with_groups_names(twice));
        let mut check = |what: &str, request: &ListGroupsRequest| {
            self.ask(what, 5, request);
        };
        check(
            "a state that is not",
            &ListGroupsRequest::default().with_states_filter(vec![text("Mad")]),
        );
        check(
            "a kind that is not",
            &ListGroupsRequest::default().with_types_filter(vec![text("mad")]),
        );
        let find = |kind: i8, key: &str| {
            FindCoordinatorRequest::default()
                .with_key_type(kind)
                .with_coordinator_keys(vec![text(key)])
        };
        self.ask("no group", 4, &find(0, ""));
        self.ask("no transaction", 4, &find(1, ""));
        self.ask("a kind that is not", 4, &find(7, "x"));
        self.ask("leaves", 5, &leave("edges-live", &member));
    }

    pub(super) fn offsets(&mut self) {
        let mut check = |what: &str, request: &OffsetCommitRequest| {
            self.ask(what, 8, request);
        };
        check("no group", &commit("", TOPIC, 1));
        check("no such topic", &commit("edges", "no-such", 1));
        check("a negative offset", &commit("edges", TOPIC, -1));
        check("a very negative offset", &commit("edges", TOPIC, -5));
        let mut long = commit("edges", TOPIC, 1);
        long.topics[0].partitions[0].committed_metadata = Some(text(&"m".repeat(4097)));
        check("long metadata", &long);
        let mut elsewhere = commit("edges", TOPIC, 1);
        elsewhere.topics[0].partitions[0].partition_index = 1;
        check("no such partition", &elsewhere);
        check("nothing", &commit("edges", TOPIC, 1).with_topics(Vec::new()));
        check(
            "a generation, no such group",
            &commit("edges-none", TOPIC, 1).with_generation_id_or_member_epoch(3),
        );
        check(
            "a generation, a group without members",
            &commit("edges", TOPIC, 1).with_generation_id_or_member_epoch(3),
        );
        let named = commit("edges", TOPIC, 1).with_group_instance_id(Some(text("named")));
        check("a configured name that is not", &named);
        let fetch = |of: &str, name: &str, partition: i32| {
            let of_topic = OffsetFetchRequestTopics::default()
                .with_name(topic(name))
                .with_partition_indexes(vec![partition]);
            OffsetFetchRequestGroup::default()
                .with_group_id(group(of))
                .with_topics(Some(vec![of_topic]))
        };
        let mut check = |what: &str, one: OffsetFetchRequestGroup| {
            self.ask(what, 9, &OffsetFetchRequest::default().with_groups(vec![one]));
        };
        check("no group", fetch("", TOPIC, 0));
        check("no such group", fetch("edges-none", TOPIC, 0));
        check("no such topic", fetch("edges", "no-such", 0));
        check("no such partition", fetch("edges", TOPIC, 7));
        check(
            "a member that is not",
            fetch("edges", TOPIC, 0).with_member_id(Some(text("who"))).with_member_epoch(3),
        );
        let older = OffsetFetchRequestTopic::default().with_name(topic(TOPIC));
        let older = OffsetFetchRequest::default()
            .with_topics(Some(vec![older.with_partition_indexes(vec![0])]));
        self.ask("no such group", 7, &older.with_group_id(group("edges-none")));
        let delete = |of: &str, name: &str, partition: i32| {
            let at = OffsetDeleteRequestPartition::default().with_partition_index(partition);
            let topic = OffsetDeleteRequestTopic::default().with_name(topic(name));
            OffsetDeleteRequest::default()
                .with_group_id(group(of))
                .with_topics(vec![topic.with_partitions(vec![at])])
        };
        let mut check = |what: &str, request: &OffsetDeleteRequest| {
            self.ask(what, 0, request);
        };
        check("no group", &delete("", TOPIC, 0));
        check("no such group", &delete("edges-none", TOPIC, 0));
        check("no such topic", &delete("edges", "no-such", 0));
        check("no such partition", &delete("edges", TOPIC, 7));
        check("nothing committed", &delete("edges", "edges-compacted", 0));
        check("as it is", &delete("edges", TOPIC, 0));
    }

    pub(super) fn consumer_groups(&mut self) {
        let beat = |of: &str, who: &str, epoch: i32| {
            ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group(of))
                .with_member_id(text(who))
                .with_member_epoch(epoch)
                .with_rebalance_timeout_ms(10_000)
                .with_subscribed_topic_names(Some(vec![topic(TOPIC)]))
                .with_topic_partitions(Some(Vec::new()))
        };
        let of = "edges-consumer";
        let mut check = |what: &str, request: &ConsumerGroupHeartbeatRequest| {
            self.ask(what, 1, request);
        };
        check("no group", &beat("", "who", 0));
        check("no member", &beat(of, "", 0));
        check("no such group", &beat("edges-none", "who", 1));
        check("no such group, leaves", &beat("edges-none", "who", -1));
        check("an epoch that can not be", &beat(of, "who", -3));
        check("leaves for a while without a name", &beat(of, "who", -2));
        check("no time", &beat(of, "who", 0).with_rebalance_timeout_ms(-1));
        check("no topics", &beat(of, "who", 0).with_subscribed_topic_names(None));
        check("no partitions", &beat(of, "who", 0).with_topic_partitions(None));
        let owned = OwnedPartitions::default().with_partitions(vec![0]);
        check("partitions at once", &beat(of, "who", 0).with_topic_partitions(Some(vec![owned])));
        check("an empty name", &beat(of, "who", 0).with_instance_id(Some(text(""))));
        check("an empty rack", &beat(of, "who", 0).with_rack_id(Some(text(""))));
        check(
            "an assignor that is not",
            &beat(of, "who", 0).with_server_assignor(Some(text("odd"))),
        );
        let expression = beat(of, "who", 0).with_subscribed_topic_names(None);
        check("a bad expression", &expression.clone().with_subscribed_topic_regex(Some(text("["))));
        check("an empty expression", &expression.with_subscribed_topic_regex(Some(text(""))));
        check("joins", &beat(of, "who", 0));
        check("a newer epoch", &beat(of, "who", 50));
        check("another member", &beat(of, "else", 1));
        check("a name that is not", &beat(of, "else", 0).with_instance_id(Some(text("named"))));
        check(
            "a name that another has",
            &beat(of, "third", 0).with_instance_id(Some(text("named"))),
        );
        for (what, who, epoch) in
            [("no such member", "nobody", 1), ("a newer epoch", "who", 50), ("alone", "", -1)]
        {
            let commit = commit(of, TOPIC, 1).with_member_id(text(who));
            let commit = commit.with_generation_id_or_member_epoch(epoch);
            self.ask(what, 9, &commit);
            self.ask(what, 8, &commit);
        }
        let beat_classic = HeartbeatRequest::default()
            .with_group_id(group(of))
            .with_member_id(text("who"))
            .with_generation_id(1);
        self.ask("of the other protocol", 4, &beat_classic);
        self.ask(
            "of the other protocol",
            6,
            &DescribeGroupsRequest::default().with_groups(vec![group(of)]),
        );
        self.ask(
            "with members",
            2,
            &DeleteGroupsRequest::default().with_groups_names(vec![group(of)]),
        );
        self.ask("leaves", 1, &beat(of, "who", -1));
        self.ask("leaves again", 1, &beat(of, "who", -1));
    }

    pub(super) fn transactions(&mut self) {
        let mut check = |what: &str, request: &InitProducerIdRequest| {
            self.ask(what, 4, request);
        };
        check("no id", &begin("", 1_000));
        check("no time", &begin("edges", 0));
        check("negative time", &begin("edges", -1));
        check("too much time", &begin("edges", i32::MAX));
        check("an epoch alone", &begin("edges", 1_000).with_producer_epoch(1));
        check("a producer alone", &begin("edges", 1_000).with_producer_id(7.into()));
        let other = begin("edges", 1_000).with_producer_id(987_654.into());
        check("another producer", &other.with_producer_epoch(1));
        check(
            "a new id as another producer",
            &begin("edges-fresh", 1_000).with_producer_id(987_654.into()).with_producer_epoch(1),
        );
        let newer = begin("edges", 1_000);
        let known = self.connection.call(4, &newer);
        let (producer, epoch) = (known.producer_id, known.producer_epoch);
        let newer = newer.with_producer_id(producer).with_producer_epoch(epoch + 1);
        self.ask("a newer epoch", 4, &newer);
        let add = |of: &str, producer: Who, names: &[&str]| {
            let topics = names.iter().map(|name| {
                AddPartitionsToTxnTopic::default().with_name(topic(name)).with_partitions(vec![0])
            });
            AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(id(of))
                .with_v3_and_below_producer_id(producer.0.into())
                .with_v3_and_below_producer_epoch(producer.1)
                .with_v3_and_below_topics(topics.collect())
        };
        let offsets = |of: &str, producer: Who, group_id: &str| {
            AddOffsetsToTxnRequest::default()
                .with_transactional_id(id(of))
                .with_producer_id(producer.0.into())
                .with_producer_epoch(producer.1)
                .with_group_id(group(group_id))
        };
        let end = |of: &str, producer: Who, committed: bool| {
            EndTxnRequest::default()
                .with_transactional_id(id(of))
                .with_producer_id(producer.0.into())
                .with_producer_epoch(producer.1)
                .with_committed(committed)
        };
        let commit = |of: &str, producer: Who, group_id: &str, name: &str| {
            let at = TxnOffsetCommitRequestPartition::default().with_committed_offset(1);
            let topic = TxnOffsetCommitRequestTopic::default().with_name(topic(name));
            TxnOffsetCommitRequest::default()
                .with_transactional_id(id(of))
                .with_group_id(group(group_id))
                .with_producer_id(producer.0.into())
                .with_producer_epoch(producer.1)
                .with_generation_id(-1)
                .with_topics(vec![topic.with_partitions(vec![at])])
        };
        let good = (producer.0, epoch);
        for (what, of, producer) in [
            ("no id", "", good),
            ("no such id", "edges-none", good),
            ("another producer", "edges", (987_654, epoch)),
            ("an older epoch", "edges", (producer.0, epoch - 1)),
            ("a newer epoch", "edges", (producer.0, epoch + 1)),
        ] {
            self.ask(what, 3, &add(of, producer, &[TOPIC]));
            self.ask(what, 3, &offsets(of, producer, "edges"));
            self.ask(what, 3, &end(of, producer, true));
            self.ask(what, 3, &commit(of, producer, "edges", TOPIC));
        }
        self.ask("nothing to commit", 3, &end("edges", good, true));
        self.ask("nothing to abort", 3, &end("edges", good, false));
        self.ask("no such topic", 3, &add("edges", good, &["no-such"]));
        self.ask("one that is, one that is not", 3, &add("edges", good, &[TOPIC, "no-such"]));
        self.ask("no topics", 3, &add("edges", good, &[]));
        self.ask("no group", 3, &offsets("edges", good, ""));
        self.ask("before it is added", 3, &commit("edges", good, "edges", TOPIC));
        self.ask("added", 3, &offsets("edges", good, "edges"));
        self.ask("no group", 3, &commit("edges", good, "", TOPIC));
        self.ask("no such topic", 3, &commit("edges", good, "edges", "no-such"));
        let generation = commit("edges", good, "edges-live", TOPIC).with_generation_id(3);
        self.ask("a generation that is not", 3, &generation.with_member_id(text("who")));
        self.ask("as it is", 3, &commit("edges", good, "edges", TOPIC));
        let unstable = OffsetFetchRequestTopic::default().with_name(topic(TOPIC));
        let unstable = OffsetFetchRequest::default()
            .with_group_id(group("edges"))
            .with_topics(Some(vec![unstable.with_partition_indexes(vec![0])]))
            .with_require_stable(true);
        self.ask("what is open", 7, &unstable);
        self.ask("committed", 3, &end("edges", good, true));
        // Kafka's markers arrive later.
        while codes(&self.connection.call(3, &end("edges", good, true))) != ["0"] {}
        self.ask("committed again", 3, &end("edges", good, true));
        self.ask("aborted then", 3, &end("edges", good, false));
        for of in ["", "edges-none", "edges"] {
            let request = DescribeTransactionsRequest::default();
            self.ask(&format!("{of:?}"), 0, &request.with_transactional_ids(vec![id(of)]));
        }
        let list = ListTransactionsRequest::default();
        self.ask("a state that is not", 2, &list.clone().with_state_filters(vec![text("Mad")]));
        self.ask("a bad expression", 2, &list.with_transactional_id_pattern(Some(text("["))));
        for (name, partition) in [("no-such", 0), (TOPIC, 7), (TOPIC, 0)] {
            let of = ProducersOf::default().with_name(topic(name));
            let of = of.with_partition_indexes(vec![partition]);
            let request = DescribeProducersRequest::default().with_topics(vec![of]);
            self.ask(&format!("{name} {partition}"), 0, &request);
        }
    }

    pub(super) fn administration(&mut self) {
        for (name, partition, kind) in
            [("no-such", 0, 0), (TOPIC, 7, 0), (TOPIC, 0, 0), (TOPIC, 0, 1), (TOPIC, 0, 7)]
        {
            let of = ElectedPartitions::default().with_topic(topic(name));
            let request = ElectLeadersRequest::default()
                .with_election_type(kind)
                .with_timeout_ms(30_000)
                .with_topic_partitions(Some(vec![of.with_partitions(vec![partition])]));
            self.ask(&format!("{name} {partition} {kind}"), 2, &request);
        }
        for (name, partition, nodes) in [
            ("no-such", 0, Some(vec![1])),
            (TOPIC, 7, Some(vec![1])),
            (TOPIC, 0, Some(vec![1])),
            (TOPIC, 0, Some(vec![7])),
            (TOPIC, 0, Some(vec![1, 1])),
            (TOPIC, 0, Some(vec![])),
            (TOPIC, 0, None),
        ] {
            let what = format!("{name} {partition} to {nodes:?}");
            let nodes = nodes.map(|nodes| nodes.into_iter().map(BrokerId).collect());
            let part = ReassignablePartition::default()
                .with_partition_index(partition)
                .with_replicas(nodes);
            let of = ReassignableTopic::default().with_name(topic(name));
            let request = AlterPartitionReassignmentsRequest::default()
                .with_timeout_ms(30_000)
                .with_topics(vec![of.with_partitions(vec![part])]);
            self.ask(&what, 0, &request);
        }
    }
}
