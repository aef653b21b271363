// sarama: its own protocol, in Go.
package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"afflux.test/clients/lines"
	"github.com/IBM/sarama"
)

// A member, whose records and partitions are kept by what runs beside the commands.
type member struct {
	sync.Mutex
	sarama.ConsumerGroup
	group      string
	session    sarama.ConsumerGroupSession
	partitions int
	records    []string
	came       chan struct{}
	stop       context.CancelFunc
	stopped    chan error
}

var (
	bootstrap []string
	base      sarama.Client
	admin     sarama.ClusterAdmin
	members   = map[string]*member{}
	producers = map[string]sarama.SyncProducer{}
	codecs    = map[string]sarama.CompressionCodec{
		"none":   sarama.CompressionNone,
		"gzip":   sarama.CompressionGZIP,
		"snappy": sarama.CompressionSnappy,
		"lz4":    sarama.CompressionLZ4,
		"zstd":   sarama.CompressionZSTD,
	}
)

func config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Heartbeat.Interval = 4 * lines.Moment
	config.Consumer.MaxWaitTime = lines.Moment
	config.Metadata.AllowAutoTopicCreation = false
	return config
}

func connect(a []string) (_ []string, err error) {
	bootstrap = a
	if base, err = sarama.NewClient(a, config()); err == nil {
		admin, err = sarama.NewClusterAdminFromClient(base)
	}
	return nil, err
}

// Producers

func producer(a []string) (_ []string, err error) {
	config := config()
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Compression = codecs[a[1]]
	config.Producer.Flush.Frequency = lines.Moment / 2
	if a[2] != "~" {
		config.Producer.Transaction.ID = a[2]
	}
	producers[a[0]], err = sarama.NewSyncProducer(bootstrap, config)
	return nil, err
}

func encoder(bytes []byte) sarama.Encoder {
	if bytes == nil {
		return nil
	}
	return sarama.ByteEncoder(bytes)
}

func send(a []string) ([]string, error) {
	var messages []*sarama.ProducerMessage
	for _, line := range a[2:] {
		record := lines.Parse(line)
		message := &sarama.ProducerMessage{Topic: a[1], Partition: record.Partition,
			Key: encoder(record.Key), Value: encoder(record.Value), Timestamp: record.Time}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Name), Value: header.Value})
		}
		messages = append(messages, message)
	}
	if err := producers[a[0]].SendMessages(messages); err != nil {
		return nil, err
	}
	var offsets []int64
	for _, message := range messages {
		offsets = append(offsets, message.Offset)
	}
	return lines.Fields(offsets...), nil
}

func begin(a []string) ([]string, error) {
	return nil, producers[a[0]].BeginTxn()
}

func offsetInTransaction(a []string) ([]string, error) {
	place := &sarama.PartitionOffsetMetadata{Offset: lines.Number(a[3])}
	offsets := map[string][]*sarama.PartitionOffsetMetadata{a[2]: {place}}
	return nil, producers[a[0]].AddOffsetsToTxn(offsets, members[a[1]].group)
}

func end(a []string) ([]string, error) {
	if a[1] == "commit" {
		return nil, producers[a[0]].CommitTxn()
	}
	return nil, producers[a[0]].AbortTxn()
}

// Consumers

func show(got *sarama.ConsumerMessage) string {
	record := lines.Record{Partition: got.Partition, Key: got.Key, Value: got.Value, Time: got.Timestamp}
	for _, header := range got.Headers {
		record.Headers = append(record.Headers, lines.Header{Name: string(header.Key), Value: header.Value})
	}
	return record.String()
}

func read(a []string) ([]string, error) {
	config := config()
	if a[3] == "read_committed" {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	consumer, err := sarama.NewConsumer(bootstrap, config)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(a[0], 0, lines.Number(a[1]))
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	var records []string
	for int64(len(records)) < lines.Number(a[2]) {
		select {
		case got := <-partition.Messages():
			records = append(records, show(got))
		case <-time.After(lines.Patience):
			return nil, errors.New("records do not come")
		}
	}
	return records, nil
}

func (member *member) Setup(session sarama.ConsumerGroupSession) error {
	member.Lock()
	defer member.Unlock()
	member.session, member.partitions = session, 0
	for _, claims := range session.Claims() {
		member.partitions += len(claims)
	}
	return nil
}

func (member *member) Cleanup(sarama.ConsumerGroupSession) error {
	member.Lock()
	defer member.Unlock()
	member.partitions = 0
	return nil
}

func (member *member) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for got := range claim.Messages() {
		member.Lock()
		member.records = append(member.records, show(got))
		member.Unlock()
		select {
		case member.came <- struct{}{}:
		default:
		}
	}
	return nil
}

func join(a []string) ([]string, error) {
	made, err := sarama.NewConsumerGroup(bootstrap, a[1], config())
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	joined := &member{
		ConsumerGroup: made, group: a[1], came: make(chan struct{}, 1), stop: stop, stopped: make(chan error, 1),
	}
	members[a[0]] = joined
	go func() {
		var err error
		for err == nil && running.Err() == nil {
			err = made.Consume(running, []string{a[2]}, joined)
		}
		joined.stopped <- err
	}()
	return nil, nil
}

func poll(a []string) ([]string, error) {
	member := members[a[0]]
	select {
	case <-member.came:
	case <-time.After(lines.Moment):
	}
	member.Lock()
	defer member.Unlock()
	records := member.records
	member.records = nil
	return append(lines.Fields(member.partitions), records...), nil
}

func commit(a []string) ([]string, error) {
	member := members[a[0]]
	for partition, offset := range lines.Places(a[2:]) {
		member.session.ResetOffset(a[1], partition, offset, "")
		member.session.MarkOffset(a[1], partition, offset, "")
	}
	member.session.Commit()
	return nil, nil
}

func committed(a []string) ([]string, error) {
	found, err := admin.ListConsumerGroupOffsets(members[a[0]].group, nil)
	if err != nil {
		return nil, err
	}
	var offsets []int64
	for partition := range lines.Number(a[2]) {
		offsets = append(offsets, found.GetBlock(a[1], int32(partition)).Offset)
	}
	return lines.Fields(offsets...), nil
}

func leave(a []string) ([]string, error) {
	member := members[a[0]]
	delete(members, a[0])
	member.stop()
	return nil, errors.Join(<-member.stopped, member.Close())
}

// Administration

func create(a []string) ([]string, error) {
	settings := map[string]*string{a[2]: &a[3]}
	detail := &sarama.TopicDetail{NumPartitions: int32(lines.Number(a[1])), ReplicationFactor: 1, ConfigEntries: settings}
	return nil, admin.CreateTopic(a[0], detail, false)
}

func grow(a []string) ([]string, error) {
	return nil, admin.CreatePartitions(a[0], int32(lines.Number(a[1])), nil, false)
}

func deleteTopic(a []string) ([]string, error) {
	return nil, admin.DeleteTopic(a[0])
}

func partitions(a []string) ([]string, error) {
	found, err := admin.DescribeTopics(a)
	if err != nil {
		return nil, err
	}
	return lines.Fields(len(found[0].Partitions)), nil
}

func missing(a []string) ([]string, error) {
	found, err := admin.DescribeTopics(a)
	if err != nil {
		return nil, err
	}
	return nil, found[0].Err
}

func describe(a []string) ([]string, error) {
	resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: a[0], ConfigNames: []string{a[1]}}
	found, err := admin.DescribeConfig(resource)
	if err != nil {
		return nil, err
	}
	return []string{found[0].Value}, nil
}

func alter(a []string) ([]string, error) {
	entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &a[2]}
	entries := map[string]sarama.IncrementalAlterConfigsEntry{a[1]: entry}
	return nil, admin.IncrementalAlterConfig(sarama.TopicResource, a[0], entries, false)
}

func deleteRecords(a []string) ([]string, error) {
	if err := admin.DeleteRecords(a[0], map[int32]int64{0: lines.Number(a[1])}); err != nil {
		return nil, err
	}
	return offset([]string{a[0], "earliest"})
}

func groups([]string) ([]string, error) {
	found, err := admin.ListConsumerGroups()
	var names []string
	for name := range found {
		names = append(names, name)
	}
	return names, err
}

func state(a []string) ([]string, error) {
	found, err := admin.DescribeConsumerGroups(a)
	if err != nil {
		return nil, err
	}
	return []string{found[0].State}, nil
}

func deleteGroup(a []string) ([]string, error) {
	return nil, admin.DeleteConsumerGroup(a[0])
}

func offset(a []string) ([]string, error) {
	ends := map[string]int64{"earliest": sarama.OffsetOldest, "latest": sarama.OffsetNewest}
	time, ok := ends[a[1]]
	if !ok {
		time = lines.Number(a[1])
	}
	found, err := base.GetOffset(a[0], 0, time)
	return lines.Fields(found), err
}

func code(err error) (int16, bool) {
	var kafkas sarama.KError
	var several sarama.ProducerErrors
	if errors.As(err, &several) {
		err = several[0].Err
	}
	if errors.As(err, &kafkas) {
		return int16(kafkas), true
	}
	return 0, false
}

func main() {
	lines.Serve(map[string]lines.Command{
		"connect": connect, "producer": producer, "send": send, "begin": begin,
		"offset_in_transaction": offsetInTransaction, "end": end, "read": read, "join": join,
		"poll": poll, "commit": commit, "committed": committed, "leave": leave,
		"create": create, "grow": grow, "delete": deleteTopic, "partitions": partitions,
		"missing": missing, "describe": describe, "alter": alter, "delete_records": deleteRecords,
		"groups": groups, "state": state, "delete_group": deleteGroup, "offset": offset,
	}, code)
}
