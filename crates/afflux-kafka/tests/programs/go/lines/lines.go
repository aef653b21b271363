// Package lines is how the programs in Go are spoken to; `clients/program.rs` says what is said.
package lines

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Patience is how long something may take.
const Patience = 30 * time.Second

// Moment is how long a poll waits for records.
const Moment = 50 * time.Millisecond

// A Header of a record.
type Header struct {
	Name  string
	Value []byte
}

// A Record as it is written on a line: `partition|key|value|time|name=value,name=value`.
type Record struct {
	Partition  int32
	Key, Value []byte
	Time       time.Time
	Headers    []Header
}

func bytesOf(text string) []byte {
	if text == "~" {
		return nil
	}
	return []byte(text)
}

func textOf(bytes []byte) string {
	if bytes == nil {
		return "~"
	}
	return string(bytes)
}

// Number of a field.
func Number(text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return number
}

// Parse reads a record.
func Parse(line string) Record {
	parts := strings.Split(line, "|")
	record := Record{Partition: int32(Number(parts[0])), Key: bytesOf(parts[1]), Value: bytesOf(parts[2])}
	if parts[3] != "~" {
		record.Time = time.UnixMilli(Number(parts[3]))
	}
	for _, pair := range strings.Split(parts[4], ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			record.Headers = append(record.Headers, Header{name, bytesOf(value)})
		}
	}
	return record
}

func (record Record) String() string {
	var headers []string
	for _, header := range record.Headers {
		headers = append(headers, header.Name+"="+textOf(header.Value))
	}
	return fmt.Sprintf("%d|%s|%s|%d|%s", record.Partition, textOf(record.Key), textOf(record.Value),
		record.Time.UnixMilli(), strings.Join(headers, ","))
}

// Places are partitions and offsets, from `partition=offset` each.
func Places(fields []string) map[int32]int64 {
	places := map[int32]int64{}
	for _, field := range fields {
		partition, offset, _ := strings.Cut(field, "=")
		places[int32(Number(partition))] = Number(offset)
	}
	return places
}

// Fields of an answer.
func Fields[T any](values ...T) []string {
	var fields []string
	for _, value := range values {
		fields = append(fields, fmt.Sprint(value))
	}
	return fields
}

// A Command takes arguments and gives fields.
type Command func(arguments []string) ([]string, error)

// Serve answers commands until there are no more; code is Kafka's of an error, if it has one.
func Serve(commands map[string]Command, code func(error) (int16, bool)) {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	for input.Scan() {
		fields := strings.Split(input.Text(), "\t")
		command, ok := commands[fields[0]]
		if !ok {
			fmt.Printf("error\t~\tno command %s\n", fields[0])
			continue
		}
		answer, err := command(fields[1:])
		if err == nil {
			fmt.Println(strings.Join(append([]string{"ok"}, answer...), "\t"))
			continue
		}
		number := "~"
		if found, ok := code(err); ok {
			number = fmt.Sprint(found)
		}
		fmt.Printf("error\t%s\t%s\n", number, strings.Join(strings.Fields(err.Error()), " "))
	}
}
