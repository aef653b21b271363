import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.function.Consumer;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A transaction that its client does not end is looked at, and ended by the admin client.
 *
 * <p>{@code java HangingTransaction BOOTSTRAP}
 */
public final class HangingTransaction {
    private static String bootstrap;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic("in", 3, (short) 1))).all().get();
            hang(admin);
        }
    }

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

    private static KafkaProducer<String, String> producer(String id) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", id);
        KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
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
