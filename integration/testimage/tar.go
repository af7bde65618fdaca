package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tarJob is a command line of tar.
type tarJob struct {
	extract     bool
	now         bool   // files are as new as their extraction
	permissions bool   // modes are the archive's, whatever the umask
	owner       bool   // owners are the archive's
	archive     string // - is a standard stream
	dir         string
	paths       []string
}

// tarArguments understands what kubectl cp says in the container, and its neighbours: the letters c, x, m, p and f with
// or without a dash, -C, and the two options about permissions and owners.
func tarArguments(args []string) (tarJob, error) {
	job := tarJob{archive: "-", dir: ".", permissions: os.Geteuid() == 0, owner: os.Geteuid() == 0}
	create := false
	for i := 0; i < len(args); i++ {
		value := func() (string, error) {
			i++
			if i == len(args) {
				return "", fmt.Errorf("%s needs an argument", args[i-1])
			}
			return args[i], nil
		}
		var err error
		switch a := args[i]; {
		case a == "--no-same-permissions":
			job.permissions = false
		case a == "--no-same-owner":
			job.owner = false
		case a == "-C":
			job.dir, err = value()
		case a == "--":
			job.paths, i = append(job.paths, args[i+1:]...), len(args)
		case i == 0 || len(a) > 1 && a[0] == '-' && a[1] != '-':
			for _, letter := range strings.TrimPrefix(a, "-") {
				switch letter {
				case 'c':
					create = true
				case 'x':
					job.extract = true
				case 'm':
					job.now = true
				case 'p':
					job.permissions = true
				case 'f':
					job.archive, err = value()
				default:
					err = fmt.Errorf("no option -%c", letter)
				}
				if err != nil {
					return job, err
				}
			}
		case strings.HasPrefix(a, "--"):
			err = fmt.Errorf("no option %s", a)
		default:
			job.paths = append(job.paths, a)
		}
		if err != nil {
			return job, err
		}
	}
	switch {
	case create == job.extract:
		return job, errors.New("one of c and x is needed")
	case create && len(job.paths) == 0:
		return job, errors.New("nothing to archive")
	case job.extract && len(job.paths) > 0:
		return job, errors.New("extracts only whole archives")
	}
	return job, nil
}

func tarTool(s *stdio, args []string) error {
	job, err := tarArguments(args)
	if err != nil {
		return err
	}
	if job.extract {
		in := s.in
		if job.archive != "-" {
			f, err := os.Open(job.archive)
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		return job.unpack(in)
	}
	if job.archive == "-" {
		return job.pack(s.out)
	}
	f, err := os.Create(job.archive)
	if err != nil {
		return err
	}
	return errors.Join(job.pack(f), f.Close())
}

// pack writes every path with what is below it. A path that is missing does not keep the others out.
func (j tarJob) pack(out io.Writer) error {
	w := tar.NewWriter(out)
	var errs []error
	for _, p := range j.paths {
		errs = append(errs, filepath.WalkDir(j.at(p), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rest, err := filepath.Rel(j.at(p), path)
			if err != nil {
				return err
			}
			return packOne(w, path, filepath.Join(p, rest))
		}))
	}
	return errors.Join(append(errs, w.Close())...)
}

func (j tarJob) at(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(j.dir, path)
}

func packOne(w *tar.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = strings.TrimLeft(filepath.ToSlash(name), "/") // as every tar: it is extracted where one stands
	if h.Name == "" {
		h.Name = "."
	}
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, io.LimitReader(f, h.Size)) // a log may have grown since
	return err
}

// unpack writes below dir, and refuses names and links that would leave it.
func (j tarJob) unpack(in io.Reader) error {
	root, err := os.OpenRoot(j.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = j.unpackOne(root, h, r)
		}
		if err != nil {
			return err
		}
	}
}

func (j tarJob) unpackOne(root *os.Root, h *tar.Header, content io.Reader) error {
	name := filepath.Clean(strings.TrimLeft(h.Name, "/"))
	mode := h.FileInfo().Mode()
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, mode.Perm()|0o700); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode.Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: no way to extract type %q", h.Name, h.Typeflag)
	}
	return j.attributes(root, name, h)
}

func (j tarJob) attributes(root *os.Root, name string, h *tar.Header) error {
	if j.owner {
		if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if j.permissions {
		if err := root.Chmod(name, h.FileInfo().Mode().Perm()); err != nil {
			return err
		}
	}
	if j.now {
		return nil
	}
	return root.Chtimes(name, time.Time{}, h.ModTime)
}
