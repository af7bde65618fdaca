package main

import (
	"slices"
	"testing"
)

func TestMissingNamesEachPackageOnce(t *testing.T) {
	got := missing(needs()["up"], func(name string) bool { return name == "runc" || name == "mount" })
	if want := []string{"containerd"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := missing(needs()["up"], func(string) bool { return true }); got != nil {
		t.Errorf("a machine that has all needs %v", got)
	}
}
