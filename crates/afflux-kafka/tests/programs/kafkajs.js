// KafkaJS: its own protocol, in Node. `../clients/program.rs` says what is said on the lines.

const readline = require("node:readline");
const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require("kafkajs");

const lz4 = require("lz4js");
const { ZstdCodec } = require("zstd-codec");

// What it leaves to others.
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async ({ buffer }) => Buffer.from(lz4.compress(buffer)),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
const zstd = new Promise((done) => ZstdCodec.run((codec) => done(new codec.Simple())));
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async ({ buffer }) => Buffer.from((await zstd).compress(buffer)),
  decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer)),
});

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

let kafka, admin;
let members = {};
let producers = {};

// How long a poll waits for records, in milliseconds.
const MOMENT = 50;
const text = (bytes) => (bytes === null ? "~" : bytes.toString());
const given = (text) => (text === "~" ? null : text);

function parse(line) {
  const [partition, key, value, timestamp, headers] = line.split("|");
  const record = { partition: Number(partition), headers: {} };
  record.key = given(key);
  record.value = given(value);
  if (timestamp !== "~") record.timestamp = timestamp;
  for (const pair of headers.split(",").filter(Boolean)) {
    const [name, of] = pair.split("=");
    record.headers[name] = [...(record.headers[name] ?? []), given(of)];
  }
  return record;
}

function show({ partition, message }) {
  const headers = Object.entries(message.headers ?? {}).flatMap(([name, values]) =>
    [values].flat().map((value) => `${name}=${text(value)}`),
  );
  const { key, value, timestamp } = message;
  return [partition, text(key), text(value), timestamp, headers.join(",")].join("|");
}

async function consume(groupId, topic, settings) {
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 200, maxWaitTimeInMs: 100, ...settings });
  const member = { consumer, groupId, topic, records: [], partitions: 0, came: () => {} };
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    member.partitions = (payload.memberAssignment[topic] ?? []).length;
  });
  consumer.on(consumer.events.REBALANCING, () => (member.partitions = 0));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async (record) => {
      member.records.push(record);
      member.came();
    },
  });
  return member;
}

// Waits for the next record, or until a time in milliseconds is over, if there is one.
async function next(member, time) {
  let timer;
  await new Promise((done) => {
    member.came = done;
    if (time) timer = setTimeout(done, time);
  });
  clearTimeout(timer);
}

const COMMANDS = {
  async connect(bootstrap) {
    await admin?.disconnect();
    for (const producer of Object.values(producers)) await producer.disconnect();
    [members, producers] = [{}, {}];
    kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING });
    admin = kafka.admin();
    await admin.connect();
  },

  // Producers

  async producer(name, codec, transactionalId) {
    const ids = transactionalId === "~" ? {} : { transactionalId };
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, ...ids });
    await producer.connect();
    producers[name] = producer;
    producer.codec = CODECS[codec];
  },
  async send(name, topic, ...lines) {
    const by = producers[name];
    const messages = lines.map(parse);
    const sent = await (by.open ?? by).send({ topic, messages, compression: by.codec });
    // It tells each partition's first offset alone.
    const next = Object.fromEntries(sent.map((at) => [at.partition, Number(at.baseOffset)]));
    return messages.map((record) => next[record.partition]++);
  },
  async begin(name) {
    producers[name].open = await producers[name].transaction();
  },
  async offset_in_transaction(name, member, topic, offset) {
    const topics = [{ topic, partitions: [{ partition: 0, offset }] }];
    const consumerGroupId = members[member].groupId;
    await producers[name].open.sendOffsets({ consumerGroupId, topics });
  },
  async end(name, how) {
    await producers[name].open[how]();
    producers[name].open = undefined;
  },

  // Consumers

  async read(topic, offset, count, isolation) {
    const readUncommitted = isolation === "read_uncommitted";
    const member = await consume(`reader-${topic}`, topic, { readUncommitted });
    member.consumer.seek({ topic, partition: 0, offset });
    while (member.records.length < Number(count)) await next(member);
    await member.consumer.disconnect();
    return member.records.map(show);
  },
  async join(name, group, topic) {
    members[name] = await consume(group, topic);
  },
  async poll(name) {
    const member = members[name];
    if (member.records.length === 0) await next(member, MOMENT);
    return [member.partitions, ...member.records.splice(0).map(show)];
  },
  async commit(name, topic, ...offsets) {
    const places = offsets.map((place) => place.split("="));
    await members[name].consumer.commitOffsets(
      places.map(([partition, offset]) => ({ topic, partition: Number(partition), offset })),
    );
  },
  async committed(name, topic) {
    const [found] = await admin.fetchOffsets({ groupId: members[name].groupId, topics: [topic] });
    const places = found.partitions.sort((a, b) => a.partition - b.partition);
    return places.map((place) => place.offset);
  },
  async leave(name) {
    await members[name].consumer.disconnect();
    delete members[name];
  },

  // Administration

  async create(topic, partitions, setting, value) {
    const configEntries = [{ name: setting, value }];
    const topics = [{ topic, numPartitions: Number(partitions), replicationFactor: 1, configEntries }];
    // It takes a topic that is there for no error, and says so.
    if (!(await admin.createTopics({ topics }))) throw Object.assign(new Error(topic), { code: 36 });
  },
  async grow(topic, partitions) {
    await admin.createPartitions({ topicPartitions: [{ topic, count: Number(partitions) }] });
  },
  async delete(topic) {
    await admin.deleteTopics({ topics: [topic] });
  },
  async partitions(topic) {
    if (!(await admin.listTopics()).includes(topic)) return [0];
    return [(await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length];
  },
  async missing(topic) {
    await admin.fetchTopicMetadata({ topics: [topic] });
  },
  async describe(topic, setting) {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: [setting] }];
    const found = await admin.describeConfigs({ resources, includeSynonyms: false });
    return [found.resources[0].configEntries[0].configValue];
  },
  async alter(topic, setting, value) {
    const configEntries = [{ name: setting, value }];
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }];
    await admin.alterConfigs({ resources });
  },
  async delete_records(topic, offset) {
    // It deletes in topics alone whose leader it has asked for before.
    await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset }] });
    return [(await admin.fetchTopicOffsets(topic))[0].low];
  },
  async groups() {
    return (await admin.listGroups()).groups.map((group) => group.groupId);
  },
  async state(group) {
    return [(await admin.describeGroups([group])).groups[0].state];
  },
  async delete_group(group) {
    await admin.deleteGroups([group]);
  },
  async offset(topic, time) {
    const [ends] = await admin.fetchTopicOffsets(topic);
    if (time === "earliest") return [ends.low];
    if (time === "latest") return [ends.high];
    return [(await admin.fetchTopicOffsetsByTimestamp(topic, Number(time)))[0].offset];
  },
};

/** The code of an error, which may be the cause of another, or one of several. */
function code(error) {
  const cause = (error.groups ?? error.partitions)?.[0]?.error ?? error.cause ?? error;
  return cause.code ?? (cause === error ? "~" : code(cause));
}

async function serve() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [verb, ...rest] = line.split("\t");
    try {
      const fields = (await COMMANDS[verb](...rest)) ?? [];
      console.log(["ok", ...fields].join("\t"));
    } catch (error) {
      console.error(error);
      console.log(["error", code(error), String(error).replace(/\s+/g, " ")].join("\t"));
    }
  }
  process.exit();
}

serve();
