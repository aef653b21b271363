import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a user of the Java client does: produce, form a group, rebalance, commit, resume.
 *
 * <p>{@code java Conformance BOOTSTRAP first|second}: {@code first} leaves 1,000 records read and
 * committed and 500 unread; {@code second}, after the broker was restarted, reads exactly those.
 */
public final class Conformance {
    private static final String TOPIC = "java";
    private static final String GROUP = "java-group";
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final String bootstrap;

    private Conformance(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] arguments) throws Exception {
        Conformance conformance = new Conformance(arguments[0]);
        if (arguments[1].equals("first")) {
            conformance.first();
        } else {
            conformance.second();
        }
    }

    private void first() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(TOPIC, 4, (short) 1))).all().get();
            check(admin.describeTopics(List.of(TOPIC)).allTopicNames().get().get(TOPIC)
                    .partitions().size() == 4, "the topic has four partitions");
            check(admin.describeCluster().nodes().get().size() == 1, "the cluster has one node");
            produce(0, 250, "none");
            produce(250, 500, "zstd");
            try (KafkaConsumer<String, String> one = consumer();
                    KafkaConsumer<String, String> two = consumer()) {
                one.subscribe(List.of(TOPIC));
                check(consume(List.of(one), 500).equals(range(0, 500)), "the first 500 came");
                one.commitSync();
                two.subscribe(List.of(TOPIC));
                long deadline = System.nanoTime() + PATIENCE.toNanos();
                while (one.assignment().size() != 2 || two.assignment().size() != 2) {
                    check(System.nanoTime() < deadline, "the second member gets its share");
                    check(one.poll(Duration.ofMillis(50)).isEmpty(), "nothing is left to read");
                    check(two.poll(Duration.ofMillis(50)).isEmpty(), "nothing is left to read");
                }
                Set<TopicPartition> shared = new HashSet<>(one.assignment());
                shared.addAll(two.assignment());
                check(shared.size() == 4, "nothing is shared twice");
                produce(500, 1000, "lz4");
                check(consume(List.of(one, two), 500).equals(range(500, 1000)), "the next 500 came");
                one.commitSync();
                two.commitSync();
                check(admin.describeConsumerGroups(List.of(GROUP)).all().get().get(GROUP)
                        .members().size() == 2, "the group has two members");
            }
            check(admin.listConsumerGroups().all().get().stream()
                    .anyMatch(group -> group.groupId().equals(GROUP)), "the group is listed");
            produce(1000, 1500, "snappy");
            long end = 0;
            for (int partition = 0; partition < 4; partition++) {
                TopicPartition at = new TopicPartition(TOPIC, partition);
                end += admin.listOffsets(Map.of(at, OffsetSpec.latest())).all().get().get(at).offset();
                check(admin.listOffsets(Map.of(at, OffsetSpec.maxTimestamp())).all().get().get(at)
                        .offset() >= 0, "the latest timestamp is found");
            }
            check(end == 1500, "the ends add up");
        }
    }

    private void second() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            long committed = admin.listConsumerGroupOffsets(GROUP).partitionsToOffsetAndMetadata()
                    .get().values().stream().mapToLong(offset -> offset.offset()).sum();
            check(committed == 1000, "what was committed is still there: " + committed);
        }
        try (KafkaConsumer<String, String> member = consumer()) {
            member.subscribe(List.of(TOPIC));
            check(consume(List.of(member), 500).equals(range(1000, 1500)), "the last 500 came");
            member.commitSync();
        }
    }

    private void produce(int begin, int end, String codec) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.idempotence", "true");
        settings.put("acks", "all");
        settings.put("compression.type", codec);
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

    private KafkaConsumer<String, String> consumer() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", GROUP);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("heartbeat.interval.ms", "200");
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
