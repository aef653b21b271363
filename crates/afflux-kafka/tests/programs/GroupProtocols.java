import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.GroupSubscribedToTopicException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A live group of Java clients moves to the consumer protocol and back, and is tended with the admin
 * client.
 *
 * <p>{@code java GroupProtocols BOOTSTRAP}
 */
public final class GroupProtocols {
    private static final String TOPIC = "java";
    private static final String GROUP = "java-group";
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final String bootstrap;

    private GroupProtocols(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] arguments) throws Exception {
        new GroupProtocols(arguments[0]).whole();
    }

    private void whole() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(TOPIC, 4, (short) 1))).all().get();
            KafkaConsumer<String, String> old = consumer("classic");
            old.subscribe(List.of(TOPIC));
            share(List.of(old));
            try (KafkaConsumer<String, String> one = consumer("consumer");
                    KafkaConsumer<String, String> two = consumer("consumer")) {
                one.subscribe(List.of(TOPIC));
                share(List.of(old, one));
                old.close();
                share(List.of(one));
                two.subscribe(List.of(TOPIC));
                share(List.of(one, two));
                produce(0, 500);
                check(consume(List.of(one, two), 500).equals(range(0, 500)), "all 500 came");
                one.commitSync();
                two.commitSync();
                ConsumerGroupDescription group = describe(admin);
                check(group.type() == GroupType.CONSUMER, "it is a group of the newer protocol");
                check(group.groupState() == GroupState.STABLE, "it is stable: " + group);
                check(group.members().size() == 2, "it has two members: " + group);
                check(group.members().stream()
                        .mapToInt(member -> member.assignment().topicPartitions().size()).sum() == 4,
                        "they share four partitions: " + group);
                check(fails(GroupNotEmptyException.class,
                        admin.deleteConsumerGroups(List.of(GROUP)).all()), "it is in use");
                check(fails(GroupSubscribedToTopicException.class, admin.deleteConsumerGroupOffsets(
                        GROUP, Set.of(new TopicPartition(TOPIC, 0))).all()), "they are in use");
                two.close();
                share(List.of(one));
                old = consumer("classic");
                old.subscribe(List.of(TOPIC));
                share(List.of(one, old));
            }
            share(List.of(old));
            check(describe(admin).type() == GroupType.CLASSIC, "it is a classic group again");
            old.close();
            tend(admin);
        }
    }

    /** Alters, deletes and lists, when the group has no members any more. */
    private void tend(Admin admin) throws Exception {
        check(committed(admin).values().stream().mapToLong(at -> at.offset()).sum() == 500,
                "all is committed: " + committed(admin));
        TopicPartition first = new TopicPartition(TOPIC, 0);
        admin.alterConsumerGroupOffsets(GROUP, Map.of(first, new OffsetAndMetadata(3, "moved")))
                .all().get();
        check(committed(admin).get(first).equals(new OffsetAndMetadata(3, "moved")), "it moved");
        admin.deleteConsumerGroupOffsets(GROUP, Set.of(first)).all().get();
        check(committed(admin).size() == 3, "one is deleted: " + committed(admin));
        check(listed(admin).equals(Set.of(GROUP)), "it is listed");
        check(describe(admin).groupState() == GroupState.EMPTY, "it is empty");
        admin.deleteConsumerGroups(List.of(GROUP)).all().get();
        check(listed(admin).isEmpty(), "it is listed no more: " + listed(admin));
        check(committed(admin).isEmpty(), "and stands nowhere");
        check(fails(GroupIdNotFoundException.class, admin.describeConsumerGroups(List.of(GROUP)).all()),
                "there is no such group");
        check(fails(GroupIdNotFoundException.class, admin.deleteConsumerGroups(List.of(GROUP)).all()),
                "there is no such group");
    }

    private static ConsumerGroupDescription describe(Admin admin) throws Exception {
        return admin.describeConsumerGroups(List.of(GROUP)).all().get().get(GROUP);
    }

    private static Set<String> listed(Admin admin) throws Exception {
        Set<String> ids = new HashSet<>();
        admin.listGroups(ListGroupsOptions.forConsumerGroups()).all().get()
                .forEach(group -> ids.add(group.groupId()));
        return ids;
    }

    private static Map<TopicPartition, OffsetAndMetadata> committed(Admin admin) throws Exception {
        return admin.listConsumerGroupOffsets(GROUP).partitionsToOffsetAndMetadata().get();
    }

    private static boolean fails(Class<? extends Exception> with, KafkaFuture<?> outcome)
            throws Exception {
        try {
            outcome.get();
            return false;
        } catch (ExecutionException error) {
            if (with.isInstance(error.getCause())) {
                return true;
            }
            throw error;
        }
    }

    /** Polls until members share the four partitions, each at least one, with nothing to read. */
    private static void share(List<KafkaConsumer<String, String>> members) {
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (true) {
            int count = 0;
            boolean each = true;
            Set<TopicPartition> shared = new HashSet<>();
            for (KafkaConsumer<String, String> member : members) {
                count += member.assignment().size();
                each &= !member.assignment().isEmpty();
                shared.addAll(member.assignment());
            }
            if (each && count == 4 && shared.size() == 4) {
                return;
            }
            check(System.nanoTime() < deadline, "all members get their share");
            for (KafkaConsumer<String, String> member : members) {
                check(member.poll(Duration.ofMillis(50)).isEmpty(), "nothing is left to read");
            }
        }
    }

    private void produce(int begin, int end) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.idempotence", "true");
        settings.put("acks", "all");
        settings.put("linger.ms", "5");
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int number = begin; number < end; number++) {
                sent.add(producer.send(
                        new ProducerRecord<>(TOPIC, "key-" + number % 13, "" + number)));
            }
            producer.flush();
            Set<String> places = new HashSet<>();
            for (Future<RecordMetadata> one : sent) {
                RecordMetadata place = one.get();
                check(places.add(place.partition() + "@" + place.offset()), "an offset is given once");
            }
        }
    }

    private KafkaConsumer<String, String> consumer(String protocol) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", GROUP);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("group.protocol", protocol);
        if (protocol.equals("classic")) {
            settings.put("heartbeat.interval.ms", "200");
        }
        settings.put("isolation.level", "read_committed");
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static Set<Integer> consume(List<KafkaConsumer<String, String>> members, int count) {
        Set<Integer> numbers = new HashSet<>();
        int got = 0;
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (got < count) {
            check(System.nanoTime() < deadline, "all " + count + " records come, not " + got);
            for (KafkaConsumer<String, String> member : members) {
                for (ConsumerRecord<String, String> record : member.poll(Duration.ofMillis(50))) {
                    int number = Integer.parseInt(record.value());
                    check(record.key().equals("key-" + number % 13), "a record has its key");
                    check(record.leaderEpoch().equals(Optional.empty()) || record.leaderEpoch().get() > 0,
                            "a leader epoch is above 0");
                    numbers.add(number);
                    got++;
                }
            }
        }
        return numbers;
    }

    private static Set<Integer> range(int begin, int end) {
        Set<Integer> numbers = new HashSet<>();
        for (int number = begin; number < end; number++) {
            numbers.add(number);
        }
        return numbers;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("does not hold: " + what);
        }
    }
}
