import java.nio.file.Files;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Compacted topics with the Java client and Streams: records with gaps between them, tombstones,
 * what was aborted, and tables that are read from what is left.
 *
 * <p>Argument: the node's address.
 */
public final class Compaction {
    private static final Duration PATIENCE = Duration.ofMinutes(1);
    private static final Duration MOMENT = Duration.ofMillis(100);

    private final String bootstrap;
    private final Admin admin;

    private Compaction(String bootstrap) {
        this.bootstrap = bootstrap;
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    public static void main(String[] arguments) throws Exception {
        Compaction here = new Compaction(arguments[0]);
        here.latest();
        here.latestForAWhile();
        here.admin.close();
    }

    /** The newest record of each key stays, where it was; a tombstone until the pass after next. */
    private void latest() throws Exception {
        TopicPartition at = create("java-compacted",
                Map.of("cleanup.policy", "compact", "delete.retention.ms", "0"));
        write(at.topic());
        Map<Long, String> expected = new TreeMap<>();
        for (long key = 0; key < 5; key++) {
            expected.put(20 + key, "key " + key + "=turn 2");
        }
        expected.putAll(Map.of(27L, "key 7=turn 2", 36L, "key 5=committed",
                37L, "key 6=committed", 40L, "key 8="));
        Map<String, String> table = new TreeMap<>();
        for (String record : expected.values()) {
            String[] parts = record.split("=", 2);
            table.put(parts[0], parts[1]);
        }
        expected.put(39L, "key 9=null");
        until(at, expected);
        // Positions between records, where one of a key or one that was aborted was.
        check(27L, first(at, 25));
        check(36L, first(at, 30));
        check(table, table(at.topic()));
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            producer.send(new ProducerRecord<>(at.topic(), "key 8", "last"));
        }
        expected.keySet().removeAll(List.of(39L, 40L));
        expected.put(41L, "key 8=last");
        until(at, expected);
        table.put("key 8", "last");
        check(table, table(at.topic()));
    }

    private void write(String topic) {
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            for (int turn = 0; turn < 3; turn++) {
                for (int key = 0; key < 10; key++) {
                    producer.send(new ProducerRecord<>(topic, "key " + key, "turn " + turn));
                }
            }
        }
        try (KafkaProducer<String, String> producer =
                producer(Map.of("transactional.id", "java-compacted"))) {
            producer.initTransactions();
            producer.beginTransaction();
            for (int key = 0; key < 5; key++) {
                producer.send(new ProducerRecord<>(topic, "key " + key, "aborted"));
            }
            producer.flush();
            producer.abortTransaction();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, "key 5", "committed"));
            producer.send(new ProducerRecord<>(topic, "key 6", "committed"));
            producer.commitTransaction();
        }
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            producer.send(new ProducerRecord<>(topic, "key 9", null));
            producer.send(new ProducerRecord<>(topic, "key 8", ""));
        }
    }

    /** So it does, until it is too old. */
    private void latestForAWhile() throws Exception {
        TopicPartition at = create("java-compacted-for-a-while",
                Map.of("cleanup.policy", "compact,delete", "retention.ms", "3600000"));
        long old = System.currentTimeMillis() - 2 * 3_600_000;
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            producer.send(new ProducerRecord<>(at.topic(), 0, old, "old", "0")).get();
            for (int turn = 1; turn < 4; turn++) {
                producer.send(new ProducerRecord<>(at.topic(), "new", "" + turn)).get();
            }
        }
        until(at, Map.of(3L, "new=3"));
    }

    private TopicPartition create(String topic, Map<String, String> settings) throws Exception {
        Map<String, String> all = new HashMap<>(settings);
        all.put("segment.ms", "1");
        admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1).configs(all))).all().get();
        return new TopicPartition(topic, 0);
    }

    private void alter(String topic, String name, String value) throws Exception {
        admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic),
                List.of(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET))))
                .all().get();
    }

    private KafkaProducer<String, String> producer(Map<String, String> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private KafkaConsumer<String, String> consumer(String isolation) {
        return new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap, "isolation.level",
                isolation, "fetch.max.wait.ms", "100", "auto.offset.reset", "none"),
                new StringDeserializer(), new StringDeserializer());
    }

    /** All records by their offsets, read to the end. */
    private Map<Long, String> read(TopicPartition at, String isolation) {
        Map<Long, String> found = new TreeMap<>();
        long begin = 0;
        try (KafkaConsumer<String, String> consumer = consumer(isolation)) {
            consumer.assign(List.of(at));
            begin = consumer.beginningOffsets(List.of(at)).get(at);
            consumer.seek(at, begin);
            long end = consumer.endOffsets(List.of(at)).get(at);
            while (consumer.position(at) < end) {
                for (ConsumerRecord<String, String> record : consumer.poll(MOMENT)) {
                    found.put(record.offset(), record.key() + "=" + record.value());
                }
            }
        } catch (OffsetOutOfRangeException gone) {
            // Retention may take what it was to begin with, once it knew where that was.
            try (KafkaConsumer<String, String> consumer = consumer(isolation)) {
                if (consumer.beginningOffsets(List.of(at)).get(at) == begin) {
                    throw gone;
                }
            }
            return read(at, isolation);
        }
        return found;
    }

    /** Waits until compaction and retention have left what they must, for all readers. */
    private void until(TopicPartition at, Map<Long, String> expected) throws Exception {
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        double share = 0.5;
        while (!expected.equals(read(at, "read_committed"))) {
            if (System.nanoTime() > deadline) {
                check(expected, read(at, "read_committed"));
            }
            // A change of settings lets the log look at once.
            share /= 2;
            alter(at.topic(), "min.cleanable.dirty.ratio", "" + share);
        }
        check(expected, read(at, "read_uncommitted"));
    }

    private long first(TopicPartition at, long from) {
        try (KafkaConsumer<String, String> consumer = consumer("read_committed")) {
            consumer.assign(List.of(at));
            consumer.seek(at, from);
            while (true) {
                for (ConsumerRecord<String, String> record : consumer.poll(MOMENT)) {
                    return record.offset();
                }
            }
        }
    }

    /** What a table of Streams over the topic becomes, from nothing. */
    private Map<String, String> table(String topic) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.globalTable(topic, Consumed.with(Serdes.String(), Serdes.String()),
                Materialized.as(Stores.inMemoryKeyValueStore("table")));
        StreamsConfig settings = new StreamsConfig(Map.of("application.id", "java-compacted",
                "bootstrap.servers", bootstrap,
                "state.dir", Files.createTempDirectory("compaction").toString()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Map<String, String> found = new TreeMap<>();
        try {
            // It has read the topic once it is started.
            streams.start();
            var store = streams.store(StoreQueryParameters.fromNameAndType("table",
                    QueryableStoreTypes.<String, String>keyValueStore()));
            try (var all = store.all()) {
                all.forEachRemaining(entry -> found.put(entry.key, entry.value));
            }
        } finally {
            streams.close();
            streams.cleanUp();
        }
        return found;
    }

    private static void check(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }
}
