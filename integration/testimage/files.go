package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// flagsOf splits leading one-letter flags from arguments.
func flagsOf(args []string) (flags string, rest []string) {
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if args[0] == "--" {
			return flags, args[1:]
		}
		flags += strings.TrimLeft(args[0], "-")
		args = args[1:]
	}
	return flags, args
}

func trueTool(*stdio, []string) error  { return nil }
func falseTool(*stdio, []string) error { return exitCode(1) }

func echo(s *stdio, args []string) error {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		end, args = "", args[1:]
	}
	_, err := fmt.Fprint(s.out, strings.Join(args, " ")+end)
	return err
}

func cat(s *stdio, args []string) error {
	if len(args) == 0 {
		args = []string{"-"}
	}
	var errs []error
	for _, path := range args {
		if path == "-" {
			_, err := io.Copy(s.out, s.in)
			errs = append(errs, err)
			continue
		}
		f, err := os.Open(path)
		if err == nil {
			_, err = io.Copy(s.out, f)
			f.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func env(s *stdio, _ []string) error {
	for _, kv := range os.Environ() {
		fmt.Fprintln(s.out, kv)
	}
	return nil
}

func printenv(s *stdio, args []string) error {
	if len(args) == 0 {
		return env(s, nil)
	}
	for _, name := range args {
		v, ok := os.LookupEnv(name)
		if !ok {
			return exitCode(1)
		}
		fmt.Fprintln(s.out, v)
	}
	return nil
}

func hostname(s *stdio, args []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	if flags, _ := flagsOf(args); strings.Contains(flags, "f") {
		if hosts, err := os.ReadFile("/etc/hosts"); err == nil {
			for line := range strings.Lines(string(hosts)) {
				if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], name+".") {
					name = f[1]
				}
			}
		}
	}
	fmt.Fprintln(s.out, name)
	return nil
}

func id(s *stdio, args []string) error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	var list []string
	for _, g := range groups {
		list = append(list, strconv.Itoa(g))
	}
	switch flags, _ := flagsOf(args); flags {
	case "u":
		fmt.Fprintln(s.out, os.Getuid())
	case "g":
		fmt.Fprintln(s.out, os.Getgid())
	case "G":
		fmt.Fprintln(s.out, strings.Join(list, " "))
	default:
		fmt.Fprintf(s.out, "uid=%d gid=%d groups=%s\n", os.Getuid(), os.Getgid(), strings.Join(list, ","))
	}
	return nil
}

func chmod(_ *stdio, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: chmod OCTAL PATH ...")
	}
	mode, err := strconv.ParseUint(args[0], 8, 12)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range args[1:] {
		errs = append(errs, os.Chmod(path, fs.FileMode(mode)))
	}
	return errors.Join(errs...)
}

func ln(_ *stdio, args []string) error {
	flags, args := flagsOf(args)
	if len(args) != 2 {
		return errors.New("usage: ln [-s] [-f] TARGET LINK")
	}
	if strings.Contains(flags, "f") {
		os.Remove(args[1])
	}
	if strings.Contains(flags, "s") {
		return os.Symlink(args[0], args[1])
	}
	return os.Link(args[0], args[1])
}

func ls(s *stdio, args []string) error {
	flags, args := flagsOf(args)
	if len(args) == 0 {
		args = []string{"."}
	}
	long := strings.Contains(flags, "l")
	show := func(path, name string) error {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if !long {
			fmt.Fprintln(s.out, name)
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode()&fs.ModeSymlink != 0 {
			target, _ := os.Readlink(path)
			name += " -> " + target
		}
		fmt.Fprintf(s.out, "%s %4d %d %d %8d %s %s\n", info.Mode(), st.Nlink, st.Uid, st.Gid, info.Size(), info.ModTime().Format("Jan _2 15:04"), name)
		return nil
	}
	for _, path := range args {
		entries, err := os.ReadDir(path)
		if err != nil || strings.Contains(flags, "d") {
			if err := show(path, path); err != nil {
				return err
			}
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") && !strings.ContainsAny(flags, "aA") {
				continue
			}
			if err := show(filepath.Join(path, e.Name()), e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func mkdir(_ *stdio, args []string) error {
	flags, args := flagsOf(args)
	var errs []error
	for _, path := range args {
		if strings.Contains(flags, "p") {
			errs = append(errs, os.MkdirAll(path, 0o777))
		} else {
			errs = append(errs, os.Mkdir(path, 0o777))
		}
	}
	return errors.Join(errs...)
}

func rm(_ *stdio, args []string) error {
	flags, args := flagsOf(args)
	var errs []error
	for _, path := range args {
		var err error
		if strings.ContainsAny(flags, "rR") {
			err = os.RemoveAll(path)
		} else {
			err = os.Remove(path)
		}
		if strings.Contains(flags, "f") && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func touch(_ *stdio, args []string) error {
	var errs []error
	for _, path := range args {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
		if err == nil {
			f.Close()
			t := time.Now()
			err = os.Chtimes(path, t, t)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func stat(s *stdio, args []string) error {
	format := ""
	if len(args) > 1 && args[0] == "-c" {
		format, args = args[1], args[2:]
	}
	for _, path := range args {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if format == "" {
			format = "%n %a %u %g %s"
		}
		fmt.Fprintln(s.out, strings.NewReplacer("%n", path, "%a", strconv.FormatUint(uint64(st.Mode&0o7777), 8), "%u", fmt.Sprint(st.Uid),
			"%g", fmt.Sprint(st.Gid), "%s", fmt.Sprint(info.Size())).Replace(format))
	}
	return nil
}

// test knows the file tests; the shell has its own for all others.
func test(_ *stdio, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: test -e|-f|-d|-s PATH")
	}
	info, err := os.Stat(args[1])
	ok := err == nil
	switch args[0] {
	case "-e":
	case "-f":
		ok = ok && info.Mode().IsRegular()
	case "-d":
		ok = ok && info.IsDir()
	case "-s":
		ok = ok && info.Size() > 0
	default:
		return fmt.Errorf("unknown test %s", args[0])
	}
	if !ok {
		return exitCode(1)
	}
	return nil
}

func lines(s *stdio, args []string, each func(string) bool) error {
	in := s.in
	if len(args) > 0 {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	scan := bufio.NewScanner(in)
	for scan.Scan() && each(scan.Text()) {
	}
	return scan.Err()
}

func grep(s *stdio, args []string) error {
	flags, args := flagsOf(args)
	if len(args) == 0 {
		return errors.New("usage: grep [-q] [-v] TEXT [FILE]")
	}
	found := false
	err := lines(s, args[1:], func(line string) bool {
		if strings.Contains(line, args[0]) != strings.Contains(flags, "v") {
			found = true
			if !strings.Contains(flags, "q") {
				fmt.Fprintln(s.out, line)
			}
		}
		return true
	})
	if err == nil && !found {
		return exitCode(1)
	}
	return err
}

func countFlag(args []string) (int, []string) {
	n := 10
	if len(args) > 1 && args[0] == "-n" {
		n, _ = strconv.Atoi(args[1])
		args = args[2:]
	}
	return n, args
}

func head(s *stdio, args []string) error {
	n, args := countFlag(args)
	return lines(s, args, func(line string) bool {
		if n--; n >= 0 {
			fmt.Fprintln(s.out, line)
		}
		return n > 0
	})
}

func tail(s *stdio, args []string) error {
	if len(args) == 2 && args[0] == "-f" {
		return follow(s, args[1])
	}
	n, args := countFlag(args)
	var last []string
	err := lines(s, args, func(line string) bool {
		last = append(last, line)
		if len(last) > n {
			last = last[1:]
		}
		return true
	})
	for _, line := range last {
		fmt.Fprintln(s.out, line)
	}
	return err
}

func follow(s *stdio, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.Copy(s.out, f); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func seq(s *stdio, args []string) error {
	first, last := 1, 0
	var err error
	switch len(args) {
	case 1:
		last, err = strconv.Atoi(args[0])
	case 2:
		if first, err = strconv.Atoi(args[0]); err == nil {
			last, err = strconv.Atoi(args[1])
		}
	default:
		err = errors.New("usage: seq [FIRST] LAST")
	}
	for i := first; err == nil && i <= last; i++ {
		fmt.Fprintln(s.out, i)
	}
	return err
}

func sleep(_ *stdio, args []string) error {
	var total time.Duration
	for _, a := range args {
		if _, err := strconv.ParseFloat(a, 64); err == nil {
			a += "s"
		}
		if a == "infs" || a == "infinity" {
			select {}
		}
		d, err := time.ParseDuration(a)
		if err != nil {
			return err
		}
		total += d
	}
	time.Sleep(total)
	return nil
}

func mounts(s *stdio, _ []string) error { return cat(s, []string{"/proc/self/mounts"}) }

// ps lists processes as: PID and command.
func ps(s *stdio, _ []string) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var pids []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	sort.Ints(pids)
	for _, pid := range pids {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && len(cmdline) > 0 {
			fmt.Fprintf(s.out, "%5d %s\n", pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
		}
	}
	return nil
}
