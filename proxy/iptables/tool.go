package iptables

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Flavour is which part of the kernel iptables talks to.
type Flavour string

// The flavours of iptables.
const (
	NFT    Flavour = "nft"
	Legacy Flavour = "legacy"
)

// tool runs the host's programs of a flavour.
type tool struct {
	root    string // of the host's files; "" this process's own
	flavour Flavour
	dir     string // of the programs
	plain   bool   // they are known by no flavour's name
}

// folders are where distributions have iptables.
var folders = []string{"/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin"}

// find returns the tools there are, the nft one first. Programs of a host are looked for below root, and, where there are none, in this process's
// own files.
func find(root string) (out []tool, err error) {
	roots := []string{""}
	if root != "" && root != "/" {
		roots = []string{root, ""}
	}
	for _, r := range roots {
		for _, f := range []Flavour{NFT, Legacy} {
			for _, dir := range folders {
				if there(r, dir, "iptables-"+string(f)+"-restore") {
					out = append(out, tool{r, f, dir, false})
					break
				}
			}
		}
		for _, dir := range folders {
			if len(out) == 0 && there(r, dir, "iptables-restore") {
				t := tool{r, Legacy, dir, true}
				if text, err := t.run("", "iptables", "--version"); err == nil && strings.Contains(text, "nf_tables") {
					t.flavour = NFT
				}
				out = append(out, t)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
	return nil, fmt.Errorf("no iptables: neither iptables-nft-restore, iptables-legacy-restore nor iptables-restore is in %s of %s: install the host's package iptables (in a container, mount the host's /usr at %s/usr)",
		strings.Join(folders, ", "), strings.Join(roots, " or "), root)
}

// there does not follow links, which lead to somewhere below root.
func there(root, dir, program string) bool {
	_, err := os.Lstat(filepath.Join(root, dir, program))
	return err == nil
}

// program is the full name of one of the tool's programs.
func (t tool) program(v4 bool, verb string) string {
	name := "ip6tables-"
	if v4 {
		name = "iptables-"
	}
	if !t.plain {
		name += string(t.flavour) + "-"
	}
	return name + verb
}

func (t tool) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(t.dir, program), args...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	if t.root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: t.root}
	}
	return cmd
}

func (t tool) run(input, program string, args ...string) (string, error) {
	cmd := t.command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, firstLine(stderr.String()))
	}
	return stdout.String(), nil
}

// lines tells fn what iptables-save says of a table, with counters, a line at a time: of many services it is some 40 MB.
func (t tool) lines(v4 bool, table string, fn func(line string)) error {
	program := t.program(v4, "save")
	cmd := t.command(program, "-c", "-t", table)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	scan := bufio.NewScanner(stdout)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		fn(scan.Text())
	}
	_, _ = io.Copy(io.Discard, stdout) // what follows a line that is too long
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, firstLine(stderr.String()))
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("read what %s says: %w", program, err)
	}
	return nil
}

func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return "it says nothing"
}

// restore applies input, each table of it whole or not at all. It waits a while for another that changes the tables.
func (t tool) restore(v4 bool, input string) error {
	_, err := t.run(input, t.program(v4, "restore"), "--noflush", "-w", "5")
	return err
}

func (t tool) save(v4 bool, table string) (string, error) {
	return t.run("", t.program(v4, "save"), "-t", table)
}

// present reads what there is of ours. Asking legacy programs for a table makes it, so that they are asked only for those there are.
func (t tool) present(v4 bool) (present, error) {
	var p present
	err := t.visit(v4, func() visitor {
		p = nothing()
		return p.sees()
	})
	return p, err
}

// tries is how often tables are read that change meanwhile.
const tries = 10

// visit reads the tables that hold our chains. Where they change meanwhile, it asks for another visitor and begins again.
func (t tool) visit(v4 bool, begin func() visitor) (err error) {
	for range tries {
		v := begin()
		for _, table := range []string{nat, filter} {
			switch {
			case t.flavour == NFT:
				err = dump(v4, table, v)
			case legacyTable(v4, table):
				err = t.lines(v4, table, func(line string) { v.line(table, line) })
			}
			if err != nil {
				break
			}
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// legacyTable tells whether the kernel has made a table of the legacy flavour in the calling thread's network namespace.
func legacyTable(v4 bool, table string) bool {
	name := "/proc/thread-self/net/ip_tables_names"
	if !v4 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	return err != nil || strings.Contains("\n"+string(b), "\n"+table+"\n")
}

// rules is how many rules a flavour holds, and whether a kubelet has left its sign there.
func (t tool) rules() (count int, kubelet bool) {
	for _, v4 := range []bool{true, false} {
		for _, table := range []string{"mangle", nat, filter} {
			if t.flavour == Legacy && !legacyTable(v4, table) {
				continue
			}
			text, err := t.save(v4, table)
			if err != nil {
				continue
			}
			count += strings.Count(text, "\n-A ")
			kubelet = kubelet || strings.Contains(text, ":KUBE-KUBELET-CANARY ") || strings.Contains(text, ":KUBE-IPTABLES-HINT ")
		}
	}
	return count, kubelet
}

// prefer puts the tool first that the host's own rules are made by: the one a kubelet has left its sign with, or that with more rules, or nft.
func prefer(tools []tool, rules func(tool) (int, bool)) []tool {
	if len(tools) != 2 {
		return tools
	}
	a, signA := rules(tools[0])
	b, signB := rules(tools[1])
	if signB && !signA || signA == signB && b > a {
		return []tool{tools[1], tools[0]}
	}
	return tools
}
