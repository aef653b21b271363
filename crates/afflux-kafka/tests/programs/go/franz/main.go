// franz-go: its own protocol, in Go.
package main

import (
	"context"
	"errors"

	"afflux.test/clients/lines"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type member struct {
	*kgo.Client
	group string
	// Kept by callbacks, which run while it is polled.
	partitions int
}

var (
	// What takes too long is ended by who waits for the answer.
	background = context.Background()
	seed       kgo.Opt
	admin      *kadm.Client
	members    = map[string]*member{}
	producers  = map[string]*kgo.Client{}
	ids        = map[string]string{}
	codecs     = map[string]kgo.CompressionCodec{
		"none":   kgo.NoCompression(),
		"gzip":   kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(),
		"lz4":    kgo.Lz4Compression(),
		"zstd":   kgo.ZstdCompression(),
	}
)

func client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, seed, kgo.DisableClientMetrics())...)
}

func connect(a []string) ([]string, error) {
	seed = kgo.SeedBrokers(a[0])
	made, err := client()
	if err == nil {
		admin = kadm.NewClient(made)
	}
	return nil, err
}

// Producers

func producer(a []string) ([]string, error) {
	options := []kgo.Opt{
		kgo.ProducerBatchCompression(codecs[a[1]]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(lines.Moment / 2),
	}
	if a[2] != "~" {
		options = append(options, kgo.TransactionalID(a[2]))
	}
	made, err := client(options...)
	producers[a[0]], ids[a[0]] = made, a[2]
	return nil, err
}

func send(a []string) ([]string, error) {
	var records []*kgo.Record
	for _, line := range a[2:] {
		record := lines.Parse(line)
		made := &kgo.Record{Topic: a[1], Partition: record.Partition, Key: record.Key,
			Value: record.Value, Timestamp: record.Time}
		for _, header := range record.Headers {
			made.Headers = append(made.Headers, kgo.RecordHeader{Key: header.Name, Value: header.Value})
		}
		records = append(records, made)
	}
	if err := producers[a[0]].ProduceSync(background, records...).FirstErr(); err != nil {
		return nil, err
	}
	var offsets []int64
	for _, record := range records {
		offsets = append(offsets, record.Offset)
	}
	return lines.Fields(offsets...), nil
}

func begin(a []string) ([]string, error) {
	return nil, producers[a[0]].BeginTransaction()
}

// Its own way is a session of one client that reads and writes; the requests are the same.
func offsetInTransaction(a []string) ([]string, error) {
	by, member := producers[a[0]], members[a[1]]
	id, epoch, err := by.ProducerID(background)
	if err != nil {
		return nil, err
	}
	add := kmsg.NewAddOffsetsToTxnRequest()
	add.TransactionalID, add.Group, add.ProducerID, add.ProducerEpoch = ids[a[0]], member.group, id, epoch
	added, err := add.RequestWith(background, by)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	commit := kmsg.NewTxnOffsetCommitRequest()
	commit.TransactionalID, commit.Group, commit.ProducerID, commit.ProducerEpoch = ids[a[0]], member.group, id, epoch
	commit.MemberID, commit.Generation = member.GroupMetadata()
	topic, partition := kmsg.NewTxnOffsetCommitRequestTopic(), kmsg.NewTxnOffsetCommitRequestTopicPartition()
	topic.Topic, partition.Offset = a[2], lines.Number(a[3])
	topic.Partitions = append(topic.Partitions, partition)
	commit.Topics = append(commit.Topics, topic)
	committed, err := commit.RequestWith(background, by)
	if err == nil {
		err = kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode)
	}
	return nil, err
}

func end(a []string) ([]string, error) {
	return nil, producers[a[0]].EndTransaction(background, kgo.TransactionEndTry(a[1] == "commit"))
}

// Consumers

func poll(from *kgo.Client) ([]string, error) {
	moment, cancel := context.WithTimeout(context.Background(), lines.Moment)
	defer cancel()
	fetches := from.PollFetches(moment)
	if err := fetches.Err0(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	var records []string
	fetches.EachRecord(func(got *kgo.Record) {
		record := lines.Record{Partition: got.Partition, Key: got.Key, Value: got.Value, Time: got.Timestamp}
		for _, header := range got.Headers {
			record.Headers = append(record.Headers, lines.Header{Name: header.Key, Value: header.Value})
		}
		records = append(records, record.String())
	})
	return records, nil
}

func read(a []string) ([]string, error) {
	level := kgo.ReadUncommitted()
	if a[3] == "read_committed" {
		level = kgo.ReadCommitted()
	}
	from := map[string]map[int32]kgo.Offset{a[0]: {0: kgo.NewOffset().At(lines.Number(a[1]))}}
	reader, err := client(kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(level))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var records []string
	for int64(len(records)) < lines.Number(a[2]) {
		more, err := poll(reader)
		if err != nil {
			return nil, err
		}
		records = append(records, more...)
	}
	return records, nil
}

func join(a []string) ([]string, error) {
	joined := &member{group: a[1]}
	count := func(by int) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			joined.partitions += by * len(partitions[a[2]])
		}
	}
	options := []kgo.Opt{
		kgo.ConsumerGroup(a[1]), kgo.ConsumeTopics(a[2]), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(count(1)), kgo.OnPartitionsRevoked(count(-1)), kgo.OnPartitionsLost(count(-1)),
		kgo.HeartbeatInterval(4 * lines.Moment), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}
	if a[3] == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	made, err := client(options...)
	joined.Client = made
	members[a[0]] = joined
	return nil, err
}

func pollMember(a []string) ([]string, error) {
	records, err := poll(members[a[0]].Client)
	return append(lines.Fields(members[a[0]].partitions), records...), err
}

func commit(a []string) ([]string, error) {
	offsets := map[string]map[int32]kgo.EpochOffset{a[1]: {}}
	for partition, offset := range lines.Places(a[2:]) {
		offsets[a[1]][partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	var outcome error
	members[a[0]].CommitOffsetsSync(background, offsets,
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
			outcome = err
		})
	return nil, outcome
}

func committed(a []string) ([]string, error) {
	found, err := admin.FetchOffsets(background, members[a[0]].group)
	var offsets []string
	for _, at := range found.Sorted() {
		offsets = append(offsets, lines.Fields(at.At)...)
	}
	return offsets, err
}

func leave(a []string) ([]string, error) {
	members[a[0]].Close()
	delete(members, a[0])
	return nil, nil
}

// Administration

func create(a []string) ([]string, error) {
	made, err := admin.CreateTopic(background, int32(lines.Number(a[1])), 1, map[string]*string{a[2]: &a[3]}, a[0])
	return nil, errors.Join(err, made.Err)
}

func grow(a []string) ([]string, error) {
	grown, err := admin.UpdatePartitions(background, int(lines.Number(a[1])), a[0])
	return nil, errors.Join(err, grown.Error())
}

func deleteTopic(a []string) ([]string, error) {
	gone, err := admin.DeleteTopic(background, a[0])
	return nil, errors.Join(err, gone.Err)
}

func partitions(a []string) ([]string, error) {
	found, err := admin.ListTopics(background, a[0])
	return lines.Fields(len(found[a[0]].Partitions)), err
}

func missing(a []string) ([]string, error) {
	found, err := admin.ListTopics(background, a[0])
	return nil, errors.Join(err, found[a[0]].Err)
}

func describe(a []string) ([]string, error) {
	found, err := admin.DescribeTopicConfigs(background, a[0])
	if err != nil {
		return nil, err
	}
	resource, err := found.On(a[0], nil)
	for _, config := range resource.Configs {
		if config.Key == a[1] {
			return []string{config.MaybeValue()}, nil
		}
	}
	return nil, err
}

func alter(a []string) ([]string, error) {
	change := kadm.AlterConfig{Op: kadm.SetConfig, Name: a[1], Value: &a[2]}
	done, err := admin.AlterTopicConfigs(background, []kadm.AlterConfig{change}, a[0])
	if err != nil {
		return nil, err
	}
	return nil, done[0].Err
}

func deleteRecords(a []string) ([]string, error) {
	offsets := kadm.Offsets{}
	offsets.AddOffset(a[0], 0, lines.Number(a[1]), -1)
	done, err := admin.DeleteRecords(background, offsets)
	at, _ := done.Lookup(a[0], 0)
	return lines.Fields(at.LowWatermark), errors.Join(err, done.Error())
}

func groups([]string) ([]string, error) {
	found, err := admin.ListGroups(background)
	return found.Groups(), err
}

func state(a []string) ([]string, error) {
	found, err := admin.DescribeGroups(background, a[0])
	return []string{found[a[0]].State}, err
}

func deleteGroup(a []string) ([]string, error) {
	_, err := admin.DeleteGroup(background, a[0])
	return nil, err
}

func offset(a []string) ([]string, error) {
	var found kadm.ListedOffsets
	var err error
	switch a[1] {
	case "earliest":
		found, err = admin.ListStartOffsets(background, a[0])
	case "latest":
		found, err = admin.ListEndOffsets(background, a[0])
	default:
		found, err = admin.ListOffsetsAfterMilli(background, lines.Number(a[1]), a[0])
	}
	at, _ := found.Lookup(a[0], 0)
	return lines.Fields(at.Offset), err
}

func code(err error) (int16, bool) {
	var kafkas *kerr.Error
	if errors.As(err, &kafkas) {
		return kafkas.Code, true
	}
	return 0, false
}

func main() {
	lines.Serve(map[string]lines.Command{
		"connect": connect, "producer": producer, "send": send, "begin": begin,
		"offset_in_transaction": offsetInTransaction, "end": end, "read": read, "join": join,
		"poll": pollMember, "commit": commit, "committed": committed, "leave": leave,
		"create": create, "grow": grow, "delete": deleteTopic, "partitions": partitions,
		"missing": missing, "describe": describe, "alter": alter, "delete_records": deleteRecords,
		"groups": groups, "state": state, "delete_group": deleteGroup, "offset": offset,
	}, code)
}
