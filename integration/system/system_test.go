// Package system tests what docs/system.md says of the whole: a subtest for
// each sentence, driven from outside against a cluster of two hosts. Sentences
// that are not built yet have no test and stand in docs/system.md as missing.
package system

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/orlop-io/orlop/integration/clustertest"
)

var cluster *clustertest.Cluster

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main(m, "sys", 2, func(c *clustertest.Cluster) { cluster = c }))
}

// sentence is one statement about the system; its test is nil while a later
// release is to bring it.
type sentence struct {
	name string
	run  func(*testing.T, *clustertest.Cluster)
}

// part is one paragraph.
type part struct {
	name      string
	sentences []sentence
}

func TestSystem(t *testing.T) {
	for _, p := range parts() {
		t.Run(p.name, func(t *testing.T) {
			for _, s := range p.sentences {
				if s.run != nil {
					t.Run(s.name, func(t *testing.T) { s.run(t, cluster) })
				}
			}
		})
	}
}

// docs/system.md must name exactly the sentences without a test.
func TestMissingSentencesAreNamed(t *testing.T) {
	content, err := os.ReadFile("../../docs/system.md")
	if err != nil {
		t.Fatal(err)
	}
	var named, missing []string
	for _, m := range regexp.MustCompile("(?m)^\\* `([^`]+)`").FindAllStringSubmatch(string(content), -1) {
		named = append(named, m[1])
	}
	for _, p := range parts() {
		for _, s := range p.sentences {
			if s.run == nil {
				missing = append(missing, p.name+"/"+s.name)
			}
		}
	}
	slices.Sort(named)
	slices.Sort(missing)
	if !slices.Equal(named, missing) {
		t.Errorf("docs/system.md names as missing\n%q\nbut without a test are\n%q", named, missing)
	}
}
