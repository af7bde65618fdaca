package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"google.golang.org/protobuf/encoding/protowire"
)

// largestEvent is more than any object that etcd takes.
const largestEvent = 16 << 20

// eachPod tells of each pod that a watch in protobuf says was added or changed, by its name, its node and its encoding, which is
// valid until see returns. The nodes that the bench plays take no processor time from what is measured to decode pods that they do not
// write: of most, only their node is wanted.
func eachPod(stream io.Reader, see func(name, node string, encoded []byte)) error {
	in := bufio.NewReaderSize(stream, 64<<10)
	var head [4]byte
	var frame []byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n > largestEvent {
			return fmt.Errorf("an event of %d bytes", n)
		}
		if n > cap(frame) {
			frame = make([]byte, n)
		}
		frame = frame[:n]
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		if err := onePod(frame, see); err != nil {
			return err
		}
	}
}

// onePod tells of the pod in one event, if that is of a pod.
func onePod(frame []byte, see func(name, node string, encoded []byte)) error {
	var event metav1.WatchEvent
	if err := event.Unmarshal(frame); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	if event.Type == string(watch.Error) {
		return errors.New("the watch failed")
	}
	if event.Type != string(watch.Added) && event.Type != string(watch.Modified) {
		return nil
	}
	encoded, ok := bytes.CutPrefix(event.Object.Raw, []byte("k8s\x00"))
	if !ok {
		return errors.New("an object that is not protobuf")
	}
	var object runtime.Unknown
	if err := object.Unmarshal(encoded); err != nil {
		return fmt.Errorf("decode object: %w", err)
	}
	const metadata, spec, name, nodeName = 1, 2, 1, 10 // fields of Pod, ObjectMeta and PodSpec
	see(string(field(field(object.Raw, metadata), name)), string(field(field(object.Raw, spec), nodeName)), object.Raw)
	return nil
}

// field is the content of a message's first field of that number, nil if it has none or is none.
func field(message []byte, number protowire.Number) []byte {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		message = message[n:]
		if num == number && kind == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(message)
			return content
		}
		if n = protowire.ConsumeFieldValue(num, kind, message); n < 0 {
			return nil
		}
		message = message[n:]
	}
	return nil
}
