package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// The last state is what a node that boots while the API server is away serves until that is back: all services, endpoint slices and nodes, as they were
// seen last. Within a boot the kernel itself holds them, and the file is not read; but in mode userspace it holds nothing, and the file is what an agent has that
// starts while the API server does not answer.
const (
	stateName = "state"
	stateHead = "orlop-agent 2 "
	// stateRest is how long the file may be behind: writing it costs as much as it has services.
	stateRest = 30 * time.Second
)

// kinds of object, as the file has them.
const (
	kindService = 's'
	kindSlice   = 'e'
	kindNode    = 'n'
)

// state is what the file holds.
type state struct {
	boot   string // in which it was written
	nodes  []*corev1.Node
	packed []*packed
}

func (s *state) add(kind byte, b []byte) error {
	switch kind {
	case kindNode:
		n := &corev1.Node{}
		s.nodes = append(s.nodes, n)
		return n.Unmarshal(b)
	case kindService, kindSlice:
		p, err := unmarshalPacked(kind, b)
		s.packed = append(s.packed, p)
		return err
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
}

// encodeState writes the objects of stores by kind, whole or not at all for a reader.
func encodeState(w io.Writer, boot string, stores map[byte]cache.Store) error {
	sum := crc32.NewIEEE()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	if _, err := out.WriteString(stateHead + boot + "\n"); err != nil {
		return err
	}
	for _, kind := range []byte{kindNode, kindService, kindSlice} {
		if stores[kind] == nil {
			continue
		}
		for _, obj := range stores[kind].List() {
			o, ok := obj.(interface{ Marshal() ([]byte, error) })
			if !ok {
				continue
			}
			b, err := o.Marshal()
			if err != nil {
				return err
			}
			if _, err := out.Write(append(binary.AppendUvarint([]byte{kind}, uint64(len(b))), b...)); err != nil {
				return err
			}
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

// decodeState returns what encodeState wrote.
func decodeState(content []byte) (s state, err error) {
	if len(content) < 4 || crc32.ChecksumIEEE(content[:len(content)-4]) != binary.BigEndian.Uint32(content[len(content)-4:]) {
		return state{}, errors.New("the checksum is wrong")
	}
	in := bytes.NewBuffer(content[:len(content)-4])
	head, err := in.ReadString('\n')
	boot, ok := strings.CutPrefix(strings.TrimSuffix(head, "\n"), stateHead)
	if err != nil || !ok {
		return state{}, errors.New("it is of another version")
	}
	s.boot = boot
	for in.Len() > 0 {
		kind, _ := in.ReadByte() // there is one
		size, err := binary.ReadUvarint(in)
		if err != nil || size > uint64(in.Len()) {
			return state{}, errors.New("an object is cut off")
		}
		if err := s.add(kind, in.Next(int(size))); err != nil {
			return state{}, fmt.Errorf("read object: %w", err)
		}
	}
	return s, nil
}

// recall gives the handlers of w what was seen before the node was booted. It is nothing where the kernel has it, unless that cannot be: needed tells.
func (w *watch) recall(dir, boot string, needed func() bool, log *slog.Logger) {
	content, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var last state
	if err == nil {
		last, err = decodeState(content)
	}
	if err != nil {
		log.Warn("read the last state: services wait for the API server", "err", err)
		return
	}
	if len(last.nodes)+len(last.packed) == 0 || last.boot == boot && !needed() {
		return
	}
	w.prime(last)
	log.Info("serving what was seen last, until the API server says what is now", "objects", len(last.nodes)+len(last.packed))
}

// away tells whether no API server answers now: then what is known of the cluster is what was seen last.
func away(ctx context.Context, client kubernetes.Interface, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{ResourceVersion: "0"})
	said, answered := errors.AsType[*apierrors.StatusError](err) // a refusal is an answer, too
	return err != nil && (!answered || said.ErrStatus.Code >= http.StatusInternalServerError)
}

// keepState writes the last state after changes, until ctx ends.
func (w *watch) keepState(ctx context.Context, dir, boot string, log *slog.Logger) error {
	if err := w.listed(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.stale:
		}
		if err := replaceFile(filepath.Join(dir, stateName), func(f io.Writer) error { return encodeState(f, boot, w.stores()) }); err != nil {
			log.Warn("keep the last state: this node needs the API server when it boots", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stateRest):
		}
	}
}

// bootID is the running kernel's.
func bootID(procSys string) (string, error) {
	b, err := os.ReadFile(filepath.Join(procSys, "kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
