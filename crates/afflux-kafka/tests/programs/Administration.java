import java.time.Duration;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicaAssignmentException;
import org.apache.kafka.common.errors.NoReassignmentInProgressException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What an administrator does with the Java client: settings, partitions, deleted records, replicas.
 *
 * <p>{@code java Administration BOOTSTRAP first|second}: {@code second}, after the broker was
 * restarted, finds what {@code first} has left, and goes on reading where its epoch ended.
 */
public final class Administration {
    private static final String TOPIC = "java-admin";
    private static final TopicPartition LAST = new TopicPartition(TOPIC, 2);
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final String bootstrap;
    private final Admin admin;

    private Administration(String bootstrap, Admin admin) {
        this.bootstrap = bootstrap;
        this.admin = admin;
    }

    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            Administration administration = new Administration(arguments[0], admin);
            if (arguments[1].equals("first")) {
                administration.settings();
                administration.partitions();
                administration.records();
                administration.replicas();
            } else {
                administration.second();
            }
        }
    }

    private void settings() throws Exception {
        admin.createTopics(List.of(new NewTopic(TOPIC, 1, (short) 1)
                .configs(Map.of("retention.ms", "3600000")))).all().get();
        check(setting("retention.ms").value().equals("3600000"), "a topic has what it was made with");
        check(setting("retention.ms").source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG,
                "and says where that is from");
        alter("max.message.bytes", "2000", AlterConfigOp.OpType.SET).get();
        alter("retention.ms", "", AlterConfigOp.OpType.DELETE).get();
        check(setting("max.message.bytes").value().equals("2000"), "a setting is changed");
        check(setting("retention.ms").isDefault(), "a setting goes back");
        refused(alter("cleanup.policy", "keep", AlterConfigOp.OpType.SET),
                InvalidConfigurationException.class);
        Collection<ConfigResource> resources = admin.listConfigResources().all().get();
        check(resources.contains(new ConfigResource(ConfigResource.Type.TOPIC, TOPIC)),
                "the topic is listed: " + resources);
    }

    private void partitions() throws Exception {
        admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(3))).all().get();
        check(described(TOPIC).partitions().size() == 3, "there are three partitions");
        refused(admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(2))).all(),
                InvalidPartitionsException.class);
        refused(admin.describeTopics(List.of("nobody")).allTopicNames(),
                UnknownTopicOrPartitionException.class);
    }

    private void records() throws Exception {
        produce(0, 10);
        long low = admin.deleteRecords(Map.of(LAST, RecordsToDelete.beforeOffset(4))).lowWatermarks()
                .get(LAST).get().lowWatermark();
        check(low == 4, "the partition begins at 4: " + low);
        refused(admin.deleteRecords(Map.of(LAST, RecordsToDelete.beforeOffset(11))).all(),
                OffsetOutOfRangeException.class);
        check(earliest() == 4, "and says so");
        try (KafkaConsumer<String, String> reader = consumer()) {
            check(consume(reader, 6).equals(Set.of("4", "5", "6", "7", "8", "9")), "the rest is read");
            reader.commitSync();
        }
        Map<String, LogDirDescription> dirs =
                admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1);
        check(dirs.size() == 1, "there is one journal");
        check(dirs.values().iterator().next().replicaInfos().get(LAST).size() > 0, "with a size");
    }

    private void replicas() throws Exception {
        Node node = described(TOPIC).partitions().get(0).leader();
        refused(admin.electLeaders(ElectionType.PREFERRED, Set.of(LAST)).partitions().get().get(LAST),
                ElectionNotNeededException.class);
        check(admin.electLeaders(ElectionType.PREFERRED, null).partitions().get().isEmpty(),
                "no leader is to be elected");
        admin.alterPartitionReassignments(Map.of(LAST,
                Optional.of(new NewPartitionReassignment(List.of(node.id()))))).all().get();
        refused(admin.alterPartitionReassignments(Map.of(LAST,
                Optional.of(new NewPartitionReassignment(List.of(node.id() + 1))))).all(),
                InvalidReplicaAssignmentException.class);
        refused(admin.alterPartitionReassignments(Map.of(LAST, Optional.empty())).all(),
                NoReassignmentInProgressException.class);
        check(admin.listPartitionReassignments().reassignments().get().isEmpty(), "nothing moves");
        Set<String> all = admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get();
        check(all.contains("__consumer_offsets"), "the topic of offsets is listed: " + all);
        check(!admin.listTopics().names().get().contains("__consumer_offsets"), "as internal");
        check(described("__consumer_offsets").isInternal(), "and described so");
    }

    private void second() throws Exception {
        check(setting("max.message.bytes").value().equals("2000"), "settings survive");
        check(described(TOPIC).partitions().size() == 3, "partitions survive");
        check(earliest() == 4, "what was deleted stays so");
        produce(10, 15);
        // It knows of which epoch its position is, and asks where that ended.
        try (KafkaConsumer<String, String> reader = consumer()) {
            check(consume(reader, 5).equals(Set.of("10", "11", "12", "13", "14")), "nothing is missed");
        }
    }

    private ConfigEntry setting(String name) throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        Config config = admin.describeConfigs(List.of(topic)).all().get().get(topic);
        return config.get(name);
    }

    private KafkaFuture<Void> alter(String name, String value, AlterConfigOp.OpType operation) {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        AlterConfigOp change = new AlterConfigOp(new ConfigEntry(name, value), operation);
        return admin.incrementalAlterConfigs(Map.of(topic, List.of(change))).all();
    }

    private TopicDescription described(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private long earliest() throws Exception {
        return admin.listOffsets(Map.of(LAST, OffsetSpec.earliest())).all().get().get(LAST).offset();
    }

    private void produce(int begin, int end) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int number = begin; number < end; number++) {
                producer.send(new ProducerRecord<>(TOPIC, 2, "key", "" + number)).get();
            }
        }
    }

    private KafkaConsumer<String, String> consumer() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", "java-admin-group");
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        KafkaConsumer<String, String> reader =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        reader.assign(List.of(LAST));
        return reader;
    }

    private static Set<String> consume(KafkaConsumer<String, String> reader, int count) {
        Set<String> values = new HashSet<>();
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (values.size() < count) {
            check(System.nanoTime() < deadline, "all " + count + " records come: " + values);
            for (ConsumerRecord<String, String> record : reader.poll(Duration.ofMillis(50))) {
                values.add(record.value());
            }
        }
        return values;
    }

    private static void refused(Object outcome, Class<? extends Exception> expected) throws Exception {
        Throwable error = null;
        if (outcome instanceof Optional<?> found) {
            error = (Throwable) found.orElse(null);
        } else {
            try {
                ((KafkaFuture<?>) outcome).get();
            } catch (ExecutionException failed) {
                error = failed.getCause();
            }
        }
        check(expected.isInstance(error), expected.getSimpleName() + " comes, not " + error);
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("does not hold: " + what);
        }
    }
}
