package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka starts kfake in this process.
func Kafka() (address string, stop func(), err error) { return opened(newKfake()) }

// newKfake starts a fake Kafka in this process, with the topic `work`.
func newKfake() (*Server, error) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "work"))
	if err != nil {
		return nil, fmt.Errorf("start kfake: %w", err)
	}
	return &Server{URL: cluster.ListenAddrs()[0], stop: cluster.Close}, nil
}

// newKafka starts a real Kafka: one process that is both broker and controller, with the topic `work`. It needs Java 17
// and the jars of Kafka in $KAFKA_HOME/libs: those of a downloaded Kafka, or those that Maven copies there (see
// pom.xml).
func newKafka() (*Server, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("%w: java is not in the PATH (on Debian: apt-get install default-jre-headless)", ErrMissing)
	}
	jars, err := filepath.Glob(filepath.Join(os.Getenv("KAFKA_HOME"), "libs", "kafka_*.jar"))
	if err != nil || len(jars) == 0 {
		return nil, fmt.Errorf("%w: want Kafka's jars in the folder libs of KAFKA_HOME (see brokers/server/pom.xml)", ErrMissing)
	}
	directory, err := os.MkdirTemp("", "kafka")
	if err != nil {
		return nil, err
	}
	s := &Server{remove: func() { os.RemoveAll(directory) }}
	broker, err1 := freePort()
	controller, err2 := freePort()
	properties := filepath.Join(directory, "server.properties")
	err3 := os.WriteFile(properties, fmt.Appendf(nil, `process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:%[1]s,CONTROLLER://127.0.0.1:%[2]s
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]s
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:%[2]s
log.dirs=%[3]s
# kfake doesn't create topics, so this one doesn't either.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
log.cleaner.dedupe.buffer.size=4194304
`, broker, controller, filepath.ToSlash(filepath.Join(directory, "data"))), 0o600)
	if err := errors.Join(err1, err2, err3); err != nil {
		s.remove()
		return nil, err
	}
	run := func(class string, arguments ...string) *exec.Cmd {
		return exec.Command(java, append([]string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m",
			"-cp", filepath.Join(os.Getenv("KAFKA_HOME"), "libs", "*"), class}, arguments...)...)
	}
	format := run("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAA", "-c", properties)
	if output, err := format.CombinedOutput(); err != nil {
		s.remove()
		return nil, fmt.Errorf("format Kafka's folder: %w: %s", err, output)
	}
	s.URL = "127.0.0.1:" + broker
	s.start = func() (*process, error) {
		p, err := start(run("kafka.Kafka", properties))
		if err != nil {
			return nil, err
		}
		return p, p.waitForPort(broker, 60*time.Second)
	}
	if err := s.Start(); err != nil {
		s.remove()
		return nil, err
	}
	if err := CreateTopic(s.URL, "work", 1); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// CreateTopic deletes the topic if it exists, and creates it with so many partitions.
func CreateTopic(address, topic string, partitions int32) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	old := kmsg.NewPtrDeleteTopicsRequest()
	deletion := kmsg.NewDeleteTopicsRequestTopic()
	deletion.Topic = &topic
	old.TopicNames, old.Topics = []string{topic}, append(old.Topics, deletion)
	if _, err := old.RequestWith(ctx, client); err != nil {
		return fmt.Errorf("delete topic: %w", err)
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	creation := kmsg.NewCreateTopicsRequestTopic()
	creation.Topic, creation.NumPartitions, creation.ReplicationFactor = topic, partitions, 1
	request.Topics = append(request.Topics, creation)
	response, err := request.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(response.Topics[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	return nil
}
