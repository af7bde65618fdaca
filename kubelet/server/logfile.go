package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// logOpts says what of a log to read.
type logOpts struct {
	follow     bool
	timestamps bool
	tail       int64 // lines from the end; negative is all
	limit      int64 // bytes to write at most; negative is all
	since      time.Time
	stream     string // stdout or stderr; empty is both
	// ended tells, when all was read, whether the container writes no more.
	ended func(context.Context) bool
}

// sink takes what is read; Flush is called when there is no more for now.
type sink interface {
	io.Writer
	Flush() error
}

// errEnough says that limit is reached.
var errEnough = errors.New("limit of bytes reached")

// line is one line as the container runtime writes it: time, stream, tags, text. A line of the container that is longer
// than the runtime's buffer comes in several, all but the last partial.
type line struct {
	time    []byte
	stream  []byte
	partial bool
	text    []byte
}

// parseLine takes a line apart, without its newline; ok is false if it is none.
func parseLine(b []byte) (l line, ok bool) {
	var tags []byte
	if l.time, b, ok = bytes.Cut(b, []byte{' '}); !ok {
		return l, false
	}
	if l.stream, b, ok = bytes.Cut(b, []byte{' '}); !ok {
		return l, false
	}
	tags, l.text, _ = bytes.Cut(b, []byte{' '}) // an empty line may come without its last space
	first, _, _ := bytes.Cut(tags, []byte{':'})
	l.partial = string(first) == "P"
	return l, l.partial || string(first) == "F"
}

// printer writes lines the way the caller wants them.
type printer struct {
	opts   logOpts
	out    sink
	left   int64
	middle map[string]bool // the stream's last line was partial
}

func (p *printer) print(raw []byte) error {
	l, ok := parseLine(raw)
	if !ok {
		return nil // the runtime died while it wrote, or the file is not its
	}
	if p.opts.stream != "" && string(l.stream) != p.opts.stream {
		return nil
	}
	stamp, err := time.Parse(time.RFC3339Nano, string(l.time))
	if err != nil || stamp.Before(p.opts.since) {
		return nil
	}
	if p.opts.timestamps && !p.middle[string(l.stream)] {
		if err := p.write([]byte(stamp.Format("2006-01-02T15:04:05.000000000Z07:00") + " ")); err != nil {
			return err
		}
	}
	p.middle[string(l.stream)] = l.partial
	if err := p.write(l.text); err != nil || l.partial {
		return err
	}
	return p.write([]byte{'\n'})
}

func (p *printer) write(b []byte) error {
	if p.opts.limit >= 0 {
		b = b[:min(int64(len(b)), p.left)]
		p.left -= int64(len(b))
	}
	if _, err := p.out.Write(b); err != nil {
		return err
	}
	if p.opts.limit >= 0 && p.left == 0 {
		return errEnough
	}
	return nil
}

// readLog writes a container's log to out. Following, it goes on through rotations until the container has ended and
// all is read, or ctx ends.
func readLog(ctx context.Context, path string, opts logOpts, out sink) error {
	p := &printer{opts: opts, out: out, left: opts.limit, middle: map[string]bool{}}
	err := p.read(ctx, path)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return errors.Join(err, out.Flush())
}

func (p *printer) read(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }() // f is replaced when the log is rotated
	if p.opts.tail >= 0 {
		start, err := tailStart(f, p.opts.tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	lines := &lineReader{from: bufio.NewReaderSize(f, 64<<10)}
	if !p.opts.follow {
		return p.drain(ctx, lines)
	}
	wait, stop, err := watch(path)
	if err != nil {
		return err
	}
	defer stop()
	for last := false; ; {
		if err := p.drain(ctx, lines); err != nil {
			return err
		}
		if err := p.out.Flush(); err != nil {
			return err
		}
		next, err := rotated(f, path)
		if err != nil {
			return err
		}
		if next != nil {
			// The runtime wrote to the old file until it opened the new one, which it has done: read its end first.
			err := p.drain(ctx, lines)
			f.Close()
			f, lines = next, &lineReader{from: bufio.NewReaderSize(next, 64<<10)}
			if err != nil {
				return err
			}
			continue
		}
		if last {
			return nil
		}
		if last = p.opts.ended(ctx); last {
			continue // what it wrote between our reading and its end is still to be read
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

// drain prints all whole lines there are.
func (p *printer) drain(ctx context.Context, lines *lineReader) error {
	for {
		raw, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.print(raw); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// lineReader gives whole lines and keeps the beginning of one whose end is not written yet.
type lineReader struct {
	from *bufio.Reader
	rest []byte
}

func (r *lineReader) next() ([]byte, error) {
	chunk, err := r.from.ReadSlice('\n')
	if err == nil && len(r.rest) == 0 {
		return chunk[:len(chunk)-1], nil
	}
	r.rest = append(r.rest, chunk...)
	if errors.Is(err, bufio.ErrBufferFull) {
		return r.next()
	}
	if err != nil {
		return nil, err
	}
	out := r.rest[:len(r.rest)-1]
	r.rest = nil
	return out, nil
}

// rotated opens the file at path if it is another than f.
func rotated(f *os.File, path string) (*os.File, error) {
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // between the renaming and the new file, or removed with its container
	}
	if err != nil {
		return nil, err
	}
	ours, err := f.Stat()
	if err != nil || os.SameFile(now, ours) {
		return nil, err
	}
	return os.Open(path)
}

// watch returns a function that waits until something happens to the file at path, or for a second.
func watch(path string) (wait func(context.Context) error, stop func(), err error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, err
	}
	// The directory is watched, for a new file of the same name is another file.
	if err := w.Add(filepath.Dir(path)); err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	timer := time.NewTimer(time.Second)
	wait = func(ctx context.Context) error {
		timer.Reset(time.Second)
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
				return nil
			case <-w.Errors:
				return nil
			case e := <-w.Events:
				if e.Name == path {
					return nil
				}
			}
		}
	}
	return wait, func() { timer.Stop(); w.Close() }, nil
}

// tailStart finds where the last n lines begin. Partial lines belong to the line that they are part of.
func tailStart(f *os.File, n int64) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	const block = 64 << 10
	var seen int64
	var carry []byte // the beginning of the line that reached into the block before
	for at := end; at > 0; {
		size := min(at, block)
		at -= size
		buf := make([]byte, size, size+int64(len(carry)))
		if _, err := f.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		buf = append(buf, carry...)
		for stop := len(buf); ; {
			i := bytes.LastIndexByte(buf[:max(stop-1, 0)], '\n')
			if i < 0 && at > 0 {
				carry = buf[:stop]
				break
			}
			// What the runtime is still writing ends with no newline, and is no line yet.
			if whole, ok := bytes.CutSuffix(buf[i+1:stop], []byte{'\n'}); ok {
				if l, ok := parseLine(whole); ok && !l.partial {
					if seen++; seen > n {
						return at + int64(stop), nil
					}
				}
			}
			if i < 0 {
				break
			}
			stop = i + 1
		}
	}
	return 0, nil
}
