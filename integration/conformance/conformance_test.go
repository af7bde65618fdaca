// Package conformance runs the rows of Kubernetes' conformance list, one
// subtest a row, named by the row's codename and written from its requirement.
//
// rows.tsv is the list. A row without a test counts as failed, so that the
// total is always the list's. -rows chooses: "quick" (the default: those that
// pass in under five seconds), "all", "network" (what Services, DNS and pods'
// network are needed for), or a regular expression on codenames. -proxy-mode
// chooses how Services are translated meanwhile.
package conformance

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/orlop-io/orlop/integration/clustertest"
)

//go:embed rows.tsv
var list string

var (
	rowsFlag = flag.String("rows", "quick", `rows to run: "quick", "all", "network", or a regular expression on codenames`)
	modeFlag = flag.String("proxy-mode", "", `how Services are translated: "ebpf", "nftables", "iptables", "userspace"; the best that the machine can do when empty`)
)

// test is a row's subtest. Rows run beside each other but for those that are
// serial, which run first and alone.
type test struct {
	quick  bool // it passes in under five seconds
	serial bool // it changes what all others see: nodes, taints
	run    func(*testing.T, *clustertest.Cluster)
}

// beside is how many rows run at once: they wait more than they work.
const beside = "8"

// row is one line of the list.
type row struct{ area, codename, requirement string }

func parseRows(tsv string) ([]row, error) {
	var rows []row
	for i, line := range strings.Split(strings.TrimSpace(tsv), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 6 {
			return nil, fmt.Errorf("line %d has %d fields, want 6", i+1, len(f))
		}
		if i > 0 {
			rows = append(rows, row{f[0], f[1], f[2]})
		}
	}
	return rows, nil
}

var cluster *clustertest.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", beside); err != nil {
		panic(err)
	}
	var flags []string
	if *modeFlag != "" {
		flags = []string{"--proxy-mode", *modeFlag}
	}
	os.Exit(clustertest.Main(m, "conf", 2, func(c *clustertest.Cluster) { cluster = c }, flags...))
}

// short is a codename without the tags behind it, by which tests are registered.
func short(codename string) string {
	for _, tag := range []string{"[Conformance]", "[NodeConformance]", "[Serial]", "[Slow]", "[Disruptive]"} {
		codename = strings.ReplaceAll(codename, " "+tag, "")
	}
	return codename
}

func TestConformance(t *testing.T) {
	rows, err := parseRows(list)
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := chooser(*rowsFlag)
	if err != nil {
		t.Fatal(err)
	}
	refused := inMode(t, *modeFlag)
	all, known := tests(), map[string]bool{}
	var passed, failed atomic.Int64
	missing, left := 0, 0
	t.Run("rows", func(t *testing.T) {
		for _, r := range rows {
			name := short(r.codename)
			known[name] = true
			tt, ok := all[name]
			switch {
			case !ok:
				missing++
				if *rowsFlag == "all" {
					t.Run(r.codename, func(t *testing.T) { t.Error("no test is written for this row") })
				}
			case !chosen(r, tt):
				left++
			default:
				t.Run(r.codename, func(t *testing.T) {
					t.Cleanup(func() { // the last to run: what the row cleans up counts too
						if t.Failed() {
							failed.Add(1)
						} else {
							passed.Add(1)
						}
					})
					if !tt.serial {
						t.Parallel()
					}
					tt.run(t, cluster)
				})
			}
		}
	})
	for name := range all {
		if !known[name] {
			t.Errorf("a test names a row that is not in the list: %s", name)
		}
	}
	for _, r := range refused() {
		fmt.Printf("conformance: refused by the mode: %s\n", r)
	}
	fmt.Printf("conformance: %d rows: %d passed, %d failed, of these %d without a test; %d not chosen\n",
		len(rows), passed.Load(), int(failed.Load())+missing, missing, left)
}

// chooser says which rows with a test the flag asks for.
func chooser(flag string) (func(row, test) bool, error) {
	switch flag {
	case "all":
		return func(row, test) bool { return true }, nil
	case "quick":
		return func(_ row, tt test) bool { return tt.quick }, nil
	case "network":
		return func(r row, _ test) bool { return r.area == "dns" || strings.HasPrefix(r.area, "network/") }, nil
	}
	re, err := regexp.Compile(flag)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	return func(r row, _ test) bool { return re.MatchString(r.codename) }, nil
}

func TestRowsAreWhole(t *testing.T) {
	rows, err := parseRows(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 462 {
		t.Errorf("%d rows, want 462", len(rows))
	}
}
