import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a user of transactions does with the Java client: commit, abort, fence, look at them, end one
 * that hangs, and process a topic into another exactly once.
 *
 * <p>{@code java Transactions BOOTSTRAP}
 */
public final class Transactions {
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    private static String bootstrap;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic("in", 3, (short) 1),
                    new NewTopic("out", 3, (short) 1))).all().get();
            commitAndAbort();
            fence();
            hang(admin);
            process();
        }
    }

    private static void commitAndAbort() {
        try (KafkaProducer<String, String> producer = producer("writer")) {
            for (int begin = 0; begin < 450; begin += 50) {
                producer.beginTransaction();
                write(producer, "in", IntStream.range(begin, begin + 50));
                if (begin % 150 == 50) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
        check(read("in", "committed", "read_committed", 300).equals(expected()), "what is committed");
        check(read("in", "all", "read_uncommitted", 450).size() == 450, "what is not is there, too");
    }

    private static TreeSet<Integer> expected() {
        return IntStream.range(0, 450).filter(number -> number / 50 % 3 != 1).boxed()
                .collect(Collectors.toCollection(TreeSet::new));
    }

    private static void fence() {
        KafkaProducer<String, String> older = producer("writer");
        older.beginTransaction();
        write(older, "in", IntStream.of(-1));
        older.flush();
        try (KafkaProducer<String, String> newer = producer("writer")) {
            fails(older, producer -> producer.commitTransaction());
            newer.beginTransaction();
            newer.commitTransaction();
        }
        older.close(Duration.ZERO);
    }

    /** One that its client does not end is looked at, and ended. */
    private static void hang(Admin admin) throws Exception {
        KafkaProducer<String, String> producer = producer("hanging");
        producer.beginTransaction();
        producer.send(new ProducerRecord<>("in", 1, "key", "-2"));
        producer.flush();
        check(admin.listTransactions().all().get().stream().anyMatch(listed ->
                listed.transactionalId().equals("hanging")
                        && listed.state() == TransactionState.ONGOING), "it is listed");
        TransactionDescription described =
                admin.describeTransactions(List.of("hanging")).all().get().get("hanging");
        TopicPartition at = new TopicPartition("in", 1);
        check(described.topicPartitions().contains(at), "it is described: " + described);
        ProducerState state = admin.describeProducers(List.of(at)).partitionResult(at).get()
                .activeProducers().stream()
                .filter(active -> active.producerId() == described.producerId())
                .findAny().orElseThrow();
        check(state.currentTransactionStartOffset().isPresent(), "it is open there: " + state);
        admin.abortTransaction(new AbortTransactionSpec(at, state.producerId(),
                (short) state.producerEpoch(), state.coordinatorEpoch().orElse(0))).all().get();
        fails(producer, hanging -> hanging.commitTransaction());
        producer.close(Duration.ZERO);
        check(admin.describeTransactions(List.of("hanging")).all().get().get("hanging").state()
                == TransactionState.COMPLETE_ABORT, "it is aborted");
    }

    /** Doubles what is in {@code in}; now and then a transaction is aborted and done again. */
    private static void process() {
        try (KafkaConsumer<String, String> consumer = consumer("processor", "read_committed");
                KafkaProducer<String, String> producer = producer("processor")) {
            consumer.subscribe(List.of("in"));
            int done = 0;
            for (int turn = 0; done < 300; turn++) {
                List<ConsumerRecord<String, String>> batch = poll(consumer);
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
                for (ConsumerRecord<String, String> record : batch) {
                    write(producer, "out", IntStream.of(2 * Integer.parseInt(record.value())));
                    positions.put(new TopicPartition(record.topic(), record.partition()),
                            new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
                if (turn % 4 == 1) {
                    producer.abortTransaction();
                    Map<TopicPartition, OffsetAndMetadata> committed =
                            consumer.committed(consumer.assignment());
                    for (TopicPartition at : consumer.assignment()) {
                        OffsetAndMetadata offset = committed.get(at);
                        consumer.seek(at, offset == null ? 0 : offset.offset());
                    }
                } else {
                    producer.commitTransaction();
                    done += batch.size();
                }
            }
        }
        TreeSet<Integer> doubled = expected().stream().map(number -> 2 * number)
                .collect(Collectors.toCollection(TreeSet::new));
        check(read("out", "out", "read_committed", 300).equals(doubled), "each is there once");
    }

    private static KafkaProducer<String, String> producer(String id) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", id);
        KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }

    private static void write(KafkaProducer<String, String> producer, String topic, IntStream numbers) {
        numbers.forEach(number ->
                producer.send(new ProducerRecord<>(topic, "key-" + number % 13, "" + number)));
    }

    private static KafkaConsumer<String, String> consumer(String group, String isolation) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", group);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("heartbeat.interval.ms", "200");
        settings.put("max.poll.records", "25");
        settings.put("isolation.level", isolation);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static List<ConsumerRecord<String, String>> poll(KafkaConsumer<String, String> consumer) {
        List<ConsumerRecord<String, String>> batch = new ArrayList<>();
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (batch.isEmpty()) {
            check(System.nanoTime() < deadline, "records come");
            consumer.poll(Duration.ofMillis(50)).forEach(batch::add);
        }
        return batch;
    }

    /** The numbers of a topic; fails if there are more than that, or one is there twice. */
    private static TreeSet<Integer> read(String topic, String group, String isolation, int count) {
        TreeSet<Integer> numbers = new TreeSet<>();
        try (KafkaConsumer<String, String> consumer = consumer(group, isolation)) {
            consumer.subscribe(List.of(topic));
            while (numbers.size() < count) {
                for (ConsumerRecord<String, String> record : poll(consumer)) {
                    check(numbers.add(Integer.parseInt(record.value())), "once: " + record);
                }
            }
            check(consumer.poll(Duration.ofMillis(500)).isEmpty(), "there are no more");
        }
        return numbers;
    }

    private static void fails(KafkaProducer<String, String> producer,
            Consumer<KafkaProducer<String, String>> call) {
        boolean hasFailed = false;
        try {
            call.accept(producer);
        } catch (KafkaException error) {
            hasFailed = true;
        }
        check(hasFailed, "a fenced producer commits nothing");
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("does not hold: " + what);
        }
    }
}
