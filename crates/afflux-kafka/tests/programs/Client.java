import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * The Java client, of 3.9 and of 4. {@code clients/program.rs} says what is said on the lines.
 *
 * <p>It is compiled against 3.9, and so uses nothing that came later or went.
 */
public final class Client {
    private static final Duration MOMENT = Duration.ofMillis(50);

    private final Map<String, KafkaProducer<String, String>> producers = new HashMap<>();
    private final Map<String, KafkaConsumer<String, String>> members = new HashMap<>();
    private String bootstrap;
    private Admin admin;

    public static void main(String[] arguments) throws Exception {
        Client client = new Client();
        BufferedReader commands =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] fields = line.split("\t");
            try {
                List<?> answer = client.call(fields[0], Arrays.copyOfRange(fields, 1, fields.length));
                System.out.println(answer.stream().map(field -> "\t" + field)
                        .collect(Collectors.joining("", "ok", "")));
            } catch (Exception error) {
                error.printStackTrace();
                System.out.println("error\t" + code(error) + "\t"
                        + error.toString().replaceAll("\\s+", " "));
            }
        }
        System.exit(0);
    }

    private static String code(Throwable error) {
        if (error instanceof ApiException) {
            return "" + Errors.forException(error).code();
        }
        return error.getCause() == null ? "~" : code(error.getCause());
    }

    private List<?> call(String verb, String[] a) throws Exception {
        switch (verb) {
            case "connect": return connect(a[0]);
            case "producer": return producer(a[0], a[1], a[2]);
            case "send": return send(a);
            case "begin": return done(() -> producers.get(a[0]).beginTransaction());
            case "offset_in_transaction": return offsetInTransaction(a[0], a[1], a[2], a[3]);
            case "end": return done(a[1].equals("commit")
                    ? producers.get(a[0])::commitTransaction : producers.get(a[0])::abortTransaction);
            case "read": return read(a[0], a[1], Integer.parseInt(a[2]), a[3]);
            case "join": return join(a[0], a[1], a[2], a[3]);
            case "poll": return poll(a[0]);
            case "commit": return commit(a);
            case "committed": return committed(a[0], a[1], Integer.parseInt(a[2]));
            case "leave": return done(members.remove(a[0])::close);
            default: return administer(verb, a);
        }
    }

    private List<?> administer(String verb, String[] a) throws Exception {
        TopicPartition first = new TopicPartition(a.length > 0 ? a[0] : "", 0);
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, first.topic());
        switch (verb) {
            case "create":
                return done(admin.createTopics(List.of(new NewTopic(a[0], Integer.parseInt(a[1]),
                        (short) 1).configs(Map.of(a[2], a[3])))).all());
            case "grow":
                return done(admin.createPartitions(
                        Map.of(a[0], NewPartitions.increaseTo(Integer.parseInt(a[1])))).all());
            case "delete":
                return done(admin.deleteTopics(List.of(a[0])).all());
            case "partitions":
                return List.of(admin.listTopics().names().get().contains(a[0])
                        ? admin.describeTopics(List.of(a[0])).allTopicNames().get().get(a[0])
                                .partitions().size() : 0);
            case "missing":
                return done(admin.describeTopics(List.of(a[0])).allTopicNames());
            case "describe":
                return List.of(admin.describeConfigs(List.of(topic)).all().get().get(topic)
                        .get(a[1]).value());
            case "alter":
                return done(admin.incrementalAlterConfigs(Map.of(topic, List.of(new AlterConfigOp(
                        new ConfigEntry(a[1], a[2]), AlterConfigOp.OpType.SET)))).all());
            case "delete_records":
                return List.of(admin.deleteRecords(Map.of(first,
                        RecordsToDelete.beforeOffset(Long.parseLong(a[1])))).lowWatermarks()
                        .get(first).get().lowWatermark());
            case "groups":
                return admin.listConsumerGroups().all().get().stream()
                        .map(group -> group.groupId()).collect(Collectors.toList());
            case "state":
                return List.of(admin.describeConsumerGroups(List.of(a[0])).all().get().get(a[0])
                        .state());
            case "delete_group":
                return done(admin.deleteConsumerGroups(List.of(a[0])).all());
            case "offset":
                OffsetSpec spec = a[1].equals("earliest") ? OffsetSpec.earliest()
                        : a[1].equals("latest") ? OffsetSpec.latest()
                        : OffsetSpec.forTimestamp(Long.parseLong(a[1]));
                return List.of(admin.listOffsets(Map.of(first, spec)).all().get().get(first).offset());
            default:
                throw new IllegalArgumentException(verb);
        }
    }

    private static List<?> done(Runnable action) {
        action.run();
        return List.of();
    }

    private static List<?> done(Future<?> outcome) throws Exception {
        outcome.get();
        return List.of();
    }

    private List<?> connect(String address) {
        if (admin != null) {
            admin.close();
            producers.values().forEach(producer -> producer.close(Duration.ZERO));
            producers.clear();
        }
        bootstrap = address;
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
        return List.of();
    }

    private List<?> producer(String name, String codec, String id) {
        Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", bootstrap,
                "compression.type", codec, "enable.idempotence", "true", "linger.ms", "20"));
        if (!id.equals("~")) {
            settings.put("transactional.id", id);
        }
        producers.put(name,
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer()));
        return id.equals("~") ? List.of() : done(producers.get(name)::initTransactions);
    }

    private List<?> send(String[] a) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (String line : List.of(a).subList(2, a.length)) {
            String[] parts = line.split("\\|", -1);
            ProducerRecord<String, String> record = new ProducerRecord<>(a[1],
                    Integer.valueOf(parts[0]), parts[3].equals("~") ? null : Long.valueOf(parts[3]),
                    parts[1].equals("~") ? null : parts[1], parts[2].equals("~") ? null : parts[2]);
            for (String pair : parts[4].isEmpty() ? new String[0] : parts[4].split(",")) {
                String[] header = pair.split("=", -1);
                record.headers().add(header[0], header[1].equals("~") ? null
                        : header[1].getBytes(StandardCharsets.UTF_8));
            }
            sent.add(producers.get(a[0]).send(record));
        }
        producers.get(a[0]).flush();
        List<Long> offsets = new ArrayList<>();
        for (Future<RecordMetadata> one : sent) {
            offsets.add(one.get().offset());
        }
        return offsets;
    }

    private List<?> offsetInTransaction(String name, String member, String topic, String offset) {
        return done(() -> producers.get(name).sendOffsetsToTransaction(
                Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(Long.parseLong(offset))),
                members.get(member).groupMetadata()));
    }

    private KafkaConsumer<String, String> consumer(Map<String, String> more) {
        Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", bootstrap,
                "enable.auto.commit", "false", "auto.offset.reset", "earliest",
                // What is closed waits for its last fetch.
                "fetch.max.wait.ms", "100"));
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static List<String> records(KafkaConsumer<String, String> from) {
        List<String> records = new ArrayList<>();
        for (ConsumerRecord<String, String> got : from.poll(MOMENT)) {
            List<String> headers = new ArrayList<>();
            got.headers().forEach(header -> headers.add(
                    header.key() + "=" + (header.value() == null ? "~"
                            : new String(header.value(), StandardCharsets.UTF_8))));
            records.add(String.join("|", "" + got.partition(), got.key() == null ? "~" : got.key(),
                    got.value() == null ? "~" : got.value(), "" + got.timestamp(),
                    String.join(",", headers)));
        }
        return records;
    }

    private List<?> read(String topic, String offset, int count, String isolation) {
        List<String> records = new ArrayList<>();
        TopicPartition first = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> reader = consumer(Map.of("isolation.level", isolation))) {
            reader.assign(List.of(first));
            reader.seek(first, Long.parseLong(offset));
            while (records.size() < count) {
                records.addAll(records(reader));
            }
        }
        return records;
    }

    private List<?> join(String name, String group, String topic, String protocol) {
        Map<String, String> settings = new HashMap<>(Map.of("group.id", group));
        settings.put("group.protocol", protocol);
        if (protocol.equals("classic")) {
            settings.put("heartbeat.interval.ms", "200");
        }
        members.put(name, consumer(settings));
        return done(() -> members.get(name).subscribe(List.of(topic)));
    }

    private List<?> poll(String name) {
        List<Object> answer = new ArrayList<>(records(members.get(name)));
        answer.add(0, members.get(name).assignment().size());
        return answer;
    }

    private List<?> commit(String[] a) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (String place : List.of(a).subList(2, a.length)) {
            String[] parts = place.split("=");
            offsets.put(new TopicPartition(a[1], Integer.parseInt(parts[0])),
                    new OffsetAndMetadata(Long.parseLong(parts[1])));
        }
        return done(() -> members.get(a[0]).commitSync(offsets));
    }

    private List<?> committed(String name, String topic, int partitions) {
        List<TopicPartition> places = IntStream.range(0, partitions)
                .mapToObj(partition -> new TopicPartition(topic, partition))
                .collect(Collectors.toList());
        Map<TopicPartition, OffsetAndMetadata> found =
                members.get(name).committed(Set.copyOf(places));
        return places.stream().map(place -> found.get(place) == null ? -1 : found.get(place).offset())
                .collect(Collectors.toList());
    }
}
