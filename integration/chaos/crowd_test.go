package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/integration/bareserver"
)

// crowd is what talks to an API server all the time: informers, and a writer that remembers what it was told.
type crowd struct {
	server  *bareserver.Server
	readers []cache.SharedIndexInformer
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu sync.Mutex
	// written has what the server said that it stored, by name; a name whose last answer was an error is not in it.
	written map[string]string
	gone    map[string]bool
	last    time.Time // of the last write that worked
}

// newCrowd starts five informers and a writer. They end with the test.
func newCrowd(t *testing.T, s *bareserver.Server) *crowd {
	ctx, cancel := context.WithCancel(t.Context())
	c := &crowd{server: s, cancel: cancel, written: map[string]string{}, gone: map[string]bool{}}
	var running sync.WaitGroup
	reading, stopReading := context.WithCancel(t.Context())
	for range 5 {
		informer := informers.NewSharedInformerFactory(s.Client, 0).Core().V1().ConfigMaps().Informer()
		c.readers = append(c.readers, informer)
		running.Go(func() { informer.RunWithContext(reading) })
	}
	c.done.Go(func() { c.write(ctx) })
	t.Cleanup(func() {
		c.stopWriting()
		stopReading()
		running.Wait()
	})
	return c
}

// write makes, changes and deletes thirty objects in turn, until ctx ends.
func (c *crowd) write(ctx context.Context) {
	client := c.server.Client.CoreV1().ConfigMaps("default")
	for i := 0; ctx.Err() == nil; i++ {
		name, value := fmt.Sprintf("crowd-%d", i%30), fmt.Sprint(i)
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
		var err error
		deleting := i%7 == 3
		if deleting {
			if err = client.Delete(short, name, metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
				err = nil
			}
		} else if _, err = client.Update(short, obj, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
			_, err = client.Create(short, obj, metav1.CreateOptions{})
		}
		cancel()
		c.record(name, value, deleting, err)
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *crowd) record(name, value string, deleted bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.written, name)
	delete(c.gone, name)
	switch {
	case err != nil: // it may have happened or not
		return
	case deleted:
		c.gone[name] = true
	default:
		c.written[name] = value
	}
	c.last = time.Now()
}

func (c *crowd) stopWriting() {
	c.cancel()
	c.done.Wait()
}

// awaitWrite waits for a write that begins now to work.
func (c *crowd) awaitWrite(t *testing.T, within time.Duration) {
	t.Helper()
	began := time.Now()
	wait(t, within, "a write works", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last.Before(began) {
			return fmt.Errorf("the last was at %v", c.last)
		}
		return nil
	})
}

// awaitAgreement waits until the server has what it said that it stored, and all informers have what the server has.
func (c *crowd) awaitAgreement(t *testing.T, within time.Duration) {
	t.Helper()
	wait(t, within, "server and informers agree", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		list, err := c.server.Client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		versions := map[string]string{}
		for _, item := range list.Items {
			versions[item.Namespace+"/"+item.Name] = item.ResourceVersion
			if want, ok := c.written[item.Name]; ok && item.Data["value"] != want {
				return fmt.Errorf("%s has %q, and %q was acknowledged", item.Name, item.Data["value"], want)
			}
			if c.gone[item.Name] {
				return fmt.Errorf("%s is there, and its deletion was acknowledged", item.Name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.written)) {
			if versions["default/"+name] == "" {
				return fmt.Errorf("%s was acknowledged and is not there", name)
			}
		}
		for i, informer := range c.readers {
			have := map[string]string{}
			for _, obj := range informer.GetStore().List() {
				m := obj.(*corev1.ConfigMap)
				have[m.Namespace+"/"+m.Name] = m.ResourceVersion
			}
			if !maps.Equal(have, versions) {
				return fmt.Errorf("informer %d has %d objects, and the server %d, or other versions of them", i, len(have), len(versions))
			}
		}
		return nil
	})
}

// wait tries until there is no error.
func wait(t *testing.T, within time.Duration, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }

// program is the built orlop-server.
func program(t *testing.T) string {
	bin := os.Getenv("ORLOP_BIN") // another build than the checkout's
	if bin == "" {
		bin = "../../bin"
	}
	path, err := filepath.Abs(filepath.Join(bin, "orlop-server"))
	must(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build first (make build)", err)
	}
	return path
}
