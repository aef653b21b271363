import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Kafka Streams counts words, exactly once.
 *
 * <p>{@code java WordCount BOOTSTRAP first|second}: {@code second} finds its state in the store's
 * compacted topic alone, and goes on counting.
 */
public final class WordCount {
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        boolean first = arguments[1].equals("first");
        if (first) {
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
                admin.createTopics(List.of(new NewTopic("lines", 2, (short) 1),
                        new NewTopic("counts", 1, (short) 1))).all().get();
            }
        }
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(
                Map.of("bootstrap.servers", bootstrap), new StringSerializer(), new StringSerializer())) {
            for (int line = 0; line < 50; line++) {
                producer.send(new ProducerRecord<>("lines", "" + line, "all is one and one is all"));
            }
        }
        try (KafkaStreams streams = streams(bootstrap)) {
            streams.start();
            int lines = first ? 50 : 100;
            Map<String, List<Long>> expected = new TreeMap<>();
            for (String word : List.of("all", "is", "one")) {
                expected.put(word, range(2 * lines));
            }
            expected.put("and", range(lines));
            Map<String, List<Long>> counted = counts(bootstrap, 7 * lines);
            if (!counted.equals(expected)) {
                throw new AssertionError("counted " + counted);
            }
            // The next one need not wait until this one is missed.
            streams.close(CloseOptions.timeout(PATIENCE)
                    .withGroupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
        }
        System.exit(0);
    }

    private static List<Long> range(int last) {
        List<Long> numbers = new ArrayList<>();
        for (long number = 1; number <= last; number++) {
            numbers.add(number);
        }
        return numbers;
    }

    private static KafkaStreams streams(String bootstrap) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream("lines")
                .flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((key, word) -> word)
                .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("words"))
                .toStream().to("counts", Produced.with(Serdes.String(), Serdes.Long()));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "word-count");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        // Each count is told, and nothing is left of the state but in the broker.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.STATE_DIR_CONFIG,
                Files.createTempDirectory("word-count").toString());
        settings.put("auto.offset.reset", "earliest");
        return new KafkaStreams(builder.build(), settings);
    }

    /** All counts that are committed, once there are so many. */
    private static Map<String, List<Long>> counts(String bootstrap, int count) {
        Map<String, List<Long>> counts = new TreeMap<>();
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "group.id", "reader",
                "isolation.level", "read_committed", "auto.offset.reset", "earliest",
                "enable.auto.commit", "false");
        try (KafkaConsumer<String, Long> reader =
                new KafkaConsumer<>(settings, new StringDeserializer(), new LongDeserializer())) {
            reader.subscribe(List.of("counts"));
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            for (int got = 0; got < count;) {
                if (System.nanoTime() > deadline) {
                    throw new AssertionError("after a minute there is " + counts);
                }
                for (var record : reader.poll(Duration.ofMillis(100))) {
                    counts.computeIfAbsent(record.key(), word -> new ArrayList<>()).add(record.value());
                    got++;
                }
            }
        }
        return counts;
    }
}
